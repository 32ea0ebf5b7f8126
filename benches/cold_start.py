"""The first answer of an app at zero, beside what the same server needs when it is started by hand.

Two servers, each one file: `http.server`, and FastAPI under uvicorn. By hand: `python server.py` in the
environment that flyte built, asked over a new connection every millisecond until it answers. From zero:
one request at the app's endpoint while it has no replica, which waits for the one that is started for
it. The difference is what flyte adds; both are measured in turns.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from pathlib import Path

from _common import Limit, finish, free_port, in_turns, quiet, scratch_home, show

TIMEOUT_SECONDS = 60
# What starting for a request may add to starting by hand.
MOST_ADDED_MS = 30
# What is left to be done in the platform when the replica's process has gone.
AFTER_ITS_END_SECONDS = 0.5

PLAIN = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

FASTAPI = """
import os
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()

@app.get("/", response_class=PlainTextResponse)
async def pid():
    return str(os.getpid())

uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
"""

DECLARATION = """
import flyte, flyte.app
from flyte.app import Scaling
env = flyte.app.AppEnvironment(
    name="{name}",
    image=flyte.Image.from_debian_base(){packages},
    args=["python", "server.py"],
    include=["server.py"],
    scaling=Scaling(replicas=(0, 1), scaledown_after=1),
)
print(flyte.serve(env).endpoint)
"""


def ask(port: int) -> int:
    """Whom the port leads to; 0 for nobody."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
        return int(body) if answer.status == 200 else 0
    except ConnectionError:
        return 0
    finally:
        connection.close()


def by_hand(python: Path, folder: Path) -> float:
    # A processor that had nothing to do is slower at first; the replica's had nothing to do either.
    time.sleep(AFTER_ITS_END_SECONDS)
    port = free_port()
    environment = quiet(PORT=str(port))
    started = time.perf_counter()
    process = subprocess.Popen([str(python), "server.py"], cwd=folder, env=environment)
    try:
        while not ask(port):
            time.sleep(0.001)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()


def from_zero(port: int, last: list[int]) -> float:
    """The first answer after the replica that gave the last one has gone."""
    while last and os.path.exists(f"/proc/{last[-1]}"):
        time.sleep(0.02)
    time.sleep(AFTER_ITS_END_SECONDS)
    started = time.perf_counter()
    pid = ask(port)
    taken = time.perf_counter() - started
    if not pid or pid in last:
        raise RuntimeError(f"the answer came from `{pid}`, which is no new replica")
    last.append(pid)
    return taken


def compare(home: Path, name: str, source: str, packages: str) -> bool:
    folder = home / name
    folder.mkdir()
    (folder / "server.py").write_text(source)
    (folder / "declaration.py").write_text(DECLARATION.format(name=name, packages=packages))
    known = set(home.glob("envs/*/bin/python"))
    served = subprocess.run(
        [sys.executable, "declaration.py"],
        cwd=folder,
        env=quiet(FLYTE_HOME=str(home)),
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    (python,) = set(home.glob("envs/*/bin/python")) - known
    port = int(served.stdout.strip().rpartition(":")[2])
    last = [ask(port)]
    hand, ours = in_turns(
        {
            "by hand: python server.py": lambda: by_hand(python, folder),
            "flyte-rs, from zero": lambda: from_zero(port, last),
        }
    )
    limits = {ours.name: Limit(more=MOST_ADDED_MS)}
    return show(f"From nothing to the first answer, {name}", hand, [ours], limits)


def main() -> None:
    with scratch_home() as home:
        met = compare(home, "http-server", PLAIN, "")
        met &= compare(home, "fastapi", FASTAPI, '.with_pip_packages("fastapi", "uvicorn")')
    finish(met)


if __name__ == "__main__":
    main()
