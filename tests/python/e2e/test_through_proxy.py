"""Our client and our platform with nginx between them, as with a cluster behind an ingress.

`FLYTE_TEST_THROUGH=nginx` puts it before every test of a run; here it is always there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import WEB, Home, Project, get_json, until
from through import Nginx

MAIN = """
import flyte, flyte.app, web

env = flyte.app.AppEnvironment(name="proxied")

@env.server
def server():
    print("up", flush=True)
    web.serve(lambda path: {"path": path})

if __name__ == "__main__":
    print(flyte.serve(env).endpoint)
"""


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_life_of_an_app(fresh_home: Home, tmp_path: Path, tls: bool) -> None:
    (tmp_path / "nginx").mkdir()
    (tmp_path / "project").mkdir()
    nginx = Nginx(fresh_home, tmp_path / "nginx", tls)
    project = Project(tmp_path / "project", fresh_home)
    project.write("web.py", WEB)
    project.write("main.py", MAIN)
    try:
        served = project.run()
        assert served.returncode == 0, served.stderr
        endpoint = served.stdout.strip()
        assert get_json(endpoint + "/a") == {"path": "/a"}
        before = nginx.calls()
        again = project.run()
        assert (again.returncode, again.stdout) == (0, served.stdout), again.stderr
        assert nginx.calls() > before
        assert fresh_home.json("update", "app", "proxied", "--deactivate", "--wait")["status"] == "STOPPED"
        assert fresh_home.json("update", "app", "proxied", "--activate", "--wait")["status"] == "ACTIVE"
        until(lambda: "up" in fresh_home.flyte("get", "logs", "proxied").stdout, 10)
        # What only a local platform tells is told on this way too.
        assert fresh_home.json("get", "app", "proxied")["traffic"]
        assert len(fresh_home.json("get", "app", "proxied", "--revisions")) == 1
        assert fresh_home.flyte("delete", "app", "proxied").returncode == 0
        asked = (nginx.folder / "access.log").read_text()
        for path in ("AppService/Create", "AppService/Watch", "AppLogsService/TailLogs", "/upload/local/"):
            assert path in asked, path
        assert nginx.protocols() == {"HTTP/2.0" if tls else "HTTP/1.1"}
    finally:
        nginx.close()
