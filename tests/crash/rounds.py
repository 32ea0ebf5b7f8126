"""The rounds, and what has to hold after each of them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import CRASH_AT, Blow, Fault, choose, is_of_replica, parent, platforms, points, processes, send
from model import ABSENT, Belief, State, is_active, is_as_it_was
from operations import App, Keeper, Operation
from support import Home, get, is_alive, refuses, until

# How long an operation may take, faults included, and how long a platform to come to rest.
PATIENCE_SECONDS = 90.0
REST_SECONDS = 30.0
# How often everything unused is thrown away.
PRUNED_EVERY = 10
TEMPORARY = (".flyte-", ".fserve-", ".tmp", ".begun-", ".part", "trash")
# What a platform may say to a rollback, or to one of two that serve the same app at once.
REFUSALS = ("that came up", "was replaced by a newer one before it served")
SETTLED = ("ACTIVE", "STOPPED", "FAILED")


@dataclass
class Report:
    """What a round did."""

    number: int
    fault: str
    struck: str = ""
    told: list[str] = field(default_factory=list)
    seconds: float = 0.0
    violations: int = 0

    def line(self) -> str:
        bad = f"  {self.violations} VIOLATIONS" if self.violations else ""
        return f"{self.number:>4} {self.seconds:5.1f} s  {self.fault}: {self.struck}; {', '.join(self.told)}{bad}"


class World:
    """A home, what lives in it, and what is believed of that."""

    def __init__(self, scratch: Path, dice: random.Random) -> None:
        self.scratch, self.dice = scratch, dice
        (scratch / "home").mkdir()
        self.home = Home(scratch / "home")
        self.apps = [App(f"crash-{name}", scratch / f"crash-{name}") for name in ("a", "b", "c")]
        self.keepers = [Keeper("crash-secret", scratch)]
        # Temporary files of clients, where they can be counted.
        self.temporary = scratch / "tmp"
        self.temporary.mkdir()
        self.points = points()
        self.passed = dict.fromkeys(self.points, 0)
        self.violations: list[str] = []
        self.asked = self.acknowledged = self.broken = 0
        self._number = 0

    def violated(self, what: str) -> None:
        self.violations.append(f"round {self._number}: {what}")
        print(f"     VIOLATION {what}", flush=True)

    def round(self, number: int) -> Report:
        self._number = number
        began, before = time.monotonic(), len(self.violations)
        fault = choose(self.dice, self.points)
        report = Report(number, fault.name)
        operations = self.chosen(fault)
        # What does not run when the fault befalls would be another fault.
        self.home.flyte("local", "start")
        if number % PRUNED_EVERY == 0 or fault.point.startswith("prune"):
            self.age()
            operations.append(self.pruning())
        if fault.platform_point or fault.client_point.startswith("start"):
            self.home.flyte("local", "stop")
        if fault.platform_point:
            # It may end as it starts, or as it ends.
            self.home.flyte("local", "start", **{CRASH_AT: fault.platform_point})
            if fault.point.startswith("end"):
                self.home.flyte("local", "stop")
        armed = set(platforms(self.home))
        blow = self.carry_out(operations, fault)
        if fault.point:
            blow.told = "ended itself" if self.ended_itself(operations, fault, armed) else "not passed"
            self.passed[fault.point] += blow.told == "ended itself"
        report.struck = blow.told
        self.check_orphans()
        for operation in operations:
            self.judge(operation, fault, befell=bool(blow.hit) or blow.told == "ended itself")
        for belief in {id(one.about): one.about for one in operations}.values():
            self.believe(belief, [one for one in operations if one.about is belief], fault)
        for operation in operations:
            report.told.append(f"{operation.words[0]} {operation.about.name} {operation.code}")
        self.disarm(fault)
        self.recover()
        self.check()
        report.seconds = time.monotonic() - began
        report.violations = len(self.violations) - before
        return report

    def ended_itself(self, operations: list[Operation], fault: Fault, armed: set[int]) -> bool:
        if fault.client_point:
            return any(operation.code == -signal.SIGKILL for operation in operations)
        if is_of_replica(fault.point):
            return any("signal 9" in operation.output for operation in operations)
        # One that ended as it started or ended was never seen running.
        return not armed or not armed & set(platforms(self.home))

    def chosen(self, fault: Fault) -> list[Operation]:
        """One to three operations, each on something else; one of them leads past the fault's point."""
        things: list[App | Keeper] = [*self.apps, *self.apps, *self.keepers]
        operations = []
        if fault.point:
            self.dice.shuffle(self.apps)
            for app in self.apps:
                if operation := app.passing(fault.point, self.dice):
                    operations.append(operation)
                    break
        if fault.point.startswith("secret"):
            operations.append(self.keepers[0].keep())
        taken = [operation.about for operation in operations]
        for _ in range(self.dice.choice([1, 1, 2, 3]) - len(operations)):
            thing = self.dice.choice(things)
            if thing.belief not in taken:
                taken.append(thing.belief)
                operations.append(thing.any(self.dice))
                if isinstance(thing, App) and operations[-1].words == ("serve", "app.py"):
                    operations += [thing.serve_beside(self.dice)] if self.dice.random() < 0.2 else []
        return operations

    def pruning(self) -> Operation:
        return Operation(Belief("prune"), is_as_it_was, ("local", "prune", "--all"), self.scratch)

    def carry_out(self, operations: list[Operation], fault: Fault) -> Blow:
        variables = {"TMPDIR": str(self.temporary)}
        if fault.client_point:
            variables[CRASH_AT] = fault.client_point
        threads = [
            threading.Thread(target=one.run, args=(self.home, PATIENCE_SECONDS), kwargs=variables)
            for one in operations
        ]
        for thread in threads:
            thread.start()
        for operation in operations:
            operation.started.wait()
        blow = fault.strike(self.home, operations, self.dice)
        for thread in threads:
            thread.join()
        return blow

    def judge(self, operation: Operation, fault: Fault, befell: bool) -> None:
        """Whether a command may have ended as it did."""
        self.asked += 1
        self.acknowledged += operation.code == 0
        self.broken += operation.code != 0
        told = f"{operation.told()} after {fault.name}:\n{operation.output}"
        if operation.code is None:
            self.violated(f"did not end within {PATIENCE_SECONDS} s: {told}")
        elif operation.code == 0 or any(words in operation.output for words in REFUSALS):
            return
        elif not (fault.excuses and befell):
            self.violated(f"failed without a reason: {told}")
        elif operation.code not in (1, -signal.SIGKILL) or "Traceback" in operation.output:
            self.violated(f"an error that is none of a user's: {told}")

    def believe(self, belief: Belief, operations: list[Operation], fault: Fault) -> None:
        """What is to be believed of a thing after all that was done to it at once."""
        done = [one.effect for one in operations if one.code == 0]
        undone = [one.effect for one in operations if one.code != 0]
        if done:
            belief.happened(done)
        if undone:
            belief.may_have_happened(undone)
            if fault.fails_replicas:
                # What cannot come up makes way for what served before, also where that was at rest.
                belief.may_have_happened([is_active(True)])
                belief.may_have_failed()

    def check_orphans(self) -> None:
        """The kernel ends replicas with their platform; nobody else has to."""
        for pid in processes(self.home):
            send(pid, signal.SIGCONT)

        def orphans() -> list[int]:
            owners = platforms(self.home)
            return [pid for pid in self.home.replicas() if is_alive(pid) and not below(pid, owners)]

        with contextlib.suppress(AssertionError):
            until(lambda: not orphans(), 15)
            return
        self.violated(f"replicas outlive their platform: {orphans()}")

    def disarm(self, fault: Fault) -> None:
        """Nobody shall end at the point of this round in one that follows, because nobody passed it here."""
        if fault.platform_point:
            self.home.flyte("local", "stop")

    def recover(self) -> None:
        for pid in processes(self.home):
            send(pid, signal.SIGCONT)
        done = self.home.flyte("local", "start")
        if done.returncode:
            self.violated(f"the platform does not start: {done.stdout}{done.stderr}")

    # What has to hold.

    def check(self) -> None:
        status = self.at_rest()
        if status is None:
            return
        entries = {entry["name"]: entry for entry in status["apps"]}
        for app in self.apps:
            self.check_app(app, entries.pop(app.belief.name, None))
        if entries:
            self.violated(f"apps that nobody served: {list(entries)}")
        names = {secret["name"] for secret in self.home.json("get", "secret")}
        for keeper in self.keepers:
            self.look(keeper.belief, State(keeper.belief.name in names, keeper.belief.name in names))
        self.check_processes()
        self.check_locks()
        self.check_database()
        self.check_log(self.dice.choice(self.apps))
        self.check_bundles()

    def at_rest(self) -> Any:
        """What `local status` says when nothing is on its way any more."""

        def rested() -> Any:
            status = self.home.status()
            moving = [app for app in status["apps"] if app["status"] not in SETTLED]
            return None if moving else status

        try:
            return until(rested, REST_SECONDS)
        except AssertionError:
            self.violated(f"does not come to rest: {self.home.status()['apps']}")
            return None

    def look(self, belief: Belief, seen: State) -> None:
        """Compares what is seen with what may be."""
        if seen.exists and not seen.active:
            fitting = {one for one in belief.possible if one.exists and not one.active}
        elif seen.failed:
            fitting = {one for one in belief.possible if one.failed}
        else:
            bare = State(seen.exists, seen.active, seen.word)
            fitting = {bare} if any(self.bare(one) == bare for one in belief.possible) else set()
        if not fitting:
            told = "\n  or ".join(map(str, belief.possible))
            self.violated(f"`{belief.name}` is {seen}, and should be {told}")
            fitting = {seen}
        belief.settled(next(iter(fitting)))
        if len(fitting) > 1:
            belief.possible = {State(one.exists, one.active, one.word) for one in fitting}

    @staticmethod
    def bare(state: State) -> State:
        return State(state.exists, state.active, state.word)

    def check_app(self, app: App, entry: dict[str, Any] | None) -> None:
        belief = app.belief
        endpoint = belief.endpoint
        if entry is None:
            self.look(belief, ABSENT)
            app.words, app.lines = set(), set()
            if endpoint and not refuses(endpoint):
                self.violated(f"`{belief.name}` is gone, and {endpoint} still answers")
            return
        if entry["revision"] < 1:
            self.violated(f"half of an app: {entry}")
        if endpoint and entry["endpoint"] != endpoint and not self.may_be_new(belief):
            self.violated(f"`{belief.name}` moved from {endpoint} to {entry['endpoint']}")
        if entry["status"] == "STOPPED":
            self.look(belief, State(exists=True))
        elif entry["status"] == "FAILED":
            self.look(belief, State(exists=True, active=True, failed=True))
            self.heal(app)
        else:
            self.look(belief, State(True, True, self.answer(entry["endpoint"])))
        belief.endpoint = entry["endpoint"]

    @staticmethod
    def may_be_new(belief: Belief) -> bool:
        return ABSENT in belief.possible

    def answer(self, endpoint: str) -> str:
        """What the app says; it may have crashed with its platform and be on its way back."""
        try:
            status, body = get(endpoint, timeout=REST_SECONDS)
        except OSError as error:
            return f"no answer: {error}"
        return body if status == 200 else f"status {status}: {body}"

    def heal(self, app: App) -> None:
        """Nothing served before, so the user has to ask again; that has to do."""
        app.write()
        again = app.served(app.value, "serve", "app.py")
        again.run(self.home, PATIENCE_SECONDS)
        if again.code:
            self.violated(f"cannot be served again: {again.told()}\n{again.output}")
            return
        app.belief.settled(State(True, True, app.word))

    def check_processes(self) -> None:
        def strays() -> list[str]:
            running = processes(self.home)
            owners = platforms(self.home)
            replicas = {replica["pid"] for app in self.home.status()["apps"] for replica in app["replicas"]}
            allowed = {*owners, *replicas}
            found = []
            for pid, words in running.items():
                # Modules of a new environment are compiled in the background.
                if not below(pid, allowed) and "compileall" not in words:
                    found.append(f"{pid}: {' '.join(words)}")
            if len(owners) != 1:
                found.append(f"platforms: {owners}")
            return found

        with contextlib.suppress(AssertionError):
            until(lambda: not strays(), 15)
            return
        self.violated(f"stray processes: {strays()}")

    def check_locks(self) -> None:
        def held() -> list[str]:
            return [
                str(path) for path in entries(self.home.path) if path.suffix == ".lock" and is_locked(path)
            ]

        with contextlib.suppress(AssertionError):
            until(lambda: len(held()) <= 1, 15)
            return
        self.violated(f"locks are held: {held()}")

    def check_database(self) -> None:
        file = self.home.path / "platform.db"
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            (told,) = database.execute("PRAGMA integrity_check").fetchone()
            orphans = database.execute(
                "SELECT count(*) FROM revisions WHERE key NOT IN (SELECT key FROM apps)"
            ).fetchone()[0]
            bare = database.execute(
                "SELECT count(*) FROM apps WHERE latest NOT IN "
                "(SELECT revision FROM revisions WHERE revisions.key = apps.key)"
            ).fetchone()[0]
        if told != "ok" or orphans or bare:
            self.violated(f"the database: {told}, {orphans} orphans, {bare} apps without a revision")

    def check_log(self, app: App) -> None:
        """An app's log begins with the app: what one of the same name wrote before is not its own."""
        if not app.state.exists:
            return
        done = self.home.flyte("get", "logs", app.belief.name)
        foreign = {line for line in done.stdout.splitlines() if line.startswith("serving ")} - app.lines
        if done.returncode or foreign:
            self.violated(f"the log of `{app.belief.name}`: {done.stderr} {foreign}")

    def check_bundles(self) -> None:
        """What was sent lies whole at a place that is named by it."""
        for path in entries(self.home.path / "uploads"):
            if path.is_file() and not path.name.startswith("."):
                digest = hashlib.md5(path.read_bytes()).hexdigest()
                if digest != path.parent.name:
                    self.violated(f"{path} holds {digest}")

    # What is left at the end.

    def age(self) -> None:
        """As if nobody had touched anything for half a day; what lately was touched is never removed."""
        then = time.time() - 12 * 3600
        for folder in ("uploads", "envs", "cache", "apps", "trash"):
            for path in entries(self.home.path / folder):
                with contextlib.suppress(OSError):
                    os.utime(path, (then, then), follow_symlinks=False)

    def end(self) -> None:
        """Delete everything; then, after a while without work, nothing may be left of what was broken off."""
        for app in self.apps:
            self.home.flyte("delete", "app", app.belief.name)
            app.belief.settled(ABSENT)
        self.home.flyte("local", "stop")
        self.age()
        self.home.flyte("local", "start")
        done = self.home.flyte("local", "prune", "--all")
        if done.returncode:
            self.violated(f"prune: {done.stderr}")
        left = [str(path) for path in entries(self.home.path) if path.name.startswith(TEMPORARY)]
        aside = [str(path) for path in entries(self.home.path) if path.suffix in (".old", ".deleted", ".tmp")]
        aside = [path for path in aside if "/site-packages/" not in path]
        left += [str(path) for path in entries(self.temporary)]
        if left or aside:
            self.violated(f"temporary files: {left + aside}")
        halves = [
            path for path in (self.home.path / "envs").iterdir() if path.is_dir() and not is_whole(path)
        ]
        if halves:
            self.violated(f"half environments: {halves}")
        if bundles := [str(path) for path in entries(self.home.path / "uploads") if path.is_file()]:
            self.violated(f"bundles that no app uses: {bundles}")
        if runs := [str(path) for path in entries(self.home.path / "apps") if path.is_file()]:
            self.violated(f"run folders of no app: {runs}")

    def close(self) -> None:
        for pid in processes(self.home):
            send(pid, signal.SIGCONT)
        try:
            self.home.end()
        except AssertionError as error:
            self.violated(f"at the end: {error}")


def entries(folder: Path) -> Iterator[Path]:
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(above) / name


def is_whole(environment: Path) -> bool:
    return (environment / "flyte-env.json").exists()


def below(pid: int, owners: Collection[int]) -> bool:
    """Whether a process is one of these, or was started by one of them or theirs."""
    while pid > 1 and pid not in owners:
        pid = parent(pid)
    return pid > 1


def is_locked(path: Path) -> bool:
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
