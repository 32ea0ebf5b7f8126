"""The PyPI SDK, unmodified, as a client of our platform over TCP; and each side with the other's apps.

Their client and the runtime of the apps that they send are both theirs: the released image that their
apps name is run as an environment with that version of their SDK.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Home, Project, get, get_json, until

APP = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import flyte, flyte.app
import helper

env = flyte.app.AppEnvironment(
    name="theirs",
    env_vars={"WORD": "declared"},
    parameters=[
        flyte.app.Parameter(name="model", value="first", env_var="MODEL"),
        flyte.app.Parameter(name="self", value=flyte.app.AppEndpoint(app_name="ours", public=True)),
    ],
)


@env.server
def server(**values):
    print("model is", values["model"], flush=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            print("asked for", self.path, flush=True)
            told = {
                "parameters": values,
                "word": os.environ["WORD"],
                "flyte": flyte.__version__,
                "helper": helper.VALUE,
            }
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""

PROLOGUE = """
import asyncio, json, os, sys
import flyte
from flyte.remote import App

flyte.init(endpoint=sys.argv[1], insecure=True, project="local", domain="development", org="")

def answer(value):
    print(json.dumps(value), flush=True)
    # On a busy machine the end of the interpreter aborts now and then: threads of the SDK still run.
    os._exit(0)

