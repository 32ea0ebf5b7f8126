"""What the benches share: a scratch platform, rounds, and a table of what they took."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROUNDS = 9
PEERS = Path(__file__).parent / ".peers"
PEER_VERSION = "2.12.1"


class Figure:
    """What one thing took in each round, in milliseconds."""

    def __init__(self, name: str, seconds: list[float]) -> None:
        self.name = name
        self.values = sorted(1000 * value for value in seconds)
        self.median = statistics.median(self.values)

    def row(self) -> str:
        low, high = self.values[0], self.values[-1]
        return f"{self.name:<58}{self.median:>9.1f}{low:>9.1f}{high:>9.1f}{len(self.values):>4}"


def rounds(name: str, once: Callable[[], float]) -> Figure:
    """Run `once` a first time for the caches, then as often as counts; it returns seconds."""
    once()
    return Figure(name, [once() for _ in range(ROUNDS)])


def show(title: str, base: Figure, others: list[Figure]) -> None:
    """Print all figures, and how the others stand to the first."""
    print(f"\n{title}\n{'milliseconds':<58}{'median':>9}{'min':>9}{'max':>9}{'n':>4}")
    for figure in (base, *others):
        print(figure.row())
    print(f"\n{'compared with: ' + base.name:<58}{'more by':>9}{'ratio':>9}")
    for figure in others:
        print(f"{figure.name:<58}{figure.median - base.median:>9.1f}{figure.median / base.median:>8.2f}x")
    sys.stdout.flush()


def quiet(**more: str) -> dict[str, str]:
    """The environment without settings of flyte, and with `more`."""
    own = {name: value for name, value in os.environ.items() if "FLYTE" not in name}
    return {**own, **more}


def peer_python() -> Path:
    """The interpreter of the environment that has the PyPI SDK, which is made if need be."""
    given = os.environ.get("FLYTE_PYPI_VENV")
    venv = Path(given) if given else PEERS / f"flyte-{PEER_VERSION}"
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"making {venv} for the PyPI SDK", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", f"flyte=={PEER_VERSION}"]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return python


@contextmanager
def scratch_home() -> Iterator[Path]:
    """A home of its own for the platform, which is stopped in the end."""
    # Not below a long path: the name of a Unix socket has to fit into 108 bytes.
    with tempfile.TemporaryDirectory(prefix="flyte-bench-", dir="/tmp") as folder:
        home = Path(folder)
        try:
            yield home
        finally:
            stop = [sys.executable, "-m", "flyte._cli", "local", "stop"]
            subprocess.run(stop, env=quiet(FLYTE_HOME=folder), check=False, capture_output=True)
