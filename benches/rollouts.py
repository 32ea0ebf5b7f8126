"""A minute of constant load on an app that is served again and again, and whose replicas are killed.

Clients ask without a pause: over kept-alive and over new connections, with GET and with a small POST.
The app appends a line to a file when it has read a request, and another when it has answered, so that for
each failure it is known what the app knew of it. First the app is served anew ten times, which may cost no
request. Then replicas are killed with `kill -9`: a request may fail only where the replica that was killed
was answering it, and none may fail later.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from _common import Figure, Limit, keep, quiet, scratch_home

REPLICAS = 2
ROLLOUTS = 10
# What a client of ours waits for an answer.
TIMEOUT_SECONDS = 30
# When a replica's death has certainly been noticed.
NOTICED_AFTER_SECONDS = 0.5

APP = """
import asyncio, os, random, time

WORD = {word!r}
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
PID = os.getpid()

def note(what, request):
    os.write(log, f"{{what}} {{request}} {{PID}} {{time.monotonic():.6f}}\\n".encode())

class Client(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.read = transport, b""

    def data_received(self, data):
        self.read += data
        head, ends, rest = self.read.partition(b"\\r\\n\\r\\n")
        lines = head.decode("latin-1").split("\\r\\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        if not ends or len(rest) < int(headers.get("content-length", "0")):
            return
        self.read = b""
        method, path, _ = lines[0].split()
        request = method + path
        # In the same step as the reading, so that hardly anything is read and not noted.
        note("began", request)
        asyncio.get_running_loop().call_later(random.random() * 0.01, self.answer, request)

    def answer(self, request):
        body = f"{{WORD}} {{PID}}".encode()
        self.transport.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body)
        note("ended", request)

async def main():
    with open({up!r}, "a") as up:
        print(PID, file=up)
    server = await asyncio.get_running_loop().create_server(Client, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()

asyncio.run(main())
"""

DECLARATION = """
import flyte, flyte.app
env = flyte.app.AppEnvironment(
    name="rollouts", args=["python", "server.py"], include=["server.py"],
    scaling=flyte.app.Scaling(replicas={replicas}),
)
print(flyte.serve(env).endpoint)
"""


@dataclass
class Failed:
    """A request that got no answer, or not the one it should."""

    request: str
    kind: str
    at: float
    why: str


class Client(threading.Thread):
    """Asks one request after the other, and counts what goes wrong with them."""

    def __init__(
        self, port: int, number: int, *, keep_alive: bool, method: str, over: threading.Event
    ) -> None:
        super().__init__()
        self.port, self.number, self.over = port, number, over
        self.keep_alive, self.method = keep_alive, method
        self.kind = f"{method} {'kept-alive' if keep_alive else 'new'}"
        self.failures: list[Failed] = []
        self.slowest = 0.0
        self.answers = 0
        self.words: Counter[str] = Counter()

    def run(self) -> None:
        stream: socket.socket | None = None
        count = 0
        while not self.over.is_set():
            count += 1
            request = f"{self.method}/{self.number}-{count}"
            began = time.monotonic()
            try:
                stream = stream or socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
                status, body = self.ask(stream, request)
                if status != 200:
                    raise RuntimeError(f"{status} {body}")
                self.words[body.split()[0]] += 1
            except (OSError, RuntimeError) as error:
                self.failures.append(Failed(request, self.kind, time.monotonic(), str(error) or repr(error)))
                stream = self.close(stream)
            self.answers += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if not self.keep_alive:
                stream = self.close(stream)
        self.close(stream)

    @staticmethod
    def close(stream: socket.socket | None) -> None:
        if stream:
            stream.close()

    def ask(self, stream: socket.socket, request: str) -> tuple[int, str]:
        sent = b"x" * 100 if self.method == "POST" else b""
        length = f"content-length: {len(sent)}\r\n" if sent else ""
        closing = "" if self.keep_alive else "connection: close\r\n"
        head = (
            f"{request.replace('/', ' /')} HTTP/1.1\r\nhost: localhost:{self.port}\r\n{length}{closing}\r\n"
        )
        stream.sendall(head.encode() + sent)
        read = b""
        while b"\r\n\r\n" not in read:
            read += self.more(stream)
        first, _, body = read.partition(b"\r\n\r\n")
        lines = first.decode("latin-1").lower().split("\r\n")
        (length,) = (line.partition(": ")[2] for line in lines if line.startswith("content-length: "))
        while len(body) < int(length):
            body += self.more(stream)
        return int(lines[0].split()[1]), body.decode()

    @staticmethod
    def more(stream: socket.socket) -> bytes:
        piece = stream.recv(65536)
        if not piece:
            raise ConnectionError("the gateway hung up")
        return piece


class Load:
    """All clients; the failures are theirs."""

    def __init__(self, port: int, each: int) -> None:
        self.over = threading.Event()
        kinds = [(keep, method) for keep in (True, False) for method in ("GET", "POST")] * each
        self.clients = [
            Client(port, number, keep_alive=keep, method=method, over=self.over)
            for number, (keep, method) in enumerate(kinds)
        ]

    def __enter__(self) -> Load:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for client in self.clients:
            client.join()

    @property
    def failures(self) -> list[Failed]:
        return [failed for client in self.clients for failed in client.failures]

    def told(self, seconds: float) -> str:
        answers = sum(client.answers for client in self.clients)
        slowest = 1000 * max(client.slowest for client in self.clients)
        return (
            f"{len(self.clients)} clients, {answers} requests in {seconds:.0f} s, "
            f"slowest {slowest:.0f} ms, {len(self.failures)} failed"
        )


def serve(home: Path, word: str) -> int:
    """Serve the app with this word; the port at which it answers."""
    (home / "server.py").write_text(APP.format(word=word, log=str(home / "requests"), up=str(home / "up")))
    (home / "declaration.py").write_text(DECLARATION.format(replicas=REPLICAS))
    words = [sys.executable, "declaration.py"]
    served = subprocess.run(
        words, cwd=home, env=quiet(FLYTE_HOME=str(home)), check=True, text=True, stdout=subprocess.PIPE
    )
    return int(served.stdout.strip().rpartition(":")[2])


def replicas(home: Path) -> list[int]:
    """The processes of the app that are there."""
    return [pid for pid in map(int, (home / "up").read_text().split()) if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"


def roll(home: Path, port: int, seconds: float, each: int) -> int:
    """Serve ten times in the time given; how many requests failed."""
    with Load(port, each) as load:
        began = time.monotonic()
        for number in range(1, ROLLOUTS + 1):
            serve(home, f"word-{number}")
            time.sleep(max(0.0, began + number * seconds / ROLLOUTS - time.monotonic()))
    words = {word for client in load.clients for word in client.words}
    print(f"\n{ROLLOUTS} rollouts: {load.told(time.monotonic() - began)}; {len(words)} revisions answered")
    for failed in load.failures[:20]:
        print(f"  {failed.kind}: {failed.why[:160]}")
    return len(load.failures)


def kill(home: Path, port: int, seconds: float, each: int) -> int:
    """Kill replicas at random for the time given; how many requests failed that should not."""
    random.seed(6)
    kills: list[tuple[int, float]] = []
    with Load(port, each) as load:
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            time.sleep(0.5 + 3 * random.random())
            pids = replicas(home)
            # Now and then all of them, when nobody is left to take over.
            for pid in pids if random.random() < 0.25 else random.sample(pids, min(1, len(pids))):
                os.kill(pid, signal.SIGKILL)
                kills.append((pid, time.monotonic()))
    print(f"\n{len(kills)} replicas killed: {load.told(time.monotonic() - began)}")
    return judge(load.failures, kills, (home / "requests").read_text())


def judge(failures: list[Failed], kills: list[tuple[int, float]], log: str) -> int:
    began: dict[str, tuple[int, float]] = {}
    counts: Counter[str] = Counter()
    for line in log.splitlines():
        what, request, pid, at = line.split()
        if what == "began":
            counts[request] += 1
            began[request] = (int(pid), float(at))
    died = dict(kills)
    unexcused = 0
    kinds: Counter[str] = Counter()
    for failed in failures:
        pid, at = began.get(failed.request, (0, 0.0))
        answering = pid in died and at <= died[pid] + 0.001
        late = answering and failed.at > died[pid] + NOTICED_AFTER_SECONDS
        verdict = "after detection" if late else "was being answered" if answering else "NOT being answered"
        kinds[f"{failed.kind}: {verdict}"] += 1
        if late or not answering:
            unexcused += 1
            if unexcused <= 20:
                print(f"  {failed.kind} {failed.request}, {verdict}: {failed.why[:200]}")
    for kind, count in sorted(kinds.items()):
        print(f"  {count:>4} {kind}")
    twice = Counter(request.partition("/")[0] for request, count in counts.items() if count > 1)
    print(f"  read by two replicas: {twice['GET']} GETs, {twice['POST']} POSTs (only GETs may be)")
    return unexcused + twice["POST"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60, help="of each of the two parts")
    parser.add_argument("--clients", type=int, default=3, help="of each of the four kinds")
    given = parser.parse_args()
    with scratch_home() as home:
        port = serve(home, "word-0")
        lost = roll(home, port, given.seconds, given.clients)
        (home / "requests").write_text("")
        wrong = kill(home, port, given.seconds, given.clients)
    for name, count in (("failed on rollouts", lost), ("failed and no replica was answering it", wrong)):
        title = "Requests while replicas come, go and are killed"
        keep(title, Figure(name, [count], "requests"), None, Limit(most=0))
    print(f"\nfailed on rollouts: {lost}; failed without a replica's death as the reason: {wrong}")
    sys.exit(1 if lost or wrong else 0)


if __name__ == "__main__":
    main()
