"""What goes wrong on the way: cuts, damage, refusals; and what is not fetched a second time."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stores
from support import Home, Project, get_json

SIZE = 40_000_000
CONTENT = (b"0123456789abcdef" * (SIZE // 16))[:SIZE]
SMALL = b"a few bytes"

APP = """
import hashlib, json, os
import flyte
from flyte.app import AppEnvironment, Parameter, get_parameter
from flyte.io import Dir, File
import web

env = AppEnvironment(
    name=@NAME@, env_vars=@VARIABLES@, parameters=[Parameter("model", @KIND@(path=@URL@), env_var="MODEL")]
)

def contents(path):
    names = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names] or [path]
    return hashlib.md5(b"".join(open(name, "rb").read() for name in sorted(names))).hexdigest()

@env.server
def server():
    web.serve(lambda path: contents(get_parameter("model")))

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def app(project: Project, name: str, url: str, variables: dict[str, str], kind: str = "File") -> Project:
    text = APP.replace("@NAME@", repr(name)).replace("@VARIABLES@", repr(variables))
    project.write("main.py", text.replace("@KIND@", kind).replace("@URL@", repr(url)))
    return project


class Troubled(http.server.ThreadingHTTPServer):
    """A server of one object that behaves as it is told; for what no real server does on demand."""

    daemon_threads = True

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag = f'"{hashlib.md5(CONTENT).hexdigest()}"'
        self.asked: list[tuple[str, str | None, str | None]] = []
        # What becomes of the body of an answer, by its number: the part of it that is sent.
        self.send: Callable[[int, bytes], bytes] = lambda number, body: body
        self.headers: Callable[[int], dict[str, str]] = lambda number: {}
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Answering)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def gets(self) -> list[tuple[str, str | None, str | None]]:
        return [asked for asked in self.asked if asked[0] == "GET"]


