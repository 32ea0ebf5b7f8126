"""What goes through an endpoint: streams, uploads, upgrades, and requests that outlive a deployment."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from support import Project, get, get_json, until

APP = """
import base64, hashlib, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import flyte, flyte.app

env = flyte.app.AppEnvironment(name="traffic", parameters=[flyte.app.Parameter("word", "first")])
gone = []

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    word = ""

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for n in range(1000):
                    self.wfile.write(b"5\\r\\nline%d\\r\\n" % (n % 10))
                    self.wfile.flush()
                    time.sleep(0.05)
            except OSError:
                gone.append(1)
                raise
        elif self.path == "/gone":
            self.send(200, str(len(gone)).encode())
        elif self.path == "/slow":
            time.sleep(1.5)
            self.send(200, self.word.encode())
        elif self.path == "/socket":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.wfile.write(
                b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
                b"Sec-WebSocket-Accept: " + accept.encode() + b"\\r\\n\\r\\n"
            )
            while True:
                head = self.rfile.read(2)
                if len(head) < 2 or head[0] & 15 == 8:
                    break
                mask = self.rfile.read(4)
                data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
                self.wfile.write(bytes([0x81, len(data)]) + data)
            self.close_connection = True
        elif self.path == "/teapot":
            self.send(418, b"short and stout", X_Kettle="on", Set_Cookie="a=1")
        else:
            told = {"path": self.path, "headers": dict(self.headers), "word": self.word, "pid": os.getpid()}
            self.send(200, json.dumps(told).encode())

    do_HEAD = do_GET

    def do_POST(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(left, 65536))
            digest.update(piece)
            left -= len(piece)
        self.send(200, digest.hexdigest().encode())

    def log_message(self, *_):
        pass

@env.server
def server(word):
    Handler.word = word
    listener = ThreadingHTTPServer(("", 8080), Handler)
    listener.daemon_threads = True
    listener.request_queue_size = 128
    listener.serve_forever()

if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else "first"
    app = flyte.with_servecontext(input_values={"traffic": {"word": word}}).serve(env)
    print(json.dumps(app.endpoint))
"""


@pytest.fixture(scope="module")
def traffic(home, tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("traffic"), home)
    project.write("main.py", APP)
    return project


@pytest.fixture(scope="module")
def endpoint(traffic):
    return traffic.result()


def connect(endpoint: str) -> http.client.HTTPConnection:
    parts = urlsplit(endpoint)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)


def test_path_and_headers_arrive_as_they_were_sent(endpoint):
    connection = connect(endpoint)
    connection.request("GET", "/a%20b/../c?x=1&y=%2F", headers={"X-Own": "ä".encode().decode("latin-1")})
    told = json.loads(connection.getresponse().read())
    assert told["path"] == "/a%20b/../c?x=1&y=%2F"
    headers = {name.lower(): value for name, value in told["headers"].items()}
    assert headers["host"] == urlsplit(endpoint).netloc
    assert headers["x-own"].encode("latin-1") == "ä".encode()


def test_status_and_headers_come_back_as_they_were_sent(endpoint):
    connection = connect(endpoint)
    connection.request("GET", "/teapot")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (418, b"short and stout")
    assert answer.headers["X-Kettle"] == "on"
    assert answer.headers["Set-Cookie"] == "a=1"
    connection.request("HEAD", "/teapot")
    answer = connection.getresponse()
    assert (answer.status, answer.read(), answer.headers["Content-Length"]) == (418, b"", "15")


def test_a_stream_arrives_piece_by_piece_and_its_end_is_noticed(endpoint):
    connection = connect(endpoint)
    started = time.monotonic()
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    assert answer.read(5) == b"line0"
    assert answer.read(5) == b"line1"
    assert time.monotonic() - started < 5, "it was not collected first"
    answer.close()
    connection.close()
    until(lambda: get(endpoint + "/gone")[1] == "1", 5, "the app learns that its caller left")


def test_a_large_upload_arrives_whole(endpoint):
    body = bytes(range(256)) * 4096 * 32
    connection = connect(endpoint)
    connection.request("POST", "/", body=body)
    answer = connection.getresponse()
    assert answer.read().decode() == hashlib.sha256(body).hexdigest()


def test_web_sockets(endpoint):
    from websockets.sync.client import connect as connect_socket

    with connect_socket(endpoint.replace("http", "ws") + "/socket", proxy=None) as channel:
        for text in ("one", "two"):
            channel.send(text)
            assert channel.recv(timeout=5) == text


def test_a_web_socket_outlives_a_rollout(traffic, endpoint):
    from websockets.sync.client import connect as connect_socket

    traffic.result()
    with connect_socket(endpoint.replace("http", "ws") + "/socket", proxy=None) as channel:
        traffic.result("main.py", "newer")
        assert get_json(endpoint)["word"] == "newer"
        channel.send("still")
        assert channel.recv(timeout=5) == "still"
    traffic.result()


def test_many_at_once(endpoint):
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: get(endpoint)[0], range(400)))
    assert answers == [200] * 400


def test_both_families_of_addresses_answer(endpoint):
    port = urlsplit(endpoint).port
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            probe = socket.socket(family)
            probe.bind((host, 0))
        except OSError:
            continue  # this machine has no such family
        finally:
            probe.close()
        told = get_json(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        assert told["path"] == "/"


def test_a_request_under_way_is_finished_by_the_revision_that_began_it(traffic, endpoint):
    traffic.result()
    answers: list[tuple[int, str]] = []
    slow = threading.Thread(target=lambda: answers.append(get(endpoint + "/slow")))
    slow.start()
    time.sleep(0.2)
    traffic.result("main.py", "second")
    assert get_json(endpoint)["word"] == "second"
    slow.join(20)
    assert answers == [(200, "first")]


def test_the_replaced_revision_is_gone_when_it_has_finished(traffic, endpoint, home):
    traffic.result("main.py", "third")
    until(lambda: home.replicas("traffic") == [home.pid("traffic")], 15)


def test_a_deactivated_app_leaves_no_replica_of_an_earlier_revision(traffic, endpoint, home):
    traffic.result("main.py", "listened to")
    connection = connect(endpoint)
    connection.request("GET", "/stream")
    assert connection.getresponse().read(5) == b"line0"
    traffic.result("main.py", "the one after it")
    until(lambda: len(home.replicas("traffic")) == 2, 20, "the stream is under way, so its replica stays")
    assert home.flyte("update", "app", "traffic", "--deactivate", "--wait").returncode == 0
    assert home.replicas("traffic") == []
    connection.close()
    traffic.result()


def test_requests_wait_while_a_crashed_app_comes_back(traffic, endpoint, home):
    import os
    import signal

    traffic.result()
    pid = get_json(endpoint)["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: [one["pid"] for one in home.app("traffic")["replicas"]] != [pid], 20)
    assert get_json(endpoint)["pid"] != pid
