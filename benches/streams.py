"""What lasts long: an event stream, a WebSocket across rollouts, and two uploads of which nothing is held.

One app is left alone, another is served anew again and again meanwhile.

- An event stream of the first is read for as long as is asked for (20 s; `make bench-streams` for the ten
  minutes), and must bring every event. One of the second ends when the replica that sends it is replaced
  and its grace time is over; its client comes back as browsers do, and must be let in each time.
- A WebSocket to the second is opened before each rollout and used after it.
- 2 GB are sent to an app that reads as fast as it can, then a part of that to one that does not: the
  platform may hold no more afterwards than before, and the sender has to wait for the reader.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from _common import ROUNDS, Figure, Limit, judged, keep, quiet, scratch_home

EVENTS_PER_SECOND = 10
SECONDS_BETWEEN_ROLLOUTS = 8
# Of the event streams; `make bench STREAM_SECONDS=600` reads them for the ten minutes.
STREAM_SECONDS = float(os.environ.get("FLYTE_BENCH_STREAM_SECONDS", "20"))
UPLOAD_BYTES = 2 << 30
SLOW_UPLOAD_BYTES = 256 << 20
SLOW_BYTES_PER_SECOND = 32 << 20
# What the platform's memory may grow by for another reason than the upload.
MOST_GROWTH_KIB = 24 << 10

APP = f"""
import base64, hashlib, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/socket":
            return self.echo()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        number = 0
        try:
            while True:
                self.wfile.write(b"id: %d\\ndata: tick\\n\\n" % number)
                number += 1
                time.sleep(1 / {EVENTS_PER_SECOND})
        except OSError:
            pass

    def echo(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
            b"Sec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n"
        )
        # Frames as they are, but for the mask; the client knows them again by their length.
        while data := self.connection.recv(4096):
            self.connection.sendall(data)
        self.close_connection = True

    def do_PUT(self):
        left = int(self.headers["Content-Length"])
        pace = int(self.headers.get("X-Pace", "0"))
        progress = self.headers.get("X-Progress")
        seen = 0
        while left and (piece := self.rfile.read1(min(left, 1 << 20))):
            left -= len(piece)
            seen += len(piece)
            if progress:
                with open(progress, "w") as out:
                    print(seen, file=out)
            if pace:
                time.sleep(len(piece) / pace)
        body = str(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

DECLARATION = """
import sys, flyte, flyte.app
name, word = sys.argv[1:]
env = flyte.app.AppEnvironment(
    name=name, args=["python", "server.py"], include=["server.py"], env_vars={"WORD": word}
)
print(flyte.serve(env).endpoint)
"""


def serve(home: Path, name: str, word: str) -> int:
    (home / "server.py").write_text(APP)
    (home / "declaration.py").write_text(DECLARATION)
    words = [sys.executable, "declaration.py", name, word]
    served = subprocess.run(
        words, cwd=home, env=quiet(FLYTE_HOME=str(home)), check=True, text=True, stdout=subprocess.PIPE
    )
    return int(served.stdout.strip().rpartition(":")[2])


def platform(home: Path) -> int:
    words = [sys.executable, "-m", "flyte._cli", "local", "status"]
    told = subprocess.run(
        words, env=quiet(FLYTE_HOME=str(home)), check=True, text=True, stdout=subprocess.PIPE
    )
    (pid,) = (line.split()[1] for line in told.stdout.splitlines() if line.startswith("pid"))
    return int(pid)


class Listener(threading.Thread):
    """Reads an event stream, and comes back when it ends."""

    def __init__(self, port: int, over: threading.Event) -> None:
        super().__init__()
        self.port, self.over = port, over
        self.events = self.streams = 0
        self.longest = 0.0
        self.gaps: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            try:
                for number in self.read():
                    if number != self.events_of_stream:
                        self.gaps.append(f"event {number} came in place of {self.events_of_stream}")
                    self.events_of_stream += 1
                    self.events += 1
                    if self.over.is_set():
                        break
            except (OSError, http.client.HTTPException) as error:
                self.gaps.append(repr(error))
            self.longest = max(self.longest, time.monotonic() - began)

    def read(self) -> Iterator[int]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.streams += 1
        self.events_of_stream = 0
        try:
            connection.request("GET", "/events")
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(f"{answer.status} {answer.read()!r}")
            while line := answer.readline():
                if line.startswith(b"id: "):
                    yield int(line[4:])
        finally:
            connection.close()


def survives(home: Path, port: int, word: str) -> str:
    """What a WebSocket that was opened before a rollout brings back after it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
    }
    connection.request("GET", "/socket", headers=headers)
    sock = connection.sock
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    serve(home, "rolling", word)
    frame = b"\x81\x85\0\0\0\0hello"
    sock.sendall(frame)
    echoed = b""
    while len(echoed) < len(frame) and (piece := sock.recv(4096)):
        echoed += piece
    sock.close()
    return "" if echoed == frame and b" 101 " in head else f"{head!r} {echoed!r}"


def last_long(home: Path, seconds: float) -> list[str]:
    still, rolling = serve(home, "still", ""), serve(home, "rolling", "0")
    over = threading.Event()
    listeners = [Listener(still, over), Listener(rolling, over)]
    for listener in listeners:
        listener.start()
    began = time.monotonic()
    wrong, rollouts = [], 0
    while time.monotonic() < began + seconds:
        rollouts += 1
        wrong += filter(None, [survives(home, rolling, str(rollouts))])
        time.sleep(min(SECONDS_BETWEEN_ROLLOUTS, max(0.0, began + seconds - time.monotonic())))
    over.set()
    for listener in listeners:
        listener.join()
    untouched, renewed = listeners
    for name, listener in (("left alone", untouched), (f"served anew {rollouts} times", renewed)):
        print(
            f"event stream of the app that is {name}: {listener.events} events in {listener.streams} "
            f"stream(s), the longest of {listener.longest:.0f} s; {len(listener.gaps)} gaps"
        )
    print(f"WebSockets open across a rollout: {rollouts}, of which {len(wrong)} broke")
    title = f"Streams of {seconds:.0f} s, across {rollouts} rollouts"
    hand_over(title, "event streams: gaps and refusals", [len(untouched.gaps + renewed.gaps)], "events")
    hand_over(title, "WebSockets that broke", [len(wrong)], "sockets")
    hand_over(title, "longest stream of the app that is left alone", [untouched.longest], "s", None)
    if untouched.streams != 1:
        wrong.append(f"the stream that was left alone was opened {untouched.streams} times")
    return wrong + untouched.gaps + renewed.gaps


def hand_over(title: str, name: str, values: list[float], unit: str, most: float | None = 0) -> bool:
    """Print a figure and keep it for the suite; tells whether it is within its limit."""
    figure, limit = Figure(name, values, unit), None if most is None else Limit(most=most)
    print(f"{figure.row()} {unit}{judged(figure, None, limit)[1]}")
    return keep(title, figure, None, limit)


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def most_on_the_way() -> int:
    """What the system's buffers of two connections hold; more than that somebody else has collected."""
    limits = [Path(f"/proc/sys/net/ipv4/tcp_{name}").read_text().split()[2] for name in ("rmem", "wmem")]
    return 2 * sum(map(int, limits))


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def upload(home: Path, pid: int, port: int, total: int, pace: int) -> tuple[list[str], float, float]:
    """What went wrong, bytes a second, and by how many KiB the platform grew at most."""
    progress = home / "progress"
    progress.write_text("0")
    forget_peak(pid)
    before = peak_kib(pid)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.putrequest("PUT", "/")
    connection.putheader("Content-Length", str(total))
    if pace:
        connection.putheader("X-Pace", str(pace))
        connection.putheader("X-Progress", str(progress))
    connection.endheaders()
    piece, sent, furthest = os.urandom(1 << 20), 0, 0
    began = time.monotonic()
    while sent < total:
        connection.send(piece)
        sent += len(piece)
        if pace:
            furthest = max(furthest, sent - int(progress.read_text() or sent))
    arrived = int(connection.getresponse().read())
    seconds = time.monotonic() - began
    connection.close()
    growth = peak_kib(pid) - before
    ahead = f", the sender at most {furthest >> 20} MiB ahead of the reader" if pace else ""
    print(
        f"upload of {total >> 20} MiB: {total / seconds / 1e6:.0f} MB/s, peak of the platform's memory "
        f"{before >> 10} MiB before, {growth} KiB more after{ahead}"
    )
    wrong = [] if arrived == total else [f"{arrived} of {total} bytes arrived"]
    if growth > MOST_GROWTH_KIB:
        wrong.append(f"the platform grew by {growth} KiB")
    if furthest > most_on_the_way():
        wrong.append(f"{furthest} bytes were on their way")
    return wrong, total / seconds, growth


def uploads(home: Path, pid: int, port: int, total: int) -> list[str]:
    """Large uploads, as many as there are rounds, and one to an app that reads slowly."""
    upload(home, pid, port, 1 << 24, 0)  # for what is allocated once
    wrong, rates, growths = [], [], []
    for _ in range(ROUNDS):
        told, rate, growth = upload(home, pid, port, total, 0)
        wrong += told
        rates.append(rate / 1e6)
        growths.append(growth)
    title = f"Uploads of {total >> 20} MiB"
    hand_over(title, "rate", rates, "MB/s", None)
    hand_over(title, "growth of the platform's peak memory", growths, "KiB", MOST_GROWTH_KIB)
    told, _, growth = upload(home, pid, port, SLOW_UPLOAD_BYTES, SLOW_BYTES_PER_SECOND)
    hand_over(title, "growth with a reader of 32 MiB/s", [growth], "KiB", MOST_GROWTH_KIB)
    return wrong + told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=STREAM_SECONDS, help="of the event streams")
    parser.add_argument("--bytes", type=int, default=UPLOAD_BYTES, help="of the large upload")
    given = parser.parse_args()
    with scratch_home() as home:
        port = serve(home, "still", "")
        pid = platform(home)
        wrong = uploads(home, pid, port, given.bytes)
        wrong += last_long(home, given.seconds)
    for line in wrong:
        print(f"  {line}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
