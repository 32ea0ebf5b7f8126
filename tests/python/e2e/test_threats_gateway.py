"""Hostile HTTP against the gateway of a running app: smuggled requests, bombs of headers, slow clients."""

from __future__ import annotations

import json
import socket
import time

import pytest
from support import Home, Project, get

# It tells what it was asked, byte by byte as it was understood, over one connection or many.
ECHO = """
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import flyte, flyte.app

env = flyte.app.AppEnvironment(name="echo")

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        told = json.dumps({"path": self.path, "body": body.decode("latin-1"), "host": self.headers.get_all("host")})
        self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told.encode())

    do_GET = do_POST = answer

@env.server
def server():
    ThreadingHTTPServer(("127.0.0.1", 8080), Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def port(home: Home, tmp_path_factory: pytest.TempPathFactory) -> int:
    project = Project(tmp_path_factory.mktemp("echo"), home)
    project.write("main.py", ECHO)
    project.write("first.py", "import flyte, main\nprint('\"' + flyte.serve(main.env).endpoint + '\"')")
    endpoint: str = project.result("first.py")
    return int(endpoint.rpartition(":")[2])


def exchange(port: int, sent: bytes, patience: float = 60) -> bytes:
    """All that comes back until the other side hangs up, as what we end with asks it to."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        try:
            connection.sendall(sent)
        except OSError:
            pass  # It hung up amid a bomb.
        came = b""
        try:
            while piece := connection.recv(65536):
                came += piece
        except ConnectionResetError:
            pass
        return came


def answers(came: bytes) -> list[tuple[int, dict[str, object]]]:
    """Status and body of each answer in turn; each names its length."""
    found = []
    while came:
        head, separator, came = came.partition(b"\r\n\r\n")
        assert separator, head
        lines = head.decode("latin-1").lower().split("\r\n")
        lengths = [int(line.split(":")[1]) for line in lines if line.startswith("content-length")]
        body, came = came[: sum(lengths)], came[sum(lengths) :]
        found.append((int(lines[0].split()[1]), json.loads(body or b"{}")))
    return found


def request(*headers: str, path: str = "/first", body: str = "", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", body]
    return "\r\n".join(lines).encode("latin-1")


HIDDEN = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = "0\r\n\r\n"
# However the bytes before it are read, this is a request of its own.
END = b"GET /end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

SMUGGLED = {
    "both framings": request(
        f"Content-Length: {len(CHUNKED + HIDDEN)}", "Transfer-Encoding: chunked", body=CHUNKED + HIDDEN
    ),
    "both framings, length first wins": request(
        "Content-Length: 4", "Transfer-Encoding: chunked", body=f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n"
    ),
    "two lengths": request("Content-Length: 0", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "a list of lengths": request(f"Content-Length: 0, {len(HIDDEN)}", body=HIDDEN),
    "a length with a sign": request(f"Content-Length: +{len(HIDDEN)}", body=HIDDEN),
    "a length in hexadecimal": request(f"Content-Length: 0x{len(HIDDEN):x}", body=HIDDEN),
    "a blank before the colon": request(f"Content-Length : {len(HIDDEN)}", body=HIDDEN),
    "a coding in other words": request("Transfer-Encoding: xchunked", body=CHUNKED + HIDDEN),
    "a coding behind a tab": request(
        "Transfer-Encoding:\tchunked", f"Content-Length: {len(HIDDEN)}", body=HIDDEN
    ),
    "chunked is not last": request("Transfer-Encoding: chunked, identity", body=CHUNKED + HIDDEN),
    "chunked twice": request(
        "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED + HIDDEN
    ),
    "a folded header": request("Transfer-Encoding:", " chunked", body=CHUNKED + HIDDEN),
    "a bare line feed": request("X: y\nTransfer-Encoding: chunked", body=CHUNKED + HIDDEN),
    "a bare carriage return": request(f"X: y\rContent-Length: {len(HIDDEN)}", body=HIDDEN),
    "a null byte": request(f"X: y\0\r\nContent-Length: {len(HIDDEN)}", body=HIDDEN),
    "a chunk of nonsense": request("Transfer-Encoding: chunked", body="0x0\r\n\r\n" + HIDDEN),
    "a chunk that is too long": request("Transfer-Encoding: chunked", body="ffffffffffffffff1\r\n" + HIDDEN),
    "connection names the framing": request(
        "Connection: content-length, close", f"Content-Length: {len(HIDDEN)}", body=HIDDEN
    ),
    "HTTP/1.0 with chunks": b"POST /first HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (CHUNKED + HIDDEN).encode(),
}


@pytest.mark.parametrize("case", SMUGGLED)
def test_gateway_and_app_agree_where_a_request_ends(port: int, case: str) -> None:
    """A request that may be read in two ways is refused, or passed on in one of them, and what follows it on
    the connection to the app is another client's request, whole."""
    came = answers(exchange(port, SMUGGLED[case] + END))
    told = [(answer["path"], answer["body"]) for status, answer in came if status == 200]
    # Refused; or what is hidden is a body; or it is a second request of this very client. The gateway may
    # hang up behind a request that it was not sure of.
    first, as_body, second, end = ("/first", ""), ("/first", HIDDEN), ("/smuggled", ""), ("/end", "")
    allowed: list[list[object]] = [[], [first], [as_body], [as_body, end], [first, second, end]]
    assert told in allowed, came
    # The connections to the app are as they were: nobody else gets what is left of this one.
    for number in range(5):
        ours = answers(exchange(port, request("Connection: close", path=f"/mine-{number}", method="GET")))
        assert [told["path"] for _, told in ours] == [f"/mine-{number}"]


def test_ambiguous_lengths_are_refused(port: int) -> None:
    for case in ("two lengths", "a list of lengths", "a length with a sign", "a blank before the colon"):
        came = exchange(port, SMUGGLED[case] + END)
        assert came.startswith(b"HTTP/1.1 400"), (case, came[:80])


@pytest.mark.parametrize("bomb", ["many", "long", "endless", "target"])
def test_bombs_of_headers_are_refused(port: int, home: Home, bomb: str) -> None:
    sent = {
        "many": request(*[f"X-{number}: y" for number in range(100_000)], method="GET"),
        "long": request("X: " + "y" * 4_000_000, method="GET"),
        "endless": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 16_000_000,
        "target": request(path="/" + "y" * 4_000_000, method="GET"),
    }[bomb]
    before = resident(home)
    came = exchange(port, sent)
    assert not came or came[9:12] in (b"400", b"413", b"414", b"431"), came[:80]
    assert resident(home) - before < 64 << 20
    assert get(f"http://127.0.0.1:{port}/after")[0] == 200


def resident(home: Home) -> int:
    """Bytes of memory that the platform holds."""
    with open(f"/proc/{home.status()['pid']}/status") as status:
        (line,) = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10


def test_slow_clients_keep_nobody_waiting(port: int) -> None:
    slow = []
    try:
        for number in range(300):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            half = request("Content-Length: 10", body="half")
            # Some stop amid the head, some amid the body, some say nothing.
            connection.sendall([half[: len(half) // 2], half, b""][number % 3])
            slow.append(connection)
        begun = time.monotonic()
        for number in range(20):
            assert get(f"http://127.0.0.1:{port}/quick-{number}")[0] == 200
        assert time.monotonic() - begun < 60
    finally:
        for connection in slow:
            connection.close()
    assert get(f"http://127.0.0.1:{port}/after")[0] == 200
