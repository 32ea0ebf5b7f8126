"""A bad line between a client and a local platform: it cuts, delays, turns away and goes silent.

Each request is judged by the first rule that fits its path and is not used up. What reached the
platform is written down, so that a test can tell what was done from what was asked for.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Rule:
    """What is done to requests whose path ends like this (or begins, for `/upload/`)."""

    # cut: nothing reaches the platform; lose: its answer is lost; busy: 503 with Retry-After;
    # silent: a stream begins and nothing comes; slow: it takes a while; broken: half an answer.
    action: str
    path: str
    times: int = 1
    seconds: float = 1

    def fits(self, path: str, method: str) -> bool:
        name, _, verb = self.path.partition(" ")
        where = path.startswith(name) if name.endswith("/") else path.endswith("/" + name)
        return self.times > 0 and where and verb in ("", method)


@dataclass
class Line:
    """The line: a port of this machine that leads to a platform's socket."""

    to: Path
    rules: list[Rule] = field(default_factory=list)
    reached: list[tuple[str, str | None]] = field(default_factory=list)
    arrived: list[tuple[str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # One small answer after the other: none waits for the acknowledgement of the last.
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                try:
                    line.carry(self)
                except (OSError, http.client.HTTPException):
                    cut(self)  # one of the two went away, which is what this is about

            do_GET = do_POST = do_PUT = do_PATCH = do_HEAD = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End the line."""
        self.server.shutdown()
        self.server.server_close()

    def expect(self, *rules: Rule) -> None:
        """Begin anew with these rules."""
        self.rules = list(rules)
        self.reached.clear()
        self.arrived.clear()

    def count(self, name: str) -> int:
        """How many calls of that name reached the platform."""
        return sum(path.endswith("/" + name) for path, _ in self.reached)

    def ids(self, name: str) -> list[str | None]:
        """The names under which such calls arrived here."""
        return [request for path, request in self.arrived if path.endswith("/" + name)]

    def rule(self, path: str, method: str) -> Rule | None:
        """The rule for a request, which is used up by it."""
        for rule in self.rules:
            if rule.fits(path, method):
                rule.times -= 1
                return rule
        return None

    def carry(self, handler: BaseHTTPRequestHandler) -> None:
        """Pass one request on, as far as the rules let it."""
        path, request = handler.path, handler.headers.get("x-request-id")
        self.arrived.append((path, request))
        rule = self.rule(path, handler.command)
        action = rule.action if rule else ""
        if action == "cut":
            return cut(handler)
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        if rule and action == "busy":
            handler.send_response(503)
            handler.send_header("Retry-After", str(int(rule.seconds)))
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        if rule and action == "slow":
            time.sleep(rule.seconds)
        if rule and action == "silent":
            handler.send_response(200)
            handler.send_header("Content-Type", "application/connect+proto")
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.flush()
            handler.connection.settimeout(60)
            handler.connection.recv(1)  # until the client goes away
            return cut(handler)
        self.reached.append((path, request))
        pass_on(handler, self.to, body, action)
        return None


class _Socket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def pass_on(handler: BaseHTTPRequestHandler, to: Path, body: bytes, action: str) -> None:
    """Send it to the platform, and what comes of it back."""
    skipped = ("host", "connection", "accept-encoding", "transfer-encoding")
    headers = {name: value for name, value in handler.headers.items() if name.lower() not in skipped}
    behind = _Socket(to)
    behind.request(handler.command, handler.path, body, headers)
    answer = behind.getresponse()
    if handler.path.endswith(("/Watch", "/TailLogs")):
        return stream(handler, answer, action)
    content = answer.read()
    behind.close()
    if action == "lose":
        return cut(handler)
    if handler.path.endswith("/CreateUploadLocation"):
        content = here(content, f"http://{handler.headers['host']}")
    handler.send_response(answer.status)
    for name, value in answer.getheaders():
        if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content[: len(content) // 2] if action == "broken" else content)
    return cut(handler) if action == "broken" else None


def stream(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, action: str) -> None:
    """Send an answer on as it comes."""
    handler.send_response(answer.status)
    for name, value in answer.getheaders():
        if name.lower() == "content-type" or name.lower().startswith("connect-"):
            handler.send_header(name, value)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while part := answer.read1(65536):
        handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        handler.wfile.flush()
        if action in ("lose", "broken"):
            return cut(handler)
    handler.wfile.write(b"0\r\n\r\n")
    return None


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection, as a dead machine does."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def here(message: bytes, base: str) -> bytes:
    """The platform means its own socket by `localhost`; the upload has to come this way too."""

    def varint(number: int) -> bytes:
        return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)

    length, start = message[1], 2
    if length & 128:
        length, start = length & 127 | message[2] << 7, 3
    url = message[start : start + length].replace(b"http://localhost", base.encode(), 1)
    return b"\x0a" + varint(len(url)) + url + message[start + length :]