class Answering(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Troubled

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        wanted, tag = self.headers.get("Range"), self.headers.get("If-Match")
        with server.lock:
            server.asked.append((self.command, wanted, tag))
            number = len(server.gets)
        body, status = server.content, 200
        if tag is not None and tag != server.etag:
            status, body = 412, b""
        elif wanted:
            first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
            body, status = server.content[first : last + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(server.content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", server.etag)
        self.send_header("Last-Modified", "Mon, 06 Jul 2026 10:00:00 GMT")
        for name, value in server.headers(number).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            sent = server.send(number, body)
            with contextlib.suppress(OSError):
                self.wfile.write(sent)
            if len(sent) < len(body):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(2)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def troubled() -> Iterator[Troubled]:
    server = Troubled()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["s3", "gs", "http"])
def served(request: pytest.FixtureRequest, troubled: Troubled) -> tuple[str, dict[str, str]]:
    """The object's address by either way, and what an app needs for it."""
    root = f"http://127.0.0.1:{troubled.server_address[1]}"
    if request.param == "http":
        return f"{root}/bucket/model.bin", {}
    if request.param == "gs":
        return "gs://bucket/model.bin", {"STORAGE_EMULATOR_HOST": root}
    return "s3://bucket/model.bin", {
        "AWS_ENDPOINT_URL": root,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "r",
    }


def halves(home: Home, name: str) -> list[str]:
    """Files of an app, or of what is shared, that are larger than nothing and not whole."""
    places = [home.path / "apps", home.path / "cache" / "parameters" / "parts"]
    return [
        str(path)
        for place in places
        for path in place.rglob("*")
        if path.is_file() and path.name != "log" and 10_000 < path.stat().st_size < SIZE
    ]


def test_a_cut_at_60_percent_goes_on_from_there(
    home: Home, project: Project, troubled: Troubled, served: tuple[str, dict[str, str]]
):
    # Each part breaks off once.
    broken: set[str | None] = set()

    def send(_: int, body: bytes) -> bytes:
        part = hashlib.md5(body[-100:] + str(len(body)).encode()).hexdigest()
        with troubled.lock:
            if part in broken or len(body) < 1_000_000:
                return body
            broken.add(part)
        return body[: len(body) * 6 // 10]

    troubled.send = send
    url, variables = served
    name = f"cut-{url.split(':')[0]}"
    assert get_json(app(project, name, url, variables).result()) == hashlib.md5(CONTENT).hexdigest()
    starts = sorted(
        int(range_.removeprefix("bytes=").split("-")[0]) for _, range_, _ in troubled.gets if range_
    )
    assert len(starts) == len(set(starts)), "nothing was fetched twice"
    assert len(starts) > 3 and all(tag == troubled.etag for *_, tag in troubled.gets)
    assert not halves(home, name)


def test_damage_is_noticed_and_fetched_again(home: Home, project: Project, troubled: Troubled):
    troubled.content = SMALL
    troubled.etag = f'"{hashlib.md5(SMALL).hexdigest()}"'
    troubled.send = lambda number, body: body if number > 1 else b"A" + body[1:]
    variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{troubled.server_address[1]}"}
    assert get_json(app(project, "damaged", "s3://b/k", variables).result()) == hashlib.md5(SMALL).hexdigest()
    assert len(troubled.gets) == 2


def test_what_lies_damaged_fails_with_the_parameters_name(home: Home, project: Project, troubled: Troubled):
    troubled.send = lambda number, body: b"A" + body[1:]
    variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{troubled.server_address[1]}"}
    failure = app(project, "rotten", "s3://b/rotten.bin", variables).failure()
    assert failure["code"] == "runtime.parameter"
    assert "parameter `model`" in failure["text"]
    assert "`s3://b/rotten.bin` arrived damaged twice: its MD5 is" in failure["text"]
    assert troubled.etag.strip('"') in failure["text"]
    assert not halves(home, "rotten")
    assert not list(home.path.rglob("rotten.bin"))


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_other_checksums_are_compared_too(home: Home, project: Project, troubled: Troubled, content: bytes):
    # What was sent to S3 in several pieces, or is encrypted there, has no MD5 for a tag.
    def of(crc: int) -> str:
        return base64.b64encode(crc.to_bytes(4, "big")).decode()

    troubled.content, troubled.etag = content, '"0123-3"'
    troubled.headers = lambda number: {"x-amz-checksum-crc32": of(zlib.crc32(content))}
    variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{troubled.server_address[1]}"}
    name = f"crc-{len(content)}"
    served = app(project, name, f"s3://b/{name}", variables).result()
    assert get_json(served) == hashlib.md5(content).hexdigest()
    troubled.send = lambda number, body: b"A" + body[1:]
    failure = app(project, f"{name}-bad", f"s3://b/{name}-bad", variables).failure()
    assert "parameter `model`" in failure["text"] and "its CRC32 is" in failure["text"]
    # Google tells another one, beside parts as well.
    troubled.headers = lambda number: {"x-goog-hash": "crc32c=AAAAAA==,md5=x"}
    variables = {"STORAGE_EMULATOR_HOST": variables["AWS_ENDPOINT_URL"]}
    failure = app(project, f"{name}-gs", f"gs://b/{name}", variables).failure()
    assert "its CRC32C is" in failure["text"] and "says 00000000" in failure["text"]


def test_content_md5_of_a_web_server_is_compared(home: Home, project: Project, troubled: Troubled):
    troubled.content = SMALL
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    troubled.headers = lambda number: {"Content-MD5": wrong}
    url = f"http://127.0.0.1:{troubled.server_address[1]}/x"
    failure = app(project, "promised", url, {}).failure()
    assert "arrived damaged twice" in failure["text"]


def test_content_md5_of_azure_is_compared(home: Home, project: Project, troubled: Troubled):
    troubled.content = SMALL
    right = base64.b64encode(hashlib.md5(SMALL).digest()).decode()
    troubled.headers = lambda number: {"Content-MD5": right}
    endpoint = f"http://127.0.0.1:{troubled.server_address[1]}/account"
    key = base64.b64encode(b"key").decode()
    text = f"AccountName=account;AccountKey={key};BlobEndpoint={endpoint};"
    variables = {"AZURE_STORAGE_CONNECTION_STRING": text}
    answer = get_json(app(project, "azure-right", "abfs://box/right", variables).result())
    assert answer == hashlib.md5(SMALL).hexdigest()
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    troubled.headers = lambda number: {"Content-MD5": wrong}
    failure = app(project, "azure-wrong", "abfs://box/wrong", variables).failure()
    assert "parameter `model`" in failure["text"] and "arrived damaged twice" in failure["text"]


class Streaming(Answering):
    """Makes its content while it sends it: no size, no ranges, no version."""

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.asked.append((self.command, self.headers.get("Range"), None))
            number = len(server.gets)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in server.headers(number).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = server.send(number, server.content)
        with contextlib.suppress(OSError):
            for start in range(0, len(sent), 1 << 16):
                piece = sent[start : start + (1 << 16)]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if len(sent) == len(server.content):
                self.wfile.write(b"0\r\n\r\n")
                return
            self.connection.shutdown(2)
        self.close_connection = True


@pytest.mark.parametrize("headers", [{}, {"Accept-Ranges": "bytes"}])
def test_a_cut_without_ranges_or_size_begins_anew(
    home: Home, project: Project, troubled: Troubled, headers: dict[str, str]
):
    troubled.RequestHandlerClass = Streaming
    # Parts of something whose end is not known cannot be asked for, whatever the server says.
    troubled.headers = lambda number: headers
    # What comes the second time is shorter than what had arrived: nothing of that is left behind it.
    later = CONTENT[:5000]

    def send(number: int, body: bytes) -> bytes:
        if number == 1:
            return body[: len(body) * 6 // 10]
        troubled.content = later
        return later

    troubled.send = send
    url = f"http://127.0.0.1:{troubled.server_address[1]}/made/on/the/way.bin"
    name = f"streamed-{len(headers)}"
    answer = get_json(app(project, name, url, {}).result())
    assert answer == hashlib.md5(later).hexdigest()
    assert len(troubled.gets) == 2 and not halves(home, name)


def test_a_replica_that_is_killed_on_the_way_leaves_no_half_file(tmp_path: Path, troubled: Troubled):
    import gzip
    import json
    import subprocess
    import sys

    going_on, half = threading.Event(), threading.Event()

    def send(number: int, body: bytes) -> bytes:
        half.set()
        going_on.wait(30)
        return body

    url = f"http://127.0.0.1:{troubled.server_address[1]}/model.bin"
    sent = {"name": "model", "value": url, "download": True, "type": "file", "dest": "in/model.bin"}
    text = json.dumps({"parameters": [{"env_var": None, "ignore_patterns": [], **sent}]})
    blob = base64.b64encode(gzip.compress(text.encode())).decode()
    words = [str(Path(sys.executable).with_name("fserve")), "--version", "1", "--parameters", blob, "--"]
    troubled.send = send
    process = subprocess.Popen([*words, "md5sum", "in/model.bin"], cwd=tmp_path, stdout=subprocess.PIPE)
    assert half.wait(30)
    process.kill()
    process.communicate()
    assert not (tmp_path / "in" / "model.bin").exists()
    going_on.set()
    done = subprocess.run([*words, "md5sum", "in/model.bin"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [hashlib.md5(CONTENT).hexdigest(), "in/model.bin"], done.stderr


def test_a_server_that_always_breaks_off_is_given_up(home: Home, project: Project, troubled: Troubled):
    troubled.content = SMALL
    troubled.etag = '"other"'
    troubled.send = lambda number, body: b""
    url = f"http://127.0.0.1:{troubled.server_address[1]}/never?signature=hidden"
    failure = app(project, "never", url, {}).failure()
    assert failure["code"] == "runtime.parameter"
    assert "parameter `model`" in failure["text"] and "broke off after 0 bytes" in failure["text"]
    assert "/never`" in failure["text"] and "hidden" not in failure["text"]


def test_what_changes_on_the_way_is_not_mixed(home: Home, project: Project, troubled: Troubled):
    def send(number: int, body: bytes) -> bytes:
        troubled.etag = '"changed"'
        return body[: len(body) // 2]

    troubled.send = send
    url = f"http://127.0.0.1:{troubled.server_address[1]}/moving"
    failure = app(project, "moving", url, {}).failure()
    assert "was changed while it was read" in failure["text"]
    assert not halves(home, "moving")


def test_a_second_app_fetches_nothing(home: Home, project: Project, troubled: Troubled):
    url = f"http://127.0.0.1:{troubled.server_address[1]}/shared.bin"
    for name in ("first", "second"):
        assert get_json(app(project, name, url, {}).result()) == hashlib.md5(CONTENT).hexdigest()
        if name == "first":
            troubled.asked.clear()
    assert troubled.asked == [("HEAD", None, None)]
    shared = [path for path in home.run_folder("second").rglob("shared.bin")]
    assert [os.stat(path).st_nlink for path in shared] == [3]
    logs = home.flyte("get", "logs", "second").stdout
    assert "here already" in logs
    troubled.etag = '"a newer version"'
    troubled.content = SMALL
    assert get_json(app(project, "third", url, {}).result()) == hashlib.md5(SMALL).hexdigest()


def test_replicas_that_start_together_fetch_once(home: Home, project: Project, troubled: Troubled):
    troubled.content = SMALL * 1000
    troubled.etag = '"once"'
    url = f"http://127.0.0.1:{troubled.server_address[1]}/once.bin"
    app(project, "many", url, {})
    text = (project.folder / "main.py").read_text()
    project.write(
        "main.py", text.replace("name='many',", "name='many', scaling=flyte.app.Scaling(replicas=3),")
    )
    project.result()
    assert len(home.replicas("many")) >= 3
    assert len(troubled.gets) == 1


@pytest.fixture(scope="module")
def places(home: Home) -> Iterator[Callable[[str], stores.Store]]:
    """Real stores with a few files in them."""
    folder = Path(tempfile.mkdtemp(prefix="flyte-stores-", dir="/tmp"))
    folder.chmod(0o755)
    opened: dict[str, stores.Store] = {}
    with contextlib.ExitStack() as stack:

        def place(kind: str) -> stores.Store:
            if kind not in opened:
                opening = {"s3": stores.s3, "https": lambda: stores.web(folder)}[kind]
                store = opened[kind] = stack.enter_context(opening())
                for key in ("models/best.bin", "models/deep/x.txt", "private/x.bin", "get-only/x", "whole/x"):
                    store.put(key, SMALL)
            return opened[kind]

        yield place
    shutil.rmtree(folder)


def test_a_second_app_fetches_nothing_of_a_folder(home: Home, project: Project, places):
    store = places("s3")
    for number in range(20):
        store.put(f"shared/sub/{number:03}.bin", SMALL * 1000 + bytes([number]))
    url, variables = store.url("shared"), store.variables()
    first = get_json(app(project, "first-folder", url, variables, "Dir").result())
    stores.ask(store.port, "POST", "/moto-api/recorder/reset-recording")
    stores.ask(store.port, "POST", "/moto-api/recorder/start-recording")
    second = get_json(app(project, "second-folder", url, variables, "Dir").result())
    stores.ask(store.port, "POST", "/moto-api/recorder/stop-recording")
    recorded = stores.ask(store.port, "GET", "/moto-api/recorder/download-recording")[1].decode()
    assert first == second
    # It asks what there is, and for nothing of it.
    assert "list-type=2" in recorded and ".bin" not in recorded, recorded
    linked = list(home.run_folder("second-folder").rglob("*.bin"))
    assert len(linked) == 20 and {os.stat(path).st_nlink for path in linked} == {3}


@pytest.mark.parametrize(
    ("source", "key", "kind", "said"),
    [
        ("s3", "models/bets.bin", "File", "did you mean `s3://bucket/models/best.bin`?"),
        ("s3", "models/deep", "File", 'declare it as `Dir` or with `type="directory"`'),
        ("s3", "modles", "Dir", "did you mean `s3://bucket/models`?"),
        ("https", "models/none.bin", "File", "does not exist"),
        ("https", "private/x.bin", "File", "may not be read"),
        ("https", "private/x.bin?signature=wrong", "File", "may not be read"),
        ("https", "models", "Dir", "plain web servers tell nothing of their folders"),
    ],
)
def test_refusals_say_what_to_do(home: Home, project: Project, places, source, key, kind, said):
    store = places(source)
    failure = app(project, "refused", store.url(key), store.variables(), kind).failure()
    assert failure["code"] == "runtime.parameter"
    assert "parameter `model`" in failure["text"]
    assert said in failure["text"]
    assert "=wrong" not in failure["text"]


@pytest.mark.parametrize("key", ["private/x.bin?signature=good", "get-only/x", "whole/x"])
def test_web_servers_of_all_kinds(home: Home, project: Project, places, key):
    store = places("https")
    name = f"web-{key.split('/')[0]}"
    answer = get_json(app(project, name, store.url(key), store.variables()).result())
    assert answer == hashlib.md5(SMALL).hexdigest()


def test_a_certificate_that_nobody_vouches_for_is_refused(home: Home, project: Project, places):
    failure = app(project, "untrusted", places("https").url("models/best.bin"), {}).failure()
    assert "parameter `model`" in failure["text"] and "certificate" in failure["text"].lower()


def test_nobody_asks_without_saying_so(home: Home, project: Project, troubled: Troubled):
    """Requests without credentials are refused by a store that wants some."""
    troubled.headers = lambda number: {}

    class Denying(Answering):
        def do_GET(self) -> None:
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            assert "Authorization" not in self.headers
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    troubled.RequestHandlerClass = Denying
    variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{troubled.server_address[1]}", "HOME": str(home.path)}
    failure = app(project, "anonymous", "s3://b/k", variables).failure()
    assert "`s3://b/k` may not be read" in failure["text"]
    assert "AWS_ACCESS_KEY_ID" in failure["text"] and "secrets" in failure["text"]
