"""Real stores for tests: S3, Google's, Azure's, and a web server with TLS.

Each is a program of its own on a free port, with an empty place to put things. A program that is
not there is installed once into `benches/.peers`; where that cannot be done the test is skipped,
in CI it fails.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from support import until

PEERS = Path(__file__).parents[2] / "benches" / ".peers"
FAKE_GCS = "github.com/fsouza/fake-gcs-server@v1.56.1"
AZURITE = "azurite@3.35.0"

# The account that every Azurite has, as its manual says.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def missing(what: str) -> None:
    """Skip for want of a program; in CI everything has to be there."""
    if os.environ.get("CI"):
        raise AssertionError(f"{what} is missing")
    pytest.skip(f"{what} is missing")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def go_program(name: str, package: str) -> Path:
    """A program written in Go, built if need be."""
    there = shutil.which(name)
    if there:
        return Path(there)
    program = PEERS / "go" / name
    if not program.exists():
        go = shutil.which("go")
        if not go:
            missing(f"`{name}`, and `go` to build it,")
        own = {**os.environ, "GOBIN": str(program.parent)}
        subprocess.run([str(go), "install", package], env=own, check=True, capture_output=True)
    return program


def azurite_program() -> Path:
    """Azurite's blob service, installed if need be."""
    program = PEERS / "npm" / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        npm = shutil.which("npm")
        if not npm:
            missing("`npm` to install Azurite")
        words = [str(npm), "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(PEERS / "npm")]
        subprocess.run([*words, AZURITE], check=True, capture_output=True)
    return program


@contextlib.contextmanager
def running(words: list[str | Path], port: int, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on `port`, ended in the end."""
    process = subprocess.Popen(
        [str(word) for word in words],
        env={**os.environ, **more},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def listens() -> bool:
        assert process.poll() is None, f"`{words[0]}` ended with {process.returncode}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, 60, f"{words[0]} listens")
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(
    port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """One request to a store of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Store:
    """A place that files can be put into."""

    scheme = ""
    bucket = "bucket"

    def __init__(self, port: int) -> None:
        self.port = port

    def variables(self) -> dict[str, str]:
        """What an app needs to read from it."""
        raise NotImplementedError

    def put(self, key: str, content: bytes) -> None:
        """Store a file."""
        raise NotImplementedError

    def url(self, key: str) -> str:
        """The address of a file or folder."""
        return f"{self.scheme}://{self.bucket}/{key}"


class S3(Store):
    """`moto`, which knows S3 as boto3 does."""

    scheme = "s3"

    def variables(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def put(self, key: str, content: bytes) -> None:
        ask(self.port, "PUT", f"/{self.bucket}")
        status, said = ask(self.port, "PUT", f"/{self.bucket}/{urllib.parse.quote(key)}", content)
        assert status == 200, said


class Google(Store):
    """`fake-gcs-server`."""

    scheme = "gs"

    def variables(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": f"127.0.0.1:{self.port}"}

    def put(self, key: str, content: bytes) -> None:
        json = {"Content-Type": "application/json"}
        ask(self.port, "POST", "/storage/v1/b", f'{{"name": "{self.bucket}"}}'.encode(), json)
        name = urllib.parse.quote(key, safe="")
        path = f"/upload/storage/v1/b/{self.bucket}/o?uploadType=media&name={name}"
        status, said = ask(self.port, "POST", path, content, {"Content-Type": "application/octet-stream"})
        assert status == 200, said


class Azure(Store):
    """Azurite, to which every request has to be signed."""

    scheme = "abfs"

    def variables(self) -> dict[str, str]:
        endpoint = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        return {
            "AZURE_STORAGE_CONNECTION_STRING": (
                f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
                f"BlobEndpoint={endpoint};"
            )
        }

    def put(self, key: str, content: bytes) -> None:
        self._signed(f"/{ACCOUNT}/{self.bucket}", {"restype": "container"}, b"", {})
        path = f"/{ACCOUNT}/{self.bucket}/{urllib.parse.quote(key)}"
        status, said = self._signed(path, {}, content, {"x-ms-blob-type": "BlockBlob"})
        assert status == 201, said

    def _signed(
        self, path: str, query: dict[str, str], content: bytes, more: dict[str, str]
    ) -> tuple[int, bytes]:
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02", **more}
        length = str(len(content)) if content else ""
        own = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        resource = f"/{ACCOUNT}{path}" + "".join(f"\n{name}:{query[name]}" for name in sorted(query))
        text = f"PUT\n\n\n{length}\n\n\n\n\n\n\n\n\n{own}{resource}"
        mark = hmac.new(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(mark).decode()}"
        if content:
            headers["Content-Length"] = length
        target = path + ("?" + urllib.parse.urlencode(query) if query else "")
        return ask(self.port, "PUT", target, content, headers)


class Web(Store):
    """nginx with TLS and a certificate authority of its own."""

    scheme = "https"

    def __init__(self, port: int, folder: Path, authority: Path) -> None:
        super().__init__(port)
        self.folder = folder
        self.authority = authority

    def variables(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.authority)}

    def put(self, key: str, content: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def url(self, key: str) -> str:
        return f"https://localhost:{self.port}/{key}"


class Files(Store):
    """Files of this machine."""

    scheme = "file"

    def __init__(self, folder: Path) -> None:
        super().__init__(0)
        self.folder = folder

    def variables(self) -> dict[str, str]:
        return {}

    def put(self, key: str, content: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def url(self, key: str) -> str:
        return f"file://{self.folder}/{key}"


NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  types {{ }}
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.pem;
    root {folder}/files;
    location /private/ {{ if ($arg_signature != "good") {{ return 403; }} }}
    location /get-only/ {{ limit_except GET {{ deny all; }} }}
    location /whole/ {{ max_ranges 0; }}
  }}
}}
"""


@contextlib.contextmanager
def web(folder: Path) -> Iterator[Web]:
    """nginx on a free port."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not nginx:
        missing("`nginx`")
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    (folder / "files").mkdir()
    folder.chmod(0o755)
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    with running([str(nginx), "-p", folder, "-c", folder / "nginx.conf"], port):
        yield Web(port, folder / "files", folder / "ca.pem")


@contextlib.contextmanager
def s3() -> Iterator[S3]:
    """moto on a free port."""
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # What it is told to record lies in the working folder otherwise.
    with tempfile.TemporaryDirectory(prefix="moto-") as folder:
        with running(words, port, MOTO_RECORDER_FILEPATH=f"{folder}/requests"):
            yield S3(port)


@contextlib.contextmanager
def google() -> Iterator[Google]:
    """fake-gcs-server on a free port."""
    program = go_program("fake-gcs-server", FAKE_GCS)
    port = free_port()
    words = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with running([*words, "-public-host", f"127.0.0.1:{port}"], port):
        yield Google(port)


@contextlib.contextmanager
def azure(folder: Path) -> Iterator[Azure]:
    """Azurite on a free port."""
    port = free_port()
    words = [azurite_program(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder]
    with running([*words, "--silent", "--skipApiVersionCheck"], port):
        yield Azure(port)
