"""`fserve` in a real container: the table of parameters once more, and the duties of process 1."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stores
from support import WEB, get_json, until

import flyte

# The server of a store is built for its first test.
pytestmark = pytest.mark.timeout(900)

IMAGE = os.environ.get("FLYTE_TEST_IMAGE", "flyte-test-base:bookworm")
# What can be fetched where that one was not made: any Python of ours on the C library of this wheel.
PUBLIC_IMAGE = "python:3.12-slim-bookworm"
PACKAGES = Path(flyte.__file__).parents[1]


@pytest.fixture(scope="module")
def docker() -> str:
    program = shutil.which("docker")
    if not program:
        stores.missing("`docker`")
    return str(program)


@pytest.fixture(scope="module")
def image(docker: str) -> str:
    """An image with Python and nothing of ours."""
    for words in (["image", "inspect", IMAGE], ["pull", "--quiet", PUBLIC_IMAGE]):
        if subprocess.run([docker, *words], capture_output=True).returncode == 0:
            return words[-1]
    stores.missing(f"the image `{IMAGE}` (or another in `FLYTE_TEST_IMAGE`)")
    raise AssertionError


class Container:
    """A container that runs `fserve` with our package, on the network of this machine."""

    def __init__(self, docker: str, image: str, folder: Path, *words: str, **variables: str) -> None:
        self.docker = docker
        self.port = stores.free_port()
        variables = {"PYTHONPATH": "/sdk", "PORT": str(self.port), **variables}
        fserve = "from flyte._runtime import main; main()"
        command = [docker, "run", "--detach", "--network", "host", "--workdir", "/app"]
        for name, value in variables.items():
            command += ["--env", f"{name}={value}"]
        command += ["--volume", f"{PACKAGES}:/sdk:ro", "--volume", f"{folder}:/app"]
        command += [image, "python3", "-c", fserve, "--version", "1", *words]
        self.name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def said(self) -> str:
        done = subprocess.run([self.docker, "logs", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def is_running(self) -> bool:
        return self.inspect("{{.State.Running}}") == "true"

    def inspect(self, form: str) -> str:
        words = [self.docker, "inspect", "--format", form, self.name]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def answer(self, path: str = "/") -> Any:
        def listens() -> bool:
            assert self.is_running(), self.said()
            with contextlib.suppress(OSError):
                get_json(f"http://127.0.0.1:{self.port}{path}")
                return True
            return False

        until(listens, 30)
        return get_json(f"http://127.0.0.1:{self.port}{path}")

    def stop(self, seconds: int = 10) -> tuple[int, float]:
        """Exit status and how long it took."""
        begun = time.monotonic()
        subprocess.run(
            [self.docker, "stop", "--time", str(seconds), self.name], check=True, capture_output=True
        )
        return int(self.inspect("{{.State.ExitCode}}")), time.monotonic() - begun

    def end(self) -> None:
        subprocess.run([self.docker, "rm", "--force", self.name], capture_output=True)


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="flyte-in-", dir="/tmp"))
    (folder / "web.py").write_text(WEB)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def payload(parameters: list[dict[str, Any]]) -> str:
    """`--parameters`, as any client writes it."""
    whole = [{"env_var": None, "dest": None, "ignore_patterns": [], **one} for one in parameters]
    text = json.dumps({"parameters": whole}, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


# Larger than what is fetched in one piece.
LARGE = bytes(range(256)) * 4096 * 20
PEER = '{"type":"string","app_name":"shop","public":false}'

TOLD = """
import json, os
import flyte, web
from flyte.app import AppEnvironment, get_parameter
from flyte.io import Dir, File

env = AppEnvironment(name="contained", port=int(os.environ["PORT"]))

def described(value):
    import hashlib
    if not isinstance(value, (str, File, Dir)):
        return value
    path = str(value)
    if os.path.isdir(path):
        return {
            os.path.relpath(os.path.join(folder, name), path): open(os.path.join(folder, name)).read()
            for folder, _, names in os.walk(path) for name in sorted(names)
        }
    if os.path.isfile(path):
        data = open(path, "rb").read()
        return data.decode() if len(data) < 100 else hashlib.md5(data).hexdigest()
    return path

@env.server
def server(**given):
    answer = {
        name: [described(given[name]), described(get_parameter(name)), described(os.environ[name.upper()])]
        for name in given
    }
    web.serve(lambda path: answer, port=int(os.environ["PORT"]))
