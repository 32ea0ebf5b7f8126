"""Hours of the life of a platform, watched: does anything that it holds grow?

Apps are served again with other values, with other code and with nothing changed; deleted and made
anew; scaled to zero and woken; their processes are killed; their logs, states and pages are read by
clients that come, go and break off. Meanwhile requests go through the gateway, short ones and an
event stream. All the while the platform's memory, descriptors, threads and children are looked at,
and every minute its database and its folder. A sample is the least that was held within a minute:
what goes up and down in it is use, and the platform gives memory back once in that time; single looks
would meet that earlier or later, and show the difference as growth.

Before that, apps are served so often that there are as many revisions as are kept; the first quarter
of the time is for caches to fill. Over the rest a line is fitted through each figure; what it rises
by in an hour is printed with the uncertainty of the fit. A figure grows if that is above zero beyond
doubt (95 %) and more than 1 % of its mean. The home is tidied by `flyte local prune` all the while;
what it leaves of bundles that were used a moment ago is shown, not judged, and so is what apps log
of requests, up to 24 MB each.

Exit code 1 if a figure grows, or if an operation fails that had no reason to: a request may while the
replica that answers it is being killed, and nothing else.

    python benches/soak.py --hours 2
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from _common import quiet, scratch_home

SAMPLE_SECONDS = 60
LOOK_SECONDS = 1
WARM_SHARE = 0.25
# As many as the platform keeps of an app: `REVISIONS_KEPT` of src/local/store.
REVISIONS = 100
GROWS_ABOVE = 0.01
# What is resident of the program's own file is no more than the file, and the kernel's to drop.
NOT_JUDGED = ("home MB", "files of home", "with files kB")
# Whoever asks an app whose replicas are killed may be the one who was being answered.
MAY_BE_CUT = ("asked", "streamed")
CUT_SECONDS = 2.0

SERVER = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# {code}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/events":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            while True:
                self.wfile.write(b"data: tick\\n\\n")
                time.sleep(0.5)
        body = os.environ.get("WORD", "").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""

# What `soak-code` runs; the others run code that stays.
CHANGING = "changing.py"
APPS = ("soak-values", "soak-code", "soak-same", "soak-zero")


# Beside the server's files, since `include` starts from the file that declares an app.
DECLARATION = """
import flyte.app

def declare(name, word, file):
    scaling = flyte.app.Scaling(replicas=(0, 2) if name.endswith("zero") else 1, scaledown_after=5)
    return flyte.app.AppEnvironment(
        name=name, args=["python", file], include=[file],
        env_vars={"WORD": word}, scaling=scaling,
    )
