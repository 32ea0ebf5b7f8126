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
from typing import NoReturn

import peers

# How often each figure is taken; fewer only to see that a bench works.
ROUNDS = int(os.environ.get("FLYTE_BENCH_ROUNDS", "5"))

# Where the suite (`benches/suite.py`) wants every figure, a line of JSON each.
KEPT = "FLYTE_BENCH_FIGURES"

# How a bench ends that ran through and whose figures miss a limit; anything else but 0 is a failure.
MISSED = 4


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
    """What a figure may be: so many `times` its peer's, so much `more`, `least` so many times; `most` at all.

    All that are given have to hold.
    """

    def __init__(
        self,
        times: float | None = None,
        more: float | None = None,
        least: float | None = None,
        most: float | None = None,
    ) -> None:
        self.times, self.more, self.least, self.most = times, more, least, most

    def __str__(self) -> str:
        told = {
            "<= {:.3g}x": self.times,
            ">= {:.3g}x": self.least,
            "<= {:g} more": self.more,
            "<= {:g}": self.most,
        }
        return ", ".join(form.format(value) for form, value in told.items() if value is not None)

    def met(self, own: float, peer: float | None = None) -> bool:
        """Whether a median is within it; only `most` can be told without a peer's."""
        beside = [self.times, self.more, self.least]
        if peer is None and any(value is not None for value in beside):
            raise ValueError("this limit is about a peer")
        other = peer or 0.0
        return (
            (self.times is None or own <= self.times * other)
            and (self.least is None or own >= self.least * other)
            and (self.more is None or own - other <= self.more)
            and (self.most is None or own <= self.most)
        )


def rounds(name: str, once: Callable[[], float]) -> Figure:
    """Run `once` a first time for the caches, then as often as counts; it returns seconds."""
    once()
    return Figure(name, [once() for _ in range(ROUNDS)])


def in_turns(ways: dict[str, Callable[[], float]]) -> list[Figure]:
    """The same for several ways, one after the other in each round: what else happens falls on all."""
    values: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, once in ways.items():
            took = once()
            if number:
                values[name].append(took)
    return [Figure(name, seconds) for name, seconds in values.items()]


def show(title: str, base: Figure, others: list[Figure], limits: dict[str, Limit] | None = None) -> bool:
    """Print all figures, how the others stand to the first, and whether limits (by name) are kept.

    Tells whether all are.
    """
    limits = limits or {}
    print(f"\n{title}\n{base.unit:<58}{'median':>9}{'min':>9}{'max':>9}{'n':>4}")
    for figure in (base, *others):
        print(figure.row())
    kept, told = judged(base, None, limits.get(base.name))
    if told or others:
        print(f"\n{'compared with: ' + base.name:<58}{'more by':>9}{'ratio':>9}{told}")
    keep(title, base, None, limits.get(base.name))
    for figure in others:
        met, told = judged(figure, base, limits.get(figure.name))
        kept &= met
        ratio = figure.median / base.median
        print(f"{figure.name:<58}{figure.median - base.median:>9.1f}{ratio:>8.2f}x{told}")
        keep(title, figure, base, limits.get(figure.name))
    sys.stdout.flush()
    return kept


def judged(figure: Figure, peer: Figure | None, limit: Limit | None) -> tuple[bool, str]:
    """Whether a figure is within its limit, and how that is told."""
    if limit is None:
        return True, ""
    met = limit.met(figure.median, peer and peer.median)
    return met, f"  {limit}: {'met' if met else 'MISSED'}"


def keep(title: str, figure: Figure, peer: Figure | None, limit: Limit | None) -> bool:
    """Hand a figure to the suite, if that is what runs this bench. Tells whether the limit is kept."""
    met = limit is None or limit.met(figure.median, peer and peer.median)
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
        if limit:
            line |= {"limit": str(limit), "met": met, "higher": limit.least is not None}
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")
    return met


def finish(met: bool) -> NoReturn:
    """End a bench that ran through; tells whether all limits are kept."""
    sys.exit(0 if met else MISSED)


def quiet(**more: str) -> dict[str, str]:
    """The environment without settings of flyte and of Python, and with `more`.

    Where Python may not keep what it compiled, whoever was installed by `pip` has it all the same, and
    a comparison is of installers.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        if "FLYTE" not in name and not name.startswith("PYTHON")
    }
    return {**own, **more}


def peer_python() -> Path:
    """The interpreter of the environment that has the PyPI SDK, which is made if need be."""
    given = os.environ.get("FLYTE_PYPI_VENV")
    return Path(given) / "bin" / "python" if given else peers.environment("sdk")


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
