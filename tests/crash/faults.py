"""What befalls the platform, a client, a build or a replica while operations are under way."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from operations import Operation
from support import Home, environment_of

SOURCES = Path(__file__).parents[2] / "src"
CRASH_AT = "_FLYTE_CRASH_AT"
# Parts of the names of points that clients pass.
CLIENT_PARTS = ("bundle", "image", "serve")


# Passed only by what the rounds do not do: `flyte local reset`, rescuing a damaged database, uploads
# that break off, builds that fail. Tests of their own are about those.
ELSEWHERE = ("reset.", "rescue.", "upload.claimed", "upload.broken", "image.given.up")


def points() -> list[str]:
    """The names of the points that rounds may pass, as the sources have them."""
    found = set()
    for path in SOURCES.rglob("*.rs"):
        found |= set(re.findall(r'crash::point\("([a-z.]+)"\)', path.read_text()))
    return sorted(name for name in found if not name.startswith(ELSEWHERE))


def is_of_replica(point: str) -> bool:
    """The platform hands the choice on, so that it is each of its replicas that ends there."""
    return point.startswith("unpack.")


def is_of_client(point: str) -> bool:
    return point.partition(".")[0] in CLIENT_PARTS or point == "start.spawned"


def send(pid: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def processes(home: Home) -> dict[int, list[str]]:
    """Every process that carries this home in its environment, with its command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and environment_of(entry.name).get("FLYTE_HOME") == str(home.path):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    found[int(entry.name)] = [word.decode(errors="replace") for word in words]
    return found


def platforms(home: Home) -> list[int]:
    # A child between `fork` and `exec` has the words of its parent; its parent is one.
    all_of_them = [pid for pid, words in processes(home).items() if "flyte._platform" in words]
    return [pid for pid in all_of_them if parent(pid) not in all_of_them]


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def descendants(pid: int) -> list[int]:
    """Children and theirs; whoever made a session of its own is one as well."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parents[int(entry.name)] = parent(int(entry.name))
    found, look = [], [pid]
    while look:
        above = look.pop()
        below = [child for child, its in parents.items() if its == above]
        found += below
        look += below
    return found


@dataclass
class Blow:
    """What was done to whom; nothing where it came too late."""

    hit: list[int]
    told: str


@dataclass
class Fault:
    """Something that befalls, and what it excuses."""

    name: str
    # While the operations run.
    strike: Callable[[Home, list[Operation], random.Random], Blow]
    # Where the process that is hit ends itself.
    platform_point: str = ""
    client_point: str = ""
    # Whether operations may fail for it; otherwise they only take longer.
    excuses: bool = True
    # Whether a replica may have been killed before it served.
    fails_replicas: bool = False

    @property
    def point(self) -> str:
        return (self.platform_point or self.client_point).partition(":")[0]


def soon(dice: random.Random, longest: float = 0.6) -> None:
    time.sleep(dice.random() ** 2 * longest)


def blow(pids: list[int], last: signal.Signals, pause: float = 0.0) -> Blow:
    """Sends the last signal to all of them; where there is a pause, they are stopped for it first."""
    if pause:
        pids = [pid for pid in pids if send(pid, signal.SIGSTOP)]
        time.sleep(pause)
    hit = [pid for pid in pids if send(pid, last)]
    return Blow(hit, f"{last.name} to {hit}" if hit else "too late")


def kill_platform(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    soon(dice)
    return blow(platforms(home), signal.SIGKILL)


def stop_and_kill_platform(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    soon(dice)
    return blow(platforms(home), signal.SIGKILL, pause=0.01 + dice.random() * 0.4)


def pause_platform(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    soon(dice)
    return blow(platforms(home), signal.SIGCONT, pause=0.2 + dice.random())


def clients(operations: list[Operation]) -> list[int]:
    running = (one.process for one in operations if one.process)
    return [process.pid for process in running if process.poll() is None]


def kill_client(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    soon(dice)
    return blow(some_one(clients(operations), dice), signal.SIGKILL)


def pause_client(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    soon(dice)
    return blow(some_one(clients(operations), dice), signal.SIGCONT, pause=0.2 + dice.random())


def kill_build(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    """An installer, or whatever else a client started; the first that is seen."""
    while pids := clients(operations):
        serving = set(platforms(home))
        for pid in [child for its in pids for child in descendants(its)]:
            if pid not in serving and parent(pid) not in serving and send(pid, signal.SIGKILL):
                return Blow([pid], f"SIGKILL to {pid}, which a client started")
        time.sleep(0.001)
    return Blow([], "nothing was built")


def some_one(pids: list[int], dice: random.Random) -> list[int]:
    return [dice.choice(pids)] if pids else []


def kill_replica(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    soon(dice)
    return blow(some_one(home.replicas(), dice), signal.SIGKILL)


def stop_and_kill_replica(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    soon(dice)
    return blow(some_one(home.replicas(), dice), signal.SIGKILL, pause=0.01 + dice.random() * 0.3)


def nothing(home: Home, operations: list[Operation], dice: random.Random) -> Blow:
    """It ends itself; whether it did is seen afterwards."""
    return Blow([], "")


RANDOM = [
    Fault("platform killed", kill_platform, fails_replicas=True),
    Fault("platform stopped, then killed", stop_and_kill_platform, fails_replicas=True),
    Fault("platform paused", pause_platform, excuses=False),
    Fault("client killed", kill_client),
    Fault("client paused", pause_client, excuses=False),
    Fault("build killed", kill_build),
    Fault("replica killed", kill_replica, fails_replicas=True),
    Fault("replica stopped, then killed", stop_and_kill_replica, fails_replicas=True),
]


def at(point: str, passing: int) -> Fault:
    """The process that passes a point for the n-th time ends there."""
    where = f"{point}:{passing}"
    if is_of_client(point):
        return Fault(f"client at {point}", nothing, client_point=where)
    return Fault(f"platform at {point}", nothing, platform_point=where, fails_replicas=True)


def choose(dice: random.Random, named: list[str]) -> Fault:
    """A fault at a moment, or at one of the named points, as often as not."""
    if dice.random() < 0.4:
        return dice.choice(RANDOM)
    return at(dice.choice(named), dice.choice([1, 1, 1, 2]))
