"""A replica as a cluster starts it: with the PyPI SDK's variables, and nothing of the local platform's.

The control plane is a platform of this machine that is only reached over TCP, as its variables say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stores
from support import WEB, Home, Project, get_json, until

# As on the machine that deployed it, where the file was.
APP = """
import json, os
import flyte
from flyte.app import AppEndpoint, AppEnvironment, Parameter
from flyte.io import File
import web

shop = AppEnvironment(name="shop", args=["python", "-m", "http.server", "8080"])
env = AppEnvironment(
    name="asking",
    parameters=[Parameter("sent", File.from_local_sync("not-here.bin"))],
    image=flyte.Image.from_debian_base().with_source_file("not-here.txt"),
)
# At the top level, by an oversight: in a replica it looks the app up.
served = flyte.serve(shop)

@env.server
def server(public):
    import flyte.remote

    web.serve(
        lambda path: {
            "parameter": public,
            "endpoint": shop.endpoint,
            "handle": flyte.remote.App.get("shop").endpoint,
            "served": served.endpoint,
            "replica": os.environ["_FLYTE_IN_REPLICA"],
        },
        port=int(os.environ["SERVE_AT"]),
    )
"""
SHOP = """
import flyte
from flyte.app import AppEnvironment

env = AppEnvironment(name="shop", args=["python", "-m", "http.server", "8080"])
"""


@contextlib.contextmanager
def replica(words: list[str], folder: Path, **variables: str) -> Iterator[Any]:
    """What a bare `fserve` in an empty folder answers."""
    folder.mkdir()
    port = stores.free_port()
    skipped = ("FLYTE_", "_FLYTE", "_RUN_MODE", "INTERNAL_APP", "_U_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
    log = folder.parent / "replica.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("fserve"), *words],
            cwd=folder,
            # A home in which no platform is.
            env={**own, "HOME": str(folder), "SERVE_AT": str(port), **variables},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: _listens(port, process, log), 60, "the replica listens")
        yield get_json(f"http://127.0.0.1:{port}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    import socket

    assert process.poll() is None, log.read_text()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    files = tmp_path / "files"
    files.mkdir()
    (files / "main.py").write_text(APP)
    (files / "web.py").write_text(WEB)
    archive = tmp_path / "bundle.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for file in files.iterdir():
            packed.add(file, file.name)
    return str(archive)


def encoded(*parameters: dict[str, Any]) -> str:
    import base64
    import gzip
    import json

    return base64.b64encode(gzip.compress(json.dumps({"parameters": parameters}).encode())).decode()


def test_a_replica_asks_the_control_plane_that_runs_it(
    home: Home, project: Project, bundle: str, tmp_path: Path
):
    port = stores.free_port()
    started = home.flyte("local", "start", "--listen", f"127.0.0.1:{port}")
    assert started.returncode == 0, started.stderr
    project.write("shop.py", SHOP)
    done = home.flyte("serve", "shop.py", "-o", "json", cwd=project.folder, timeout=150)
    assert done.returncode == 0, done.stderr
    endpoint = home.app("shop")["endpoint"]
    sent = encoded(
        {
            "name": "public",
            "value": '{"type":"string","app_name":"shop","public":true}',
            "download": False,
            "type": "app_endpoint",
        }
    )
    options = ["--version", "v", "--tgz", bundle, "--dest", ".", "--parameters", sent]
    scope = ["--project", "local", "--domain", "development"]
    words = [*options, *scope, "--resolver", "x", "--resolver-args", "main:env", "--"]
    before = home.app("shop")["revision"]
    with replica(words, tmp_path / "run", _U_EP_OVERRIDE=f"localhost:{port}") as answer:
        assert answer == {
            "parameter": endpoint,
            "endpoint": endpoint,
            "handle": endpoint,
            "served": endpoint,
            "replica": "1",
        }
    assert home.app("shop")["revision"] == before