"""


@pytest.mark.parametrize("source", ["file", "s3", "gs", "abfs", "https"])
def test_table_in_a_container(docker: str, image: str, place: Path, tmp_path: Path, source: str):
    (place / "main.py").write_text(TOLD)
    tmp_path.chmod(0o755)
    opened = {
        "file": lambda: contextlib.nullcontext(stores.Files(place / "data")),
        "s3": stores.s3,
        "gs": stores.google,
        "abfs": lambda: stores.azure(tmp_path),
        "https": lambda: stores.web(place),
    }
    with opened[source]() as store:
        store.put("one.txt", b"one")
        store.put("large.bin", LARGE)
        store.put("empty", b"")
        store.put("tree/a.txt", b"a")
        store.put("tree/sub/b.log", b"b")
        url = store.url

        def at(key: str) -> str:
            return url(key).replace(str(place), "/app")

        parameters: list[dict[str, Any]] = [
            {"name": "text", "value": "t", "download": False, "type": "string"},
            {"name": "number", "value": "7", "download": False, "type": "string", "kind": "int"},
            {"name": "ratio", "value": "0.5", "download": False, "type": "string", "kind": "float"},
            {"name": "flag", "value": "true", "download": False, "type": "string", "kind": "bool"},
            {"name": "peer", "value": PEER, "download": False, "type": "app_endpoint"},
            {"name": "into", "value": at("one.txt"), "download": True, "type": "file", "dest": "put/there/"},
            {"name": "large", "value": at("large.bin"), "download": True, "type": "file"},
            {"name": "empty", "value": at("empty"), "download": True, "type": "file"},
            {"name": "file", "value": at("one.txt"), "download": True, "type": "file"},
            {"name": "named", "value": at("one.txt"), "download": True, "type": "file", "dest": "/srv/x.bin"},
            {"name": "kept", "value": "s3://b/k", "download": False, "type": "file"},
        ]
        if source != "https":
            tree = {"value": at("tree"), "download": True, "type": "directory"}
            parameters += [
                {"name": "folder", **tree},
                {"name": "mounted", **tree, "dest": "/srv/tree"},
                {"name": "kept_folder", **tree, "value": "gs://b/tree", "download": False},
                {"name": "partly", **tree, "dest": "in/", "ignore_patterns": ["*.log"]},
            ]
        for parameter in parameters:
            parameter["env_var"] = parameter["name"].upper()
        variables = {name: value.replace(str(place), "/app") for name, value in store.variables().items()}
        container = Container(
            docker,
            image,
            place,
            "--parameters",
            payload(parameters),
            "--resolver-args",
            "main:env",
            "--",
            INTERNAL_APP_ENDPOINT_PATTERN="http://{app_fqdn}.svc",
            **variables,
        )
        try:
            answer = container.answer()
            assert container.stop()[0] == 0, container.said()
        finally:
            container.end()
    expected: dict[str, Any] = {"text": "t", "file": "one", "named": "one", "kept": "s3://b/k"}
    large = hashlib.md5(LARGE).hexdigest()
    expected |= {"peer": "http://shop.svc", "into": "one", "large": large, "empty": ""}
    if source != "https":
        tree = {"a.txt": "a", "sub/b.log": "b"}
        expected |= {"folder": tree, "mounted": tree, "partly": {"a.txt": "a"}, "kept_folder": "gs://b/tree"}
    scalars = {"number": [7, 7, "7"], "ratio": [0.5, 0.5, "0.5"], "flag": [True, True, "true"]}
    assert answer == {name: [value] * 3 for name, value in expected.items()} | scalars


SERVER = """
import json, os, signal, subprocess, sys
import flyte, web
from flyte.app import AppEnvironment

env = AppEnvironment(name="first", port=int(os.environ["PORT"]))

def orphan():
    # The middle one ends at once, and its child is nobody's.
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'pass'])"
    subprocess.run([sys.executable, "-c", script], check=True)

def zombies():
    states = [open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
              for pid in os.listdir("/proc") if pid.isdigit()]
    return states.count("Z")

def answer(path):
    if path == "/orphan":
        for _ in range(5):
            orphan()
    return {"pid": os.getpid(), "zombies": zombies()}

@env.server
def server():
    web.serve(answer, port=int(os.environ["PORT"]))

@env.on_shutdown
def stopped():
    print("shutdown hook ran", flush=True)

if __name__ == "__main__":
    web.serve(answer, port=int(os.environ["PORT"]))
"""


@pytest.mark.parametrize("kind", ["server", "command"])
def test_process_1_buries_orphans_and_forwards_signals(docker: str, image: str, place: Path, kind: str):
    (place / "main.py").write_text(SERVER)
    words = ["--resolver-args", "main:env", "--"] if kind == "server" else ["--", "python3", "main.py"]
    container = Container(docker, image, place, *words)
    try:
        assert container.answer()["pid"] != 1
        container.answer("/orphan")
        until(lambda: container.answer()["zombies"] == 0, 10, "orphans are buried")
        status, seconds = container.stop(60)
        assert seconds < 30, "it was killed rather than asked"
        if kind == "server":
            assert status == 0, container.said()
            assert "shutdown hook ran" in container.said()
        else:
            # A command that leaves the signal to the kernel ends by it.
            assert status == 143
    finally:
        container.end()


def test_the_status_of_a_command_is_that_of_the_container(docker: str, image: str, place: Path):
    container = Container(docker, image, place, "--", "sh", "-c", "exit 7")
    try:
        until(lambda: not container.is_running(), 20)
        assert container.inspect("{{.State.ExitCode}}") == "7", container.said()
    finally:
        container.end()
