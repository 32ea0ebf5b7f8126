"""From a save to the new answer: `flyte serve --watch`, a restart by hand, and `uvicorn --reload`.

Two servers, each one unmodified file that knows nothing of flyte: `http.server`, and FastAPI under
uvicorn. In each round a word in the file is replaced, and the server asked over a new connection
every millisecond until it says the new word. All run in the environment that flyte built.

- by hand: kill the process, start `python server.py` again;
- flyte-rs: `flyte serve --watch`, with and without a client that reads an endless event stream;
- uvicorn: `uvicorn server:app --reload`, which waits for such a client for good.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import Figure, Limit, finish, free_port, quiet, rounds, scratch_home, show

TIMEOUT_SECONDS = 60
# What it may take more than a restart by hand.
MOST_ADDED_MS = 100
HANGS_AFTER_SECONDS = 5
# People look at the answer before they save again; meanwhile the declaration is read.
SECONDS_BETWEEN_SAVES = 0.8

PLAIN = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORD = "{word}"

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(WORD.encode())

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

FASTAPI = """
import asyncio, os
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

WORD = "{word}"
app = FastAPI()

@app.get("/", response_class=PlainTextResponse)
async def word():
    return WORD

@app.get("/events")
async def events():
    async def ticks():
        while True:
            yield "data: tick\\n\\n"
            await asyncio.sleep(0.1)
    return StreamingResponse(ticks(), media_type="text/event-stream")

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
"""

DECLARATION = """
import flyte, flyte.app
image = flyte.Image.from_debian_base(){packages}
env = flyte.app.AppEnvironment(
    name="{name}", image=image, args=["python", "server.py"], include=["server.py"]
)
"""


class Server:
    """A file with a word in it, and the port at which it is said."""

    def __init__(self, folder: Path, source: str) -> None:
        folder.mkdir()
        self.folder, self.source, self.count = folder, source, 0
        self.save()

    def save(self) -> str:
        self.count += 1
        word = f"word-{self.count}"
        (self.folder / "server.py").write_text(self.source.replace("{word}", word))
        return word

    def change(self, port: int, then: Callable[[], None] = lambda: None) -> float:
        """Save another word, do `then`, and return the seconds until the server says it."""
        time.sleep(SECONDS_BETWEEN_SAVES)
        started = time.perf_counter()
        word = self.save()
        then()
        await_word(port, word, TIMEOUT_SECONDS)
        return time.perf_counter() - started


def said(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def await_word(port: int, word: str, seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while said(port) != word:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"port {port} says `{said(port)}` and not `{word}`")
        time.sleep(0.001)


@contextmanager
def event_stream(port: int) -> Iterator[None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    if answer.readline() != b"data: tick\n":
        raise RuntimeError("the event stream does not begin")
    try:
        yield
    finally:
        connection.close()


def by_hand(name: str, python: Path, server: Server) -> Figure:
    port = free_port()
    process: list[subprocess.Popen[bytes]] = []

    def restart() -> None:
        end(process)
        command = [str(python), "server.py"]
        process.append(subprocess.Popen(command, cwd=server.folder, env=quiet(PORT=str(port))))

    try:
        restart()
        await_word(port, f"word-{server.count}", TIMEOUT_SECONDS)
        return rounds(name, lambda: server.change(port, restart))
    finally:
        end(process)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    while processes:
        process = processes.pop()
        process.kill()
        process.wait()


@contextmanager
def watching(home: Path, server: Server, name: str, packages: str) -> Iterator[int]:
    (server.folder / "declaration.py").write_text(DECLARATION.format(name=name, packages=packages))
    command = [sys.executable, "-m", "flyte._cli", "serve", "--watch", "declaration.py"]
    with (server.folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=server.folder,
            env=quiet(FLYTE_HOME=str(home)),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise RuntimeError((server.folder / "log").read_text())
        yield int(line.rpartition(":")[2])
    finally:
        process.kill()
        process.wait()


def reloading(python: Path, server: Server) -> Figure:
    port = free_port()
    options = ["--reload", "--port", str(port), "--log-level", "critical"]
    command = [str(python), "-m", "uvicorn", "server:app", *options]
    process = subprocess.Popen(command, cwd=server.folder, env=quiet(), stderr=subprocess.DEVNULL)
    try:
        await_word(port, f"word-{server.count}", TIMEOUT_SECONDS)
        figure = rounds("uvicorn server:app --reload", lambda: server.change(port))
        with event_stream(port):
            word = server.save()
            try:
                await_word(port, word, HANGS_AFTER_SECONDS)
                print("uvicorn --reload, an event stream open: reloads")
            except TimeoutError:
                print(f"uvicorn --reload, an event stream open: no new answer in {HANGS_AFTER_SECONDS} s")
        return figure
    finally:
        # Its worker ends when the pipe to it does.
        process.terminate()
        try:
            process.wait(timeout=HANGS_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def limits(*figures: Figure) -> dict[str, Limit]:
    return {figure.name: Limit(more=MOST_ADDED_MS) for figure in figures}


def main() -> None:
    with scratch_home() as home:
        server = Server(home / "plain", PLAIN)
        with watching(home, server, "plain", "") as port:
            ours = rounds("flyte serve --watch", lambda: server.change(port))
        (plain,) = home.glob("envs/*/bin/python")
        hand = by_hand("by hand: kill, python server.py", plain, server)
        met = show("From a save to the new answer, http.server", hand, [ours], limits(ours))

        server = Server(home / "fastapi", FASTAPI)
        with watching(home, server, "fastapi", '.with_pip_packages("fastapi", "uvicorn")') as port:
            ours = rounds("flyte serve --watch", lambda: server.change(port))
            with event_stream(port):
                streaming = rounds("flyte serve --watch, an event stream open", lambda: server.change(port))
        (python,) = set(home.glob("envs/*/bin/python")) - {plain}
        hand = by_hand("by hand: kill, python server.py", python, server)
        others = [ours, streaming, reloading(python, server)]
        met &= show("From a save to the new answer, FastAPI", hand, others, limits(ours, streaming))
    finish(met)


if __name__ == "__main__":
    main()
