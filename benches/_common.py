"""What the benches share: a scratch platform, rounds, and a table of what they took."""

from __future__ import annotations

import json
import os
import socket
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


# Where the suite (`benches/suite.py`) wants every figure, a line of JSON each.
KEPT = "FLYTE_BENCH_FIGURES"


class Figure:
    """What one thing took in each round, in milliseconds; or another `unit`, which is not scaled."""

    def __init__(self, name: str, values: list[float], unit: str = "ms") -> None:
        self.name, self.unit = name, unit
        self.values = sorted(1000 * value for value in values) if unit == "ms" else sorted(values)
        self.median = statistics.median(self.values)

    def row(self) -> str:
        low, high = self.values[0], self.values[-1]
        return f"{self.name:<58}{self.median:>9.1f}{low:>9.1f}{high:>9.1f}{len(self.values):>4}"


class Limit:
    """What a figure may be beside its peer's: so many `times` it, so much `more`, `least` so many times."""

    def __init__(
        self, times: float | None = None, more: float | None = None, least: float | None = None
    ) -> None:
        self.times, self.more, self.least = times, more, least

    def __str__(self) -> str:
        if self.times is not None:
            return f"<= {self.times:.3g}x"
        return f">= {self.least:.3g}x" if self.least is not None else f"<= {self.more:.0f} more"

    def met(self, own: float, peer: float) -> bool:
        if self.times is not None:
            return own <= self.times * peer
        return own >= self.least * peer if self.least is not None else own - peer <= (self.more or 0)


def rounds(name: str, once: Callable[[], float]) -> Figure:
    """Run `once` a first time for the caches, then as often as counts; it returns seconds."""
    once()
    return Figure(name, [once() for _ in range(ROUNDS)])


def show(title: str, base: Figure, others: list[Figure], limits: dict[str, Limit] | None = None) -> bool:
    """Print all figures, how the others stand to the first, and whether limits (by name) are kept.

    Tells whether all are.
    """
    print(f"\n{title}\n{base.unit:<58}{'median':>9}{'min':>9}{'max':>9}{'n':>4}")
    for figure in (base, *others):
        print(figure.row())
    print(f"\n{'compared with: ' + base.name:<58}{'more by':>9}{'ratio':>9}")
    keep(title, base, None, None)
    kept = True
    for figure in others:
        limit = (limits or {}).get(figure.name)
        met = limit is None or limit.met(figure.median, base.median)
        kept &= met
        told = "" if limit is None else f"  {limit}: {'met' if met else 'MISSED'}"
        ratio = figure.median / base.median
        print(f"{figure.name:<58}{figure.median - base.median:>9.1f}{ratio:>8.2f}x{told}")
        keep(title, figure, base, limit)
    sys.stdout.flush()
    return kept


def keep(title: str, figure: Figure, peer: Figure | None, limit: Limit | None) -> None:
    """Hand a figure to the suite, if that is what runs this bench."""
    if path := os.environ.get(KEPT):
        line: dict[str, object] = {
            "bench": Path(sys.argv[0]).stem,
            "what": title,
            "name": figure.name,
            "unit": figure.unit,
            "values": figure.values,
            "median": figure.median,
        }
        if peer:
            line |= {"peer": peer.name, "peer_median": peer.median, "ratio": figure.median / peer.median}
        if peer and limit:
            line |= {"limit": str(limit), "met": limit.met(figure.median, peer.median)}
            line |= {"higher": limit.least is not None}
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")


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


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
