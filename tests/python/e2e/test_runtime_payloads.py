"""A command line that the PyPI SDK wrote runs in our `fserve`, and theirs runs ours."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import stores
from support import WEB, Home, Project, get_json, until

# What both SDKs understand; the same file is deployed with one and run by the other.
APP = """
import json, os
import flyte
from flyte.app import AppEnvironment, Parameter, get_parameter
from flyte.io import Dir, File
import web

HERE = os.path.dirname(os.path.abspath(__file__))
env = AppEnvironment(
    name="both",
    parameters=[
        Parameter("text", "a b", env_var="TEXT"),
        Parameter("document", File(path="DATA/one.txt"), env_var="DOCUMENT", mount="in/"),
        Parameter("address", File(path="s3://bucket/key"), download=False),
        Parameter("folder", Dir(path="DATA/tree"), mount="tree"),
    ],
)

@env.server
def server(text, document, address, folder):
    answer = {
        "text": [text, get_parameter("text"), os.environ["TEXT"]],
        "document": [open(str(path)).read() for path in (document.path, get_parameter("document"), os.environ["DOCUMENT"])],
        "address": [address.path, get_parameter("address")],
        "tree": sorted(name for _, _, names in os.walk(folder.path) for name in names),
        "sdk": flyte.__file__,
    }
    web.serve(lambda path: answer, port=int(os.environ["SERVE_AT"]))
"""

EXPECTED = {
    "text": ["a b"] * 3,
    "document": ["one"] * 3,
    "address": ["s3://bucket/key"] * 2,
    "tree": ["a.txt", "b.txt"],
}

PYPI_WRITES = """
import asyncio, json, pathlib, sys
from flyte._code_bundle.bundle import build_code_bundle
from flyte.models import SerializationContext
import flyte

root = pathlib.Path.cwd()
flyte.init(root_dir=root)
sys.path.insert(0, str(root))
import main

bundle = asyncio.run(build_code_bundle(root, dryrun=True, copy_bundle_to=pathlib.Path(sys.argv[1]), copy_style="all"))
context = SerializationContext(version="v1", project="p", domain="d", org="o", code_bundle=bundle, root_dir=root)
print(json.dumps([*main.env.container_cmd(context), *main.env.container_args(context)]))
"""


def prepare(project: Project, data: Path) -> None:
    """The app's file, and what its parameters name."""
    (data / "tree" / "sub").mkdir(parents=True)
    (data / "one.txt").write_text("one")
    (data / "tree" / "a.txt").write_text("a")
    (data / "tree" / "sub" / "b.txt").write_text("b")
    (project.folder / "web.py").write_text(WEB)
    (project.folder / "main.py").write_text(APP.replace("DATA", str(data)))


@contextlib.contextmanager
def replica(words: list[str], folder: Path, *expected_in_sdk: str) -> Iterator[dict]:
    """What the app says when these words run in an empty folder."""
    folder.mkdir()
    port = stores.free_port()
    skipped = ("FLYTE_", "_FLYTE", "_RUN_MODE", "INTERNAL_APP", "PYTHONPATH")
    own = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
    process = subprocess.Popen(
        words,
        cwd=folder,
        env={**own, "SERVE_AT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def listens() -> bool:
        assert process.poll() is None, process.communicate()[0]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, 60, "the replica listens")
        yield get_json(f"http://127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check(answer: dict, python: str) -> None:
    sdk = answer.pop("sdk")
    assert answer == EXPECTED
    assert Path(sdk).is_relative_to(Path(python).parent.parent), sdk


def test_ours_runs_what_the_pypi_sdk_wrote(project: Project, tmp_path_factory, pypi_python: str):
    folder = tmp_path_factory.mktemp("theirs")
    prepare(project, folder / "data")
    (folder / "bundle").mkdir()
    done = subprocess.run(
        [pypi_python, "-c", PYPI_WRITES, str(folder / "bundle")],
        cwd=project.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    words = json.loads(done.stdout.splitlines()[-1])
    assert words[0] == "fserve" and "--tgz" in words and "--parameters" in words
    words[0] = str(Path(sys.executable).with_name("fserve"))
    with replica(words, folder / "run") as answer:
        check(answer, sys.executable)


def stored_command(home: Home, name: str) -> list[str]:
    """The command line of an app as the platform keeps it."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(home.status()["socket"])
    asked = {"appId": {"project": "local", "domain": "development", "name": name}}
    path = "/flyteidl2.app.AppService/Get"
    connection.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return list(answer["app"]["spec"]["container"]["command"])


def test_theirs_runs_what_we_wrote(home: Home, project: Project, tmp_path_factory, pypi_python: str):
    folder = tmp_path_factory.mktemp("ours")
    prepare(project, folder / "data")
    archive = folder / "bundle.tar.gz"
    project.write(
        "deploy.py",
        f"""
        import os
        import flyte, main

        os.environ["SERVE_AT"] = "0"
        main.env.env_vars = {{"SERVE_AT": "8080"}}
        flyte.serve(main.env)
        # An image that may hold the PyPI SDK is sent what that can unpack.
        main.env.image = "ghcr.io/flyteorg/flyte:py3.12-v2.12.1"
        flyte.with_servecontext(copy_style="all", dry_run=True, copy_bundle_to={str(archive)!r}).serve(main.env)
        """,
    )
    done = project.run("deploy.py")
    assert done.returncode == 0, done.stderr
    words = stored_command(home, "both")
    words[words.index("--tgz") + 1] = str(archive)
    words[0] = str(Path(pypi_python).with_name("fserve"))
    with replica(words, folder / "run") as answer:
        check(answer, pypi_python)
