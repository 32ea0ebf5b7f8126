"""Secrets of a control plane that is reached over TCP: what is sent, and what is made of the answers."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import stores
from support import Home, Project

VALUE = "-".join(["plant", "ed", "far"])


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def page(name: str, token: str) -> bytes:
    """A `ListSecretsResponse` with one secret."""
    identity = field(1, name.encode()) + field(3, b"development") + field(4, b"p")
    return field(1, field(1, identity)) + field(2, token.encode())


class Cluster(http.server.ThreadingHTTPServer):
    """A control plane that lists secrets on two pages and lets nobody do anything else with them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, bytes]] = []
        super().__init__(("127.0.0.1", 0), Answering)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answering(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Cluster

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service, _, method = self.path.rpartition("/")
        if method == "SelectCluster":
            return self.found(b"")  # whoever was asked
        if service != "/flyteidl2.secret.SecretService":
            return self.say(501, {"code": "unimplemented", "message": "no"})
        self.server.asked.append((method, self.headers["Authorization"], body))
        if method != "ListSecrets":
            return self.say(403, {"code": "permission_denied", "message": "secrets are not for you"})
        self.found(page("second", "") if b"page-2" in body else page("first", "page-2"))

    def found(self, answer: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/proto")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def say(self, status: int, answer: dict[str, str]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self.say(404, {"code": "not_found", "message": "no"})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    server = Cluster()
    yield server
    server.shutdown()
    server.server_close()


def flyte(home: Home, endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "FLYTE_ADMIN_ENDPOINT": endpoint,
        "FLYTE_TASK_PROJECT": "p",
        "FLYTE_TASK_DOMAIN": "development",
        "FLYTE_AUTH_TYPE": "ExternalCommand",
        "FLYTE_AUTH_COMMAND": "echo of-the-caller",
    }
    return subprocess.run(
        [Path(sys.executable).with_name("flyte"), *words],
        env=home.environment(**variables),
        input=VALUE,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_all_pages_are_read_with_the_callers_credentials(home: Home, cluster: Cluster):
    at = f"http://127.0.0.1:{cluster.server_address[1]}"
    listed = flyte(home, at, "get", "secret", "-o", "json")
    assert listed.returncode == 0, listed.stderr
    assert [one["name"] for one in json.loads(listed.stdout)] == ["first", "second"]
    assert [method for method, *_ in cluster.asked] == ["ListSecrets"] * 2
    assert {who for _, who, _ in cluster.asked} == {"Bearer of-the-caller"}


def test_a_denial_is_told_without_the_value(home: Home, cluster: Cluster):
    at = f"http://127.0.0.1:{cluster.server_address[1]}"
    for words in (["create", "secret", "x"], ["get", "secret", "x"], ["delete", "secret", "x"]):
        denied = flyte(home, at, *words)
        assert denied.returncode == 1, denied.stdout
        assert "secrets are not for you" in denied.stderr
        assert VALUE not in denied.stdout + denied.stderr
    # The value is sent to create it, and to nothing else.
    assert {method for method, _, body in cluster.asked if VALUE.encode() in body} == {"CreateSecret"}


def test_a_platform_over_tcp_keeps_them(home: Home, project: Project):
    port = stores.free_port()
    started = home.flyte("local", "start", "--listen", f"127.0.0.1:{port}")
    assert started.returncode == 0, started.stderr
    at = f"http://127.0.0.1:{port}"
    assert flyte(home, at, "create", "secret", "far").returncode == 0
    again = flyte(home, at, "create", "secret", "far")
    assert again.returncode == 1 and "`--replace`" in again.stderr
    listed = flyte(home, at, "get", "secret", "-o", "json")
    assert [one["name"] for one in json.loads(listed.stdout)] == ["far"]
    assert VALUE not in listed.stdout
    # The same that the home's own socket tells.
    own = home.flyte("get", "secret", "--project", "p", "--domain", "development")
    assert "far" in own.stdout
    assert flyte(home, at, "delete", "secret", "far").returncode == 0