"""


class Life:
    """What is done, how often, and what went wrong."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "project"
        self.done: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.killed_at = 0.0
        self.errors: list[str] = []
        self.ports: dict[str, int] = {}
        self.end = threading.Event()
        self.lock = threading.Lock()
        self.dice = random.Random(1)

    def counted(self, name: str, once: Callable[[], None]) -> None:
        try:
            once()
        except Exception as error:
            cut = name in MAY_BE_CUT and time.monotonic() - self.killed_at < CUT_SECONDS
            with self.lock:
                counts = self.cut if cut else self.failed
                counts[name] = counts.get(name, 0) + 1
                if not cut and len(self.errors) < 20:
                    self.errors.append(f"{name}: {type(error).__name__}: {error}"[:300])
        with self.lock:
            self.done[name] = self.done.get(name, 0) + 1

    def every(self, seconds: float, name: str, once: Callable[[], None]) -> threading.Thread:
        """Does it again and again in a thread of its own."""

        def run() -> None:
            while not self.end.wait(seconds):
                self.counted(name, once)

        thread = threading.Thread(target=run, daemon=True, name=name)
        thread.start()
        return thread

    def serve(self, name: str, word: str) -> None:
        import declaration  # type: ignore[import-not-found]

        import flyte

        file = CHANGING if name == "soak-code" else "server.py"
        app = flyte.serve(declaration.declare(name, word, file))
        self.ports[name] = int(app.endpoint.rpartition(":")[2])

    def values(self) -> None:
        self.serve("soak-values", str(self.dice.random()))

    def code(self) -> None:
        (self.folder / CHANGING).write_text(SERVER.replace("{code}", str(self.dice.random())))
        self.serve("soak-code", "code")

    def same(self) -> None:
        self.serve("soak-same", "same")

    def renewed(self) -> None:
        import flyte.remote

        self.serve("soak-renewed", "renewed")
        flyte.remote.App.get("soak-renewed").delete()

    def asked(self) -> None:
        for name in ("soak-values", "soak-same", "soak-code"):
            self.ask(name, "/")

    def woken(self) -> None:
        self.ask("soak-zero", "/")

    def ask(self, name: str, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[name], timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, f"{name} answers {answer.status}"
        finally:
            connection.close()

    def streamed(self) -> None:
        """Reads some events and breaks off."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["soak-same"], timeout=30)
        try:
            connection.request("GET", "/events")
            answer = connection.getresponse()
            for _ in range(6):
                assert answer.readline(), "the stream ended"
        finally:
            connection.close()

    def killed(self) -> None:
        """One replica, as the kernel would do it."""
        marks = {b"_FLYTE_APP_NAME=soak-same", f"FLYTE_HOME={self.home}".encode()}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    variables = (folder / "environ").read_bytes().split(b"\0")
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    if marks.issubset(variables) and b"server.py" in words:
                        self.killed_at = time.monotonic()
                        os.kill(int(folder.name), signal.SIGKILL)

    def read(self) -> None:
        """What people and scripts look at."""
        flyte = [sys.executable, "-m", "flyte._cli"]
        for words in (["get", "app", "--output", "json"], ["get", "logs", "soak-same"]):
            subprocess.run([*flyte, *words], env=os.environ, check=True, capture_output=True)

    def pruned(self) -> None:
        """What a person does to get room again, and what the platform does by itself now and then."""
        words = [sys.executable, "-m", "flyte._cli", "local", "prune", "--all"]
        subprocess.run(words, env=os.environ, check=True, capture_output=True)

    def followed(self) -> None:
        """Follows logs and is killed."""
        words = [sys.executable, "-m", "flyte._cli", "get", "logs", "soak-values", "--follow"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.end.wait(3)
        process.kill()
        process.wait()


def platform(home: Path) -> int:
    command = [sys.executable, "-m", "flyte._cli", "local", "status", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["pid"])


def sample(home: Path, pid: int, seconds: float) -> dict[str, float]:
    """The least that the process holds within that time, and what lies on the disk after it."""
    looks, end = [held(pid)], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(LOOK_SECONDS, left))
        looks.append(held(pid))
    return {name: min(look[name] for look in looks) for name in looks[0]} | kept(home)


def held(pid: int) -> dict[str, float]:
    """What a process holds."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    children = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end meanwhile.
        with contextlib.suppress(OSError):
            children += len((task / "children").read_text().split())
    return {
        "memory kB": float(status["RssAnon"].split()[0]),
        "with files kB": float(status["VmRSS"].split()[0]),
        "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),
        "threads": float(status["Threads"]),
        "children": float(children),
    }


def kept(home: Path) -> dict[str, float]:
    """What a home holds."""
    files, size = 0, 0
    for folder, _, names in os.walk(home):
        for name in names:
            with contextlib.suppress(OSError):
                files, size = files + 1, size + os.lstat(os.path.join(folder, name)).st_blocks * 512
    database = sum(path.stat().st_size for path in home.glob("platform.db*")) or sum(
        path.stat().st_size for path in home.rglob("*.db*")
    )
    return {"database kB": database / 1024, "home MB": size / 1e6, "files of home": float(files)}


def slope(hours: list[float], values: list[float]) -> tuple[float, float]:
    """What a figure rises by in an hour, and half the width of its 95 % interval."""
    n, middle = len(values), statistics.fmean(hours)
    spread = sum((hour - middle) ** 2 for hour in hours)
    rise, start = statistics.linear_regression(hours, values)
    rest = sum((value - start - rise * hour) ** 2 for hour, value in zip(hours, values, strict=True))
    return rise, 1.98 * (rest / (n - 2) / spread) ** 0.5


def report(samples: list[dict[str, float]]) -> bool:
    """Prints the table; true if nothing grows."""
    print(f"\n{'hour':>6}" + "".join(f"{name:>15}" for name in samples[0] if name != "hour"))
    last = samples[-1]["hour"]
    for mark in [0.0, *(quarter / 2 for quarter in range(1, int(2 * last) + 1)), last]:
        sample = min(samples, key=lambda one: abs(one["hour"] - mark))
        print(
            f"{sample['hour']:>6.2f}"
            + "".join(f"{value:>15.1f}" for name, value in sample.items() if name != "hour")
        )
    late = [sample for sample in samples if sample["hour"] >= WARM_SHARE * last]
    hours = [sample["hour"] for sample in late]
    print(f"\n{'':<16}{'mean':>12}{'per hour':>12}{'+-':>10}   over the last {hours[-1] - hours[0]:.2f} h")
    good = True
    for name in samples[0]:
        if name == "hour":
            continue
        values = [sample[name] for sample in late]
        rise, doubt = slope(hours, values)
        mean = statistics.fmean(values)
        grows = rise > doubt and rise > GROWS_ABOVE * mean
        good &= not grows or name in NOT_JUDGED
        print(f"{name:<16}{mean:>12.1f}{rise:>12.2f}{doubt:>10.2f}   {'GROWS' if grows else 'steady'}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--samples", type=Path, help="file for every sample, a JSON line each")
    asked = parser.parse_args()
    with scratch_home() as home:
        os.environ.clear()
        os.environ.update(quiet(FLYTE_HOME=str(home), PATH=os.defpath, HOME=str(home)))
        life = Life(home)
        life.folder.mkdir()
        for file in ("server.py", CHANGING):
            (life.folder / file).write_text(SERVER)
        (life.folder / "declaration.py").write_text(DECLARATION)
        sys.path.insert(0, str(life.folder))
        os.chdir(life.folder)
        for name in APPS:
            life.serve(name, "first")
        for _ in range(REVISIONS):
            life.values()
            life.code()
        pid = platform(home)
        for seconds, name in [(15, "values"), (20, "code"), (10, "same"), (30, "renewed")]:
            life.every(seconds, name, getattr(life, name))
        for seconds, name in [(0.05, "asked"), (12, "woken"), (7, "streamed"), (45, "killed")]:
            life.every(seconds, name, getattr(life, name))
        for seconds, name in [(20, "read"), (17, "followed"), (60, "pruned")]:
            life.every(seconds, name, getattr(life, name))
        samples: list[dict[str, float]] = []
        started = time.monotonic()
        while (hour := (time.monotonic() - started) / 3600) < asked.hours:
            samples.append({"hour": hour, **sample(home, pid, min(SAMPLE_SECONDS, asked.hours * 3600 / 20))})
            if asked.samples:
                with asked.samples.open("a") as file:
                    counts = {
                        "done": life.done,
                        "failed": life.failed,
                        "cut": life.cut,
                        "errors": life.errors,
                    }
                    file.write(json.dumps({**samples[-1], **counts}) + "\n")
        life.end.set()
        assert platform(home) == pid, "the platform was replaced"
        with sqlite3.connect(f"file:{next(home.rglob('*.db'))}?mode=ro", uri=True) as database:
            whole = database.execute("PRAGMA integrity_check").fetchone()[0]
            print("integrity_check:", whole)
    for name, count in sorted(life.done.items()):
        cut = f", {life.cut[name]} cut by a kill" if name in life.cut else ""
        print(f"{name:<12}{count:>9} times, {life.failed.get(name, 0)} failed{cut}")
    print(*life.errors, sep="\n")
    steady = report(samples)
    return 0 if steady and not life.failed and whole == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
