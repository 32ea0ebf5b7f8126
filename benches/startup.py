"""What `fserve` adds to the start of an app: the same server as `python app.py`, behind `fserve`, and as a
server function, until it answers.

Run it with `make bench-startup`. All three take turns, so that whatever else happens on the machine
happens to all of them; the time of the processors is told too, which does not depend on that.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ROUNDS, Figure, Limit, finish, free_port, quiet, show

# A round is the median of so many starts: a single one says more of the machine than of us.
STARTS = 5
# What is allowed over `python app.py`.
MOST_ADDED_MS = 40
FSERVE = str(Path(sys.executable).with_name("fserve"))

SERVER = """
import os, socket

def serve():
    with socket.create_server(("127.0.0.1", int(os.environ["BENCH_PORT"]))) as server:
        connection, _ = server.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        connection.close()
"""
APP = SERVER + '\nif __name__ == "__main__":\n    serve()\n'
DECLARED = (
    SERVER
    + """
from flyte.app import AppEnvironment
env = AppEnvironment(name="bench")
env.server(serve)
"""
)


def once(words: list[str], folder: Path, port: int) -> tuple[float, float]:
    """Seconds until the server has answered, and of processors until its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, env=quiet(BENCH_PORT=str(port)), stderr=subprocess.DEVNULL)
    while True:
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                # Meanwhile it may have been given to this very socket, which then talks to itself.
                if asking.getsockname()[1] == port:
                    continue
                asking.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert asking.recv(100).endswith(b"ok")
                break
        assert process.poll() is None, words
        time.sleep(0.0005)
    took = time.perf_counter() - started
    assert process.wait(10) == 0, words
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, used


def in_turns(ways: dict[str, list[str]], folder: Path) -> dict[str, list[tuple[float, float]]]:
    """One round: what each start took, of every way one after the other."""
    starts: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(STARTS):
        for way, words in ways.items():
            starts[way].append(once(words, folder, free_port()))
    return starts


def main() -> None:
    options = [FSERVE, "--version", "1"]
    ways = {
        "python app.py": [sys.executable, "app.py"],
        "fserve -- python app.py": [*options, "--", sys.executable, "app.py"],
        "fserve with a server function": [*options, "--resolver-args", "declared:env", "--"],
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text(APP)
        (folder / "declared.py").write_text(DECLARED)
        for number in range(ROUNDS + 1):
            for way, starts in in_turns(ways, folder).items():
                if number:  # the first round fills the caches
                    took[way].append(statistics.median(seconds for seconds, _ in starts))
                    used[way].append(statistics.median(cpu for _, cpu in starts))
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    base, *others = [Figure(way, seconds) for way, seconds in took.items()]
    limits = {figure.name: Limit(more=MOST_ADDED_MS) for figure in others}
    kept = show("start of an app, until it answers", base, others, limits)
    base, *others = [Figure(way, seconds) for way, seconds in used.items()]
    show("start of an app, time of the processors", base, others)
    finish(kept)


if __name__ == "__main__":
    main()