"""


class Theirs:
    """The PyPI SDK in a folder of its own, with a home of its own."""

    def __init__(self, python: str, folder: Path, endpoint: str) -> None:
        self.python = python
        self.folder = folder
        self.endpoint = endpoint
        self.environment = {
            "HOME": str(folder / "their-home"),
            "PATH": f"{Path(python).parent}:/usr/bin:/bin",
            "DO_NOT_TRACK": "1",
            # The order of their bundle, and with it its name, follows that of a set.
            "PYTHONHASHSEED": "0",
            # A terminal as wide as a table.
            "COLUMNS": "300",
            "TERM": "dumb",
        }

    def _done(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def run(self, code: str) -> Any:
        """What a script of theirs answers, as JSON in its last line."""
        script = self.folder / "script.py"
        text = PROLOGUE + textwrap.dedent(code)
        # It is a part of what they bundle, its time included.
        if not script.exists() or script.read_text() != text:
            script.write_text(text)
        done = self._done([self.python, str(script), self.endpoint])
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def flyte(self, *words: str) -> str:
        """What a command of theirs says; it must succeed."""
        flyte = str(Path(self.python).with_name("flyte"))
        done = self._done([flyte, "--endpoint", self.endpoint, "--insecure", *words])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def endpoint(home: Home) -> str:
    """The platform over TCP."""
    opened = home.json("local", "start", "--listen", "127.0.0.1:0")
    return str(opened["listen"])


@pytest.fixture(scope="module")
def ours(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """An app of ours, which theirs looks up."""
    from support import WEB

    project = Project(tmp_path_factory.mktemp("ours"), home)
    project.write("web.py", WEB)
    project.write(
        "main.py",
        """
        import flyte, flyte.app, web

        env = flyte.app.AppEnvironment(name="ours")

        @env.server
        def server():
            web.serve(lambda path: {"from": "ours"})

        if __name__ == "__main__":
            flyte.serve(env)
        """,
    )
    done = project.run()
    assert done.returncode == 0, done.stderr
    yield project
    project.close()


@pytest.fixture(scope="module")
def theirs(
    pypi_python: str, endpoint: str, ours: Project, tmp_path_factory: pytest.TempPathFactory
) -> Theirs:
    """Their client, with an app that was served by it."""
    theirs = Theirs(pypi_python, tmp_path_factory.mktemp("theirs"), endpoint)
    (theirs.folder / "app.py").write_text(APP)
    (theirs.folder / "helper.py").write_text("VALUE = 7\n")
    served = theirs.run(
        """
        from app import env
        app = flyte.serve(env)
        answer([app.name, app.endpoint, int(app.deployment_status)])
        """
    )
    assert served[0] == "theirs" and served[2] == 7, served
    return theirs


def test_what_they_serve_runs_with_their_own_runtime(theirs: Theirs, home: Home, ours: Project) -> None:
    app = home.json("get", "app", "theirs")
    told = get_json(app["endpoint"])
    assert told["flyte"] == theirs.run("answer(flyte.__version__)")
    assert told["parameters"] == {"model": "first", "self": home.app("ours")["endpoint"]}
    assert (told["word"], told["helper"]) == ("declared", 7)
    # Their declared port, 8080, is not the one that it has: it was rewritten as ours are.
    assert not app["endpoint"].endswith(":8080")


def test_serving_again_changes_nothing_and_a_change_is_rolled_out(theirs: Theirs, home: Home) -> None:
    code = "from app import env\napp = flyte.serve(env)\nanswer(app.revision)"
    theirs.run(code)
    before = home.pid("theirs")
    assert theirs.run(code) == home.json("get", "app", "theirs")["revision"]
    assert home.pid("theirs") == before
    (theirs.folder / "helper.py").write_text("VALUE = 8\n")
    revision = theirs.run(code)
    assert get_json(home.app("theirs")["endpoint"])["helper"] == 8
    assert revision == home.json("get", "app", "theirs")["revision"]


def test_they_see_that_an_update_failed(theirs: Theirs, home: Home) -> None:
    """They read the last condition of each event, and the old revision keeps serving at once."""
    outcome = theirs.run(
        """
        import flyte.app

        def updated(*args):
            return flyte.app.AppEnvironment(name="updated", args=list(args))

        flyte.serve(updated("python", "-m", "http.server", "8080"))
        try:
            flyte.serve(updated("python", "-c", "raise SystemExit(3)"))
            answer("served")
        except RuntimeError as error:
            answer(str(error))
        """
    )
    assert "failed" in outcome, outcome
    assert get(home.app("updated")["endpoint"])[0] == 200
    assert home.flyte("delete", "app", "updated").returncode == 0


def test_what_they_read_before_a_change_does_not_undo_it(theirs: Theirs, home: Home) -> None:
    outcome = theirs.run(
        """
        import flyte.app

        def stale(word):
            return flyte.app.AppEnvironment(
                name="stale", args=["python", "-m", "http.server", "8080"], env_vars={"WORD": word})

        old = flyte.serve(stale("old"))
        flyte.serve(stale("new"))
        try:
            App.update(old.pb2, "of long ago")
            answer("changed")
        except Exception as error:
            answer(str(error))
        """
    )
    assert "revision 1" in outcome and "revision 2" in outcome, outcome
    assert home.json("get", "app", "stale")["revision"] == 2
    assert home.flyte("delete", "app", "stale").returncode == 0


def test_they_get_and_list(theirs: Theirs, home: Home) -> None:
    told = theirs.run(
        """
        one = App.get("theirs")
        mine = flyte.remote.User.get().subject()
        names = lambda **how: [app.name for app in App.listall(**how)]
        answer({
            "one": [one.name, one.endpoint, int(one.deployment_status), int(one.desired_state)],
            "all": names(),
            "sorted": names(sort_by=("name", "desc")),
            "limit": names(sort_by=("name", "asc"), limit=1),
            "active": names(in_status="active"),
            "at rest": names(in_status=("stopped", "failed")),
            "mine": sorted(names(created_by_subject=mine)),
            "others": names(created_by_subject="somebody-else"),
            "projects": [project.to_dict()["id"] for project in flyte.remote.Project.listall()],
        })
        """
    )
    assert told["one"] == ["theirs", home.app("theirs")["endpoint"], 7, 3]
    assert told["all"] == ["ours", "theirs"], "in the order of creation"
    assert told["sorted"] == ["theirs", "ours"]
    assert told["limit"] == ["ours"]
    assert sorted(told["active"]) == ["ours", "theirs"]
    assert told["at rest"] == []
    assert told["mine"] == ["ours", "theirs"]
    assert told["others"] == []
    assert "local" in told["projects"]


def test_they_deactivate_watch_and_activate(theirs: Theirs, home: Home) -> None:
    told = theirs.run(
        """
        app = App.get("theirs")
        app.deactivate(wait=True)
        rested = App.get("theirs")
        rested.activate()
        woken = App.get("theirs").watch("activated")
        answer([int(rested.deployment_status), int(rested.desired_state), int(woken.deployment_status)])
        """
    )
    assert told == [4, 1, 7]
    assert get(home.app("theirs")["endpoint"])[0] == 200


def test_they_handle_an_app_of_ours(theirs: Theirs, home: Home) -> None:
    endpoint = home.app("ours")["endpoint"]
    told = theirs.run(
        """
        app = App.get("ours")
        with app.ephemeral_ctx_sync():
            pass
        answer([int(App.get("ours").deployment_status), app.endpoint])
        """
    )
    assert told == [4, endpoint]
    assert get(endpoint)[0] == 503
    theirs.run('answer(int(App.get("ours").activate(wait=True).deployment_status))')
    assert get_json(endpoint) == {"from": "ours"}


def test_we_handle_an_app_of_theirs(theirs: Theirs, home: Home) -> None:
    rested = home.json("update", "app", "theirs", "--deactivate", "--wait")
    assert rested["status"] == "STOPPED"
    woken = home.json("update", "app", "theirs", "--activate", "--wait")
    assert woken["status"] == "ACTIVE"
    lines = home.flyte("get", "logs", "theirs").stdout.splitlines()
    assert "model is first" in lines
    assert theirs.run('answer(int(App.get("theirs").deployment_status))') == 7


def test_they_tail_logs(theirs: Theirs, home: Home) -> None:
    endpoint = home.app("theirs")["endpoint"]
    get(endpoint + "/one")
    until(lambda: "asked for /one" in home.flyte("get", "logs", "theirs").stdout, 10)
    told = theirs.run(
        f"""
        import os, urllib.request
        from flyte.remote._logs import AppLogs

        app = App.get("theirs")
        lines = []
        for line in AppLogs.tail(app.pb2.metadata.id, follow=True):
            lines.append(line.message)
            if line.message.rstrip().endswith("/one"):
                # Written while the stream is open.
                urllib.request.urlopen("{endpoint}/two").read()
            if line.message.rstrip().endswith("/two"):
                break
        answer(lines)
        sys.stdout.flush()
        # Their interpreter may abort when it ends with a stream that was left.
        os._exit(0)
        """
    )
    texts = [line.rstrip() for line in told]
    assert sum(text.endswith("asked for /two") for text in texts) == 1
    assert sum(text.endswith("asked for /one") for text in texts) == 1, "nothing comes twice"


def test_they_tail_to_the_end_without_following(theirs: Theirs, home: Home) -> None:
    told = theirs.run(
        """
        from flyte.remote._logs import AppLogs

        app = App.get("theirs")
        app.deactivate(wait=True)
        lines = [line.message for line in AppLogs.tail(app.pb2.metadata.id, follow=False)]
        App.get("theirs").activate(wait=True)
        answer(lines)
        """
    )
    assert any(line.rstrip().endswith("model is first") for line in told)


def test_they_deploy_and_use_their_command_line(theirs: Theirs, home: Home) -> None:
    scope = ["--project", "local", "--domain", "development"]
    (theirs.folder / "simple.py").write_text(
        "import flyte.app\n"
        "env = flyte.app.AppEnvironment(\n"
        "    name='simple', args=['python', '-m', 'http.server', '8080'])\n"
    )
    said = theirs.flyte("serve", *scope, "simple.py", "env")
    assert "simple" in said
    status, listing = get(home.app("simple")["endpoint"])
    assert status == 200 and "simple.py" in listing
    assert "simple" in theirs.flyte("get", "app", *scope)
    assert home.app("simple")["endpoint"] in theirs.flyte("get", "app", "simple", *scope)
    theirs.flyte("update", "app", "simple", "--deactivate", "--wait", *scope)
    assert home.app("simple")["status"] == "STOPPED"
    assert "simple" in theirs.flyte("get", "app", "--status", "stopped", "--only-mine", *scope)
    theirs.flyte("update", "app", "simple", "--activate", "--wait", *scope)
    assert home.app("simple")["status"] == "ACTIVE"
    theirs.flyte("delete", "app", "simple", *scope)
    assert "simple" not in home.names()
    theirs.flyte("deploy", *scope, "simple.py", "env")
    until(lambda: home.app("simple")["status"] == "ACTIVE", 30)
    assert theirs.run('App.delete("simple"); answer("deleted")') == "deleted"
    assert "simple" not in home.names()


def test_an_image_that_needs_an_engine_fails_with_the_reason(theirs: Theirs, home: Home) -> None:
    told = theirs.run(
        """
        import flyte.app
        env = flyte.app.AppEnvironment(
            name="engine",
            image="registry.invalid/nobody/nothing:1",
            args=["python", "-m", "http.server", "8080"],
        )
        try:
            flyte.serve(env)
        except Exception as error:
            answer(f"{type(error).__name__}: {error}")
        """
    )
    assert "failed" in told
    app = home.json("get", "app", "engine")
    assert app["status"] == "FAILED"
    assert "registry.invalid/nobody/nothing:1" in app["message"]


def test_a_version_that_pypi_does_not_have_fails_with_the_reason(theirs: Theirs, home: Home) -> None:
    told = theirs.run(
        """
        import flyte.app
        env = flyte.app.AppEnvironment(
            name="no-version",
            image="ghcr.io/flyteorg/flyte:py3.11-v2.999.0",
            args=["python", "-m", "http.server", "8080"],
        )
        try:
            flyte.serve(env)
        except Exception as error:
            answer(f"{type(error).__name__}: {error}")
        """
    )
    assert "failed" in told
    app = home.json("get", "app", "no-version")
    assert app["status"] == "FAILED"
    assert "2.999.0" in app["message"]


def connection_to(endpoint: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=10)


def test_browsers_and_other_names_are_refused(endpoint: str) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://localhost"}):
        connection = connection_to(endpoint)
        connection.request(
            "POST",
            "/flyteidl2.app.AppService/List",
            body=b"",
            headers={"Content-Type": "application/proto", **headers},
        )
        answer = connection.getresponse()
        told = json.loads(answer.read())
        assert (answer.status, told["code"]) == (403, "permission_denied")
        assert answer.getheader("Access-Control-Allow-Origin") is None
        connection.close()


def test_connect_grpc_and_grpc_web_are_spoken(endpoint: str, tmp_path: Path) -> None:
    path = "/flyteidl2.auth.IdentityService/UserInfo"
    connection = connection_to(endpoint)
    connection.request("POST", path, body=b"{}", headers={"Content-Type": "application/json"})
    subject = json.loads(connection.getresponse().read())["subject"].encode()
    connection.close()
    # One empty message: a byte of flags and four of length.
    frame = tmp_path / "frame"
    frame.write_bytes(bytes(5))
    connection = connection_to(endpoint)
    connection.request(
        "POST", path, body=frame.read_bytes(), headers={"Content-Type": "application/grpc-web+proto"}
    )
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200 and subject in body and b"grpc-status: 0" in body.replace(b":0", b": 0")
    connection.close()
    headers = tmp_path / "headers"
    curl = ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--dump-header", str(headers)]
    said = subprocess.run(
        [*curl, "-H", "content-type: application/grpc", "-H", "te: trailers",
         "--data-binary", f"@{frame}", endpoint + path],
        capture_output=True,
        check=True,
    )  # fmt: skip
    assert subject in said.stdout
    told = headers.read_text().lower()
    assert told.startswith("http/2 200") and "grpc-status: 0" in told


def test_the_process_is_not_ended_over_tcp(endpoint: str) -> None:
    for path in ("/local/stop", "/local/listen"):
        connection = connection_to(endpoint)
        connection.request("POST", path, body=b"{}")
        assert connection.getresponse().status in (404, 405, 415)
        connection.close()
    assert get(endpoint + "/healthz") == (200, "ok")


def test_an_upload_needs_its_signature(endpoint: str) -> None:
    path = "/upload/local/development/" + "0" * 32 + "/bundle.tar.gz"
    for query in ("", "?expires=99999999999&signature=" + "0" * 64):
        connection = connection_to(endpoint)
        connection.request("PUT", path + query, body=b"content")
        assert connection.getresponse().status in (400, 403), query
        connection.close()


def test_the_port_closes_and_moves_while_apps_run(fresh_home: Home) -> None:
    first = fresh_home.json("local", "start", "--listen", "127.0.0.1:0")["listen"]
    pid = fresh_home.status()["pid"]
    second = fresh_home.json("local", "start", "--listen", "127.0.0.1:0")["listen"]
    assert get(second + "/healthz") == (200, "ok")
    assert first != second
    with pytest.raises(OSError):
        get(first + "/healthz")
    assert fresh_home.json("local", "start", "--listen", "off")["listen"] is None
    with pytest.raises(OSError):
        get(second + "/healthz")
    assert fresh_home.status()["pid"] == pid, "nothing was restarted"
    refused = fresh_home.flyte("local", "start", "--listen", "0.0.0.0:0")
    assert refused.returncode == 2 and "--allow-remote" in refused.stderr
    said = fresh_home.flyte("local", "start", "--listen", "localhost:0")
    assert "run code as you" in said.stderr
