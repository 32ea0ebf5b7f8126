"""`flyte doctor`: what is told of this machine is so, and what is broken is said with its fix."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest
from support import Home

import flyte


def checks(home: Home, *words: str, status: int = 0, **more: str) -> dict[str, dict[str, str]]:
    done = home.flyte("doctor", "--output", "json", *words, **more)
    assert done.returncode == status, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is (status == 0)
    return {check["name"]: check for check in told["checks"]}


def test_a_machine_that_serves(home):
    assert home.flyte("local", "start").returncode == 0
    found = checks(home)
    assert {
        "Python",
        "uv",
        "config",
        "home",
        "disk",
        "platform",
        "kernel",
        "Docker",
        "registry",
    } <= found.keys()
    version = f"{sys.version_info.major}.{sys.version_info.minor} "
    assert found["Python"]["detail"].startswith(version)
    assert found["home"]["detail"] == str(home.path)
    assert found["platform"]["state"] == "ok"
    assert str(home.status()["pid"]) in found["platform"]["detail"]
    free = os.statvfs(home.path)
    told = float(found["disk"]["detail"].split()[0])
    assert told == pytest.approx(free.f_bavail * free.f_frsize / 1e9, rel=0.2)
    text = home.flyte("doctor").stdout
    assert text.endswith("everything that serving needs is there\n")
    assert "✓ uv" in text


def test_looking_starts_nothing(fresh_home):
    found = checks(fresh_home)
    assert found["platform"]["state"] == "absent"
    assert fresh_home.flyte("local", "status").returncode == 1


def test_a_port_that_is_taken(fresh_home):
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", 32100))
            taken.listen()
        except OSError:
            pass  # Another platform of this machine has it, which is the case that is meant.
        found = checks(fresh_home)
    assert "32100" in found["ports"]["detail"]
    assert "the next free one is used" in found["ports"]["detail"]


def test_a_broken_configuration_is_told_and_fails(fresh_home, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("admin:\n  endpont: dns:///x\n")
    found = checks(fresh_home, "--config", str(config), status=1)
    assert found["config"]["state"] == "broken"
    assert "admin.endpont" in found["config"]["detail"]
    assert found["config"]["fix"] == "did you mean `admin.endpoint`?"


def test_docker_and_its_logins(fresh_home, tmp_path):
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"auths": {"ghcr.io": {"auth": "c2VjcmV0OmtleQ=="}}}))
    more = {"DOCKER_CONFIG": str(folder), "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    done = fresh_home.flyte("doctor", **more)
    assert done.returncode == 0, "nothing that every app needs"
    assert "login for ghcr.io" in done.stdout
    assert "c2VjcmV0" not in done.stdout
    assert "- Docker" in done.stdout and "fix: start Docker" in done.stdout


class _Cluster(http.server.BaseHTTPRequestHandler):
    ahead = 0.0

    def do_GET(self) -> None:
        self.send_response_only(404)
        self.send_header("Date", formatdate(time() + self.ahead, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("ahead", "state"), [(0.0, "ok"), (100.0, "warning"), (900.0, "broken")])
def test_the_clock_is_compared_with_the_clusters(fresh_home, ahead, state):
    handler = type("Handler", (_Cluster,), {"ahead": ahead})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        found = checks(fresh_home, "--endpoint", endpoint, status=int(state == "broken"))
    finally:
        server.shutdown()
        server.server_close()
    assert found["cluster"]["state"] == "ok"
    assert found["clock"]["state"] == state
    assert "platform" not in found


def test_a_cluster_that_does_not_answer(fresh_home):
    found = checks(fresh_home, "--endpoint", "http://127.0.0.1:9", status=1)
    assert found["cluster"]["state"] == "broken"
    assert "127.0.0.1:9" in found["cluster"]["detail"]


def test_a_home_that_cannot_be_written(fresh_home, tmp_path):
    # Below a file there is no folder, not even for root.
    (tmp_path / "file").write_text("")
    home = str(tmp_path / "file" / "home")
    assert checks(fresh_home, status=1, FLYTE_HOME=home)["home"]["state"] == "broken"


def test_a_missing_uv_is_broken(fresh_home, tmp_path):
    # The package alone, beside an interpreter that has no `uv`, neither its own nor on the path.
    package = Path(flyte.__file__).parent
    (tmp_path / "flyte").symlink_to(package)
    program = "import sys; from flyte._native import command_line; sys.exit(command_line(sys.argv))"
    base = Path(sys.base_prefix) / "bin" / "python3"
    done = subprocess.run(
        [base, "-c", program, "doctor", "--output", "json"],
        env={**fresh_home.environment(PATH=str(tmp_path)), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["uv"]["state"] == "broken"
    assert found["uv"]["fix"] == "pip install uv"
