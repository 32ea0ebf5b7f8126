"""What a platform costs with 200 apps that are all at zero: memory, processor time, and a look at them.

The apps are served one after the other's declaration, each comes up once and goes to rest after a second.
Then the platform's process is looked at for half a minute, and `flyte get app` is timed, beside the
interpreter that it starts with. The same again after a restart of the platform, where the apps stay at zero.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import ROUNDS, Figure, Limit, finish, judged, keep, quiet, scratch_home, show

APPS = 200
SECONDS = 30
MOST_MEMORY_MIB = 80
MOST_PROCESSOR_PERCENT = 1.0
MOST_LOOK_MS = 50

DECLARATION = """
from concurrent.futures import ThreadPoolExecutor
import flyte, flyte.app

environments = [
    flyte.app.AppEnvironment(
        name=f"app-{{number}}",
        args=["python", "-m", "http.server", "8080"],
        scaling=flyte.app.Scaling(replicas=(0, 1), scaledown_after=1),
    )
    for number in range({count})
]
flyte.serve(environments[0])
with ThreadPoolExecutor(4) as pool:
    list(pool.map(flyte.serve, environments[1:]))
"""


class Platform:
    """The process of a home, and what it costs."""

    def __init__(self, home: Path) -> None:
        self.environment = quiet(FLYTE_HOME=str(home))
        self.home = home

    def flyte(self, *words: str) -> str:
        command = [str(Path(sys.executable).parent / "flyte"), *words]
        done = subprocess.run(
            command,
            env=self.environment,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return done.stdout

    def status(self) -> Any:
        return json.loads(self.flyte("local", "status", "--output", "json"))

    def await_rest(self) -> int:
        """Wait until no app has a replica; the platform's process."""
        while any(app["replicas"] for app in self.status()["apps"]):
            time.sleep(1)
        return int(self.status()["pid"])

    @staticmethod
    def memory_mib(pid: int) -> float:
        status = Path(f"/proc/{pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    @staticmethod
    def processor_seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def cost(self, when: str, seconds: float) -> bool:
        """Looks at the process once for each round; tells whether it is within its limits."""
        pid = self.await_rest()
        memory, percent = [], []
        for _ in range(ROUNDS):
            before, began = self.processor_seconds(pid), time.monotonic()
            time.sleep(seconds / ROUNDS)
            used = self.processor_seconds(pid) - before
            percent.append(100 * used / (time.monotonic() - began))
            memory.append(self.memory_mib(pid))
        title = f"{len(self.status()['apps'])} apps at zero, {when}"
        print(f"\n{title}, in {ROUNDS} windows of {seconds / ROUNDS:.0f} s")
        met = True
        for name, unit, values, most in (
            ("memory of the platform", "MiB", memory, MOST_MEMORY_MIB),
            ("processor time of the platform", "% of a core", percent, MOST_PROCESSOR_PERCENT),
        ):
            figure, limit = Figure(name, values, unit), Limit(most=most)
            print(f"{figure.row()} {unit}{judged(figure, None, limit)[1]}")
            met &= keep(title, figure, None, limit)
        return met


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def looks(platform: Platform) -> bool:
    """How long `flyte get app` takes, in turns with the bare interpreter."""
    runs: dict[str, Callable[[], object]] = {
        "python -c pass": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        "flyte get app NAME": lambda: platform.flyte("get", "app", "app-7"),
        "flyte get app": lambda: platform.flyte("get", "app"),
        "flyte get app, all of them": lambda: platform.flyte("get", "app", "--limit", str(APPS)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            taken = timed(run)
            if number:  # the first is for the caches
                seconds[name].append(taken)
    base, *others = (Figure(name, taken) for name, taken in seconds.items())
    limits = {figure.name: Limit(most=MOST_LOOK_MS) for figure in others}
    return show("A look at the apps", base, others, limits)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--apps", type=int, default=APPS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the platform is looked at")
    given = parser.parse_args()
    with scratch_home() as home:
        platform = Platform(home)
        script = home / "main.py"
        script.write_text(DECLARATION.format(count=given.apps))
        command = [sys.executable, str(script)]
        seconds = timed(
            lambda: subprocess.run(command, env=platform.environment, check=True, stdout=subprocess.DEVNULL)
        )
        print(f"{given.apps} apps served in {seconds:.0f} s")
        met = platform.cost("as they came", given.seconds)
        met &= looks(platform)
        platform.flyte("local", "stop")
        platform.flyte("local", "start")
        met &= platform.cost("after a restart", given.seconds)
    finish(met)


if __name__ == "__main__":
    main()
