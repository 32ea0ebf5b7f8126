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
# Points of the platform that are passed while it starts or ends.
CLIENT_PARTS = ("bundle", "image", "serve")


def points() -> list[str]:
    """The names of all points, as the sources have them."""
    found = set()
    for path in SOURCES.rglob("*.rs"):
        found |= set(re.findall(r'crash::point\("([a-z.]+)"\)', path.read_text()))
    return sorted(found)


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
class Fault:
    """Something that befalls, and what it excuses."""

    name: str
    # While the operations run.
    strike: Callable[[Home, list[Operation], random.Random], str]
    # Where the process that is hit ends itself.
    platform_point: str = ""
    client_point: str = ""
    # Whether operations may fail for it; otherwise they only take longer.
    excuses: bool = True
    # Whether a replica may have been killed before it served.
    fails_replicas: bool = False


def soon(dice: random.Random, longest: float = 0.6) -> None:
    time.sleep(dice.random() ** 2 * longest)


def kill_platform(home: Home, operations: list[Operation], dice: random.Random) -> str:
    soon(dice)
    return f"killed {[pid for pid in platforms(home) if send(pid, signal.SIGKILL)]}"


def stop_and_kill_platform(home: Home, operations: list[Operation], dice: random.Random) -> str:
    soon(dice)
    stopped = [pid for pid in platforms(home) if send(pid, signal.SIGSTOP)]
    time.sleep(dice.random() * 0.4)
    return f"stopped and killed {[pid for pid in stopped if send(pid, signal.SIGKILL)]}"


def pause_platform(home: Home, operations: list[Operation], dice: random.Random) -> str:
    soon(dice)
    stopped = [pid for pid in platforms(home) if send(pid, signal.SIGSTOP)]
    time.sleep(0.2 + dice.random())
    return f"paused {[pid for pid in stopped if send(pid, signal.SIGCONT)]}"


def client(operations: list[Operation], dice: random.Random) -> int:
    process = dice.choice(operations).process
    return process.pid if process and process.poll() is None else 0


def kill_client(home: Home, operations: list[Operation], dice: random.Random) -> str:
    soon(dice)
    pid = client(operations, dice)
    return f"killed client {pid}" if pid and send(pid, signal.SIGKILL) else "too late"


def pause_client(home: Home, operations: list[Operation], dice: random.Random) -> str:
    soon(dice)
    pid = client(operations, dice)
    if not pid or not send(pid, signal.SIGSTOP):
        return "too late"
    time.sleep(0.2 + dice.random())
    send(pid, signal.SIGCONT)
    return f"paused client {pid}"


def kill_build(home: Home, operations: list[Operation], dice: random.Random) -> str:
    """An installer, or whatever else a client started; the first that is seen."""
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        for operation in operations:
            process = operation.process
            if process is None or process.poll() is not None:
                continue
            serving = set(platforms(home))
            for pid in descendants(process.pid):
                if pid not in serving and parent(pid) not in serving and send(pid, signal.SIGKILL):
                    return f"killed {pid}, started by a client"
        time.sleep(0.002)
    return "nothing was built"


def kill_replica(home: Home, operations: list[Operation], dice: random.Random) -> str:
    soon(dice)
    found = home.replicas()
    if not found:
        return "no replica"
    pid = dice.choice(found)
    return f"killed replica {pid}" if send(pid, signal.SIGKILL) else "too late"


def stop_and_kill_replica(home: Home, operations: list[Operation], dice: random.Random) -> str:
    soon(dice)
    found = home.replicas()
    if not found:
        return "no replica"
    pid = dice.choice(found)
    send(pid, signal.SIGSTOP)
    time.sleep(dice.random() * 0.3)
    return f"stopped and killed replica {pid}" if send(pid, signal.SIGKILL) else "too late"


def nothing(home: Home, operations: list[Operation], dice: random.Random) -> str:
    return "ends itself"


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


def choose(dice: random.Random, named: list[str]) -> Fault:
    """A fault at a moment, or at one of the named points, as often as not."""
    if dice.random() < 0.5:
        return dice.choice(RANDOM)
    point = dice.choice(named)
    passing = dice.choice([1, 1, 1, 2])
    where = f"{point}:{passing}"
    if is_of_client(point):
        return Fault(f"client at {where}", nothing, client_point=where)
    return Fault(f"platform at {where}", nothing, platform_point=where, fails_replicas=True)
