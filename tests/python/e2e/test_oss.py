"""Our client against a control plane that behaves like the open-source one (`oss.py`): it tells of the
time before a change, upserts, caches, says nothing when nothing changed, and never ends a log.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Home, Project, until

OSS = Path(__file__).parents[1] / "oss.py"
SCOPE = ("-p", "shop", "-d", "development")

MAIN = """
import json, sys, time
import flyte, flyte.app
from flyte import errors

told = json.loads(sys.argv[1])
flyte.init(endpoint=sys.argv[2], project="shop", domain="development")
env = flyte.app.AppEnvironment(**{"image": "registry.x/app:1", "args": ["run"], "include": ["main.py"],
                                  **told["env"]})
started = time.monotonic()
try:
    app = flyte.with_servecontext(**told["context"]).serve(env)
    result = {"endpoint": app.endpoint, "active": app.is_active()}
except errors.Error as error:
    result = {"code": error.code, "text": str(error), "log": error.log_tail}
print(json.dumps({**result, "seconds": time.monotonic() - started}))
"""


class Plane:
    """The control plane's process."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen([python, str(OSS)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.endpoint = self.process.stdout.readline().strip()
        assert self.endpoint.startswith("http"), "it did not start"

    def script(self, faults: list[dict[str, Any]] | None = None, **apps: dict[str, Any]) -> None:
        """Say what apps do; forgets what was seen."""
        apps = {name.replace("_", "-"): script for name, script in apps.items()}
        self._ask("/script", {"apps": apps, "faults": faults or []})

    def seen(self, call: str) -> list[dict[str, Any]]:
        """The calls of that name since the last script."""
        return [one for one in self._ask("/seen") if one["call"] == call]

    def _ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.endpoint + path, data), timeout=10) as answer:
            return json.loads(answer.read())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def plane(pypi_python: str) -> Iterator[Plane]:
    plane = Plane(pypi_python)
    yield plane
    plane.close()


@pytest.fixture
def serve(project: Project, plane: Plane) -> Callable[..., Any]:
    project.write("main.py", MAIN)

    def serve(name: str, context: dict[str, Any] | None = None, **env: Any) -> Any:
        told = {"env": {"name": name, **env}, "context": context or {}}
        return project.result("main.py", json.dumps(told), plane.endpoint)

    return serve


@pytest.fixture
def flyte(home: Home, plane: Plane) -> Callable[..., subprocess.CompletedProcess[str]]:
    def flyte(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return home.flyte(*words, "--endpoint", plane.endpoint, *SCOPE, **more)

    return flyte


def test_the_first_request_holds_everything(serve, plane):
    plane.script()
    context = {
        "env_vars": {"ONE": "override", "USER_LOG_LEVEL": "50"},
        "log_level": 10,
        "log_format": "json",
        "user_log_level": 20,
        "cluster_pool": "pool",
    }
    declared = {"ONE": "1", "TWO": "2", "LOG_LEVEL": "50", "LOG_FORMAT": "console"}
    told = serve("whole", context, env_vars=declared, parameters=[])
    assert told["endpoint"] == "http://whole-shop-development.localhost:30081", told
    assert told["active"]
    (create,) = plane.seen("Create")
    spec = create["request"]["app"]["spec"]
    variables = {pair["key"]: pair["value"] for pair in spec["container"]["env"]}
    assert (variables["ONE"], variables["TWO"]) == ("override", "2")
    # Options count more than what is declared, and variables that the call names more than those.
    assert variables["LOG_FORMAT"] == "json"
    assert (variables["LOG_LEVEL"], variables["USER_LOG_LEVEL"]) == ("10", "50")
    assert spec["clusterPool"] == "pool"
    assert plane.seen("Update") == []
    (location,) = plane.seen("CreateUploadLocation")
    assert "contentLength" not in location["request"]
    (put,) = plane.seen("PUT")
    md5 = base64.b64decode(location["request"]["contentMd5"])
    assert base64.b32encode(md5).decode() in put["path"]
    command = spec["container"]["command"]
    assert command[command.index("--tgz") + 1] == "s3:/" + put["path"]


def test_what_was_true_before_does_not_decide(serve, plane):
    """An old failure is not the new version's, and the old version serving is no success."""
    plane.script(mended={"failure": "RevisionFailed: it crashes"})
    told = serve("mended")
    assert told["code"] == "app.failed" and "it crashes" in told["text"], told
    plane.script(mended={})
    told = serve("mended", args=["run", "better"])
    assert told.get("active"), told
    plane.script(mended={"failure": "RevisionFailed: worse"})
    told = serve("mended", args=["run", "worse"])
    assert told.get("code") == "app.failed" and "worse" in told["text"], told
    # The same again changes nothing, so what is true stays true.
    told = serve("mended", args=["run", "worse"])
    assert told.get("code") == "app.failed" and told["seconds"] < 8, told


def test_a_server_that_says_nothing_new_is_understood(serve, plane):
    plane.script()
    assert serve("same")["active"]
    plane.script()
    told = serve("same")
    assert told.get("active") and told["seconds"] < 5, told
    assert len(plane.seen("Create")) == 1


def test_a_change_that_takes_nothing_to_bring_about_is_believed_after_a_while(serve, plane):
    """Nothing tells it from a change that was not taken up yet, but that it lasts."""
    plane.script()
    assert serve("quiet")["active"]
    plane.script(quiet={"quiet": True})
    told = serve("quiet", description="another one")
    assert told.get("active") and 8 < told["seconds"] < 30, told


def test_rest_and_return(serve, plane, flyte):
    plane.script(resting={"unknown": "a01f01"})
    assert serve("resting")["active"]
    done = flyte("update", "app", "resting", "--deactivate", "--wait", "--output", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "STOPPED", done.stderr
    done = flyte("update", "app", "resting", "--activate", "--wait", "--output", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "ACTIVE", done.stderr
    (create,), (stop, start) = plane.seen("Create"), plane.seen("Update")
    sent = create["request"]["app"]["spec"]
    for update, state in ((stop, "STOPPED"), (start, "ACTIVE")):
        spec = update["request"]["app"]["spec"]
        assert spec == {**sent, "desiredState": f"DESIRED_STATE_{state}"}
        # A field that neither of us knows goes back as it came.
        assert "a01f01" in update["bytes"]


def test_hosted_servers_are_replaced_by_an_update(serve, plane):
    plane.script(hosted={"hosted": True})
    assert serve("hosted")["active"]
    plane.script(hosted={"hosted": True}, faults=[{"call": "Update", "code": "aborted"}])
    told = serve("hosted", args=["run", "again"])
    assert told.get("active"), told
    assert len(plane.seen("Create")) == 1
    refused, taken = plane.seen("Update")
    assert taken["request"]["app"]["metadata"]["revision"] == "1"
    assert taken["request"]["app"]["spec"]["container"]["args"] == ["run", "again"]
    plane.script(hosted={"hosted": True})
    told = serve("hosted", args=["run", "again"])
    assert told.get("active") and plane.seen("Update") == [], told


def test_an_app_that_vanished_is_created(serve, plane):
    """`Create` is refused because the app exists, and then it does not."""
    plane.script(faults=[{"call": "Create", "code": "aborted"}])
    assert serve("vanished").get("active")
    assert len(plane.seen("Create")) == 2 and plane.seen("Update") == []


def test_a_create_whose_answer_is_lost_makes_one_app(serve, plane, flyte):
    """Carried out, refused when it is sent again, and found to be the same."""
    lost = [{"call": "Create", "code": "unavailable", "after": True}]
    plane.script(lost={"hosted": True}, faults=lost)
    told = serve("lost")
    assert told.get("active"), told
    assert len(plane.seen("Create")) == 1 and plane.seen("Update") == []
    done = flyte("get", "app", "lost", "--output", "json")
    assert json.loads(done.stdout)["revision"] == 1, done.stdout


def pod(name: str, *texts: str, **more: Any) -> dict[str, Any]:
    now = time.time()
    return {"name": name, "lines": [[now + index / 1000, text] for index, text in enumerate(texts)], **more}


def test_a_log_that_never_ends_is_read(serve, plane, flyte):
    plane.script(chatty={"pods": [pod("p-1", "one", "two", every=0.5)]})
    assert serve("chatty")["active"]
    started = time.monotonic()
    done = flyte("get", "logs", "chatty")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["one", "two"]
    assert time.monotonic() - started < 12


def test_a_followed_log_outlives_its_pod(serve, plane, project, flyte):
    plane.script(restarting={"pods": [pod("p-1", "one", every=0.2, until=3)]})
    assert serve("restarting")["active"]
    project.write(
        "follow.py",
        """
        import sys
        import flyte
        from flyte.remote import App
        flyte.init(endpoint=sys.argv[1], project="shop", domain="development")
        for line in App.get("restarting").logs(follow=True):
            print(line, flush=True)
        """,
    )
    following = project.start("follow.py", plane.endpoint)
    assert following.stdout
    lines = [following.stdout.readline().strip() for _ in range(5)]
    assert lines == ["one", "live 1", "live 2", "live 1", "live 2"], lines
    assert len(plane.seen("TailLogs")) >= 2


def test_an_app_without_pods_has_no_lines(serve, plane, flyte):
    plane.script(zero={"pods": []})
    assert serve("zero")["active"]
    done = flyte("get", "logs", "zero")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(plane.seen("TailLogs")) >= 2
    done = flyte("get", "logs", "absent", "--output", "json")
    assert done.returncode == 1 and "app.not_found" in done.stdout + done.stderr


def test_lines_of_older_servers_are_read(serve, plane, flyte):
    lines = [[None, "plain one"], [None, "plain two"]]
    plane.script(older={"pods": [{"name": "p", "lines": lines}]})
    assert serve("older")["active"]
    done = flyte("get", "logs", "older")
    assert done.stdout.splitlines() == ["plain one", "plain two"], done.stderr


def test_a_failure_comes_with_the_log(serve, plane):
    crash = pod("crash-00001-x", "Traceback", "ZeroDivisionError", every=0.3)
    plane.script(crash={"failure": "RevisionFailed: exit code 1", "pods": [crash]})
    told = serve("crash")
    assert told["code"] == "app.failed", told
    assert told["log"][:2] == ["Traceback", "ZeroDivisionError"]


def test_lists_are_sorted_and_filtered_here(serve, plane, project, flyte):
    plane.script(broken={"failure": "RevisionFailed: no"})
    for name in ("b-app", "a-app", "c-app", "broken"):
        serve(name)
    project.write(
        "list.py",
        """
        import json, sys
        import flyte
        from flyte.remote import App
        flyte.init(endpoint=sys.argv[1], project="shop", domain="development")
        names = lambda **more: [app.name for app in App.listall(**more)]
        print(json.dumps([
            [name for name in names(sort_by=("name", "asc")) if name.endswith("-app")],
            [name for name in names(sort_by=("name", "desc"), limit=1)],
            names(created_by_subject="me"),
        ]))
        """,
    )
    ascending, last, mine = project.result("list.py", plane.endpoint)
    assert ascending == ["a-app", "b-app", "c-app"]
    assert len(last) == 1 and last[0] > "r"
    assert mine == []
    done = flyte("get", "app", "--only-mine")
    assert done.returncode == 1 and "login" in done.stderr, done.stderr


def test_whoami_says_that_there_are_no_logins(home, plane):
    done = home.flyte("whoami", "--endpoint", plane.endpoint)
    assert done.returncode == 1 and "no logins" in done.stderr, done.stderr


def test_what_is_not_permitted_is_told_as_it_came(plane, flyte):
    plane.script(faults=[{"call": "List", "code": "permission_denied", "message": "not yours"}])
    done = flyte("get", "app", "--output", "json")
    assert done.returncode == 1 and "not yours" in done.stdout + done.stderr
    plane.script(faults=[{"call": "List", "code": "unavailable", "times": 2}])
    assert flyte("get", "app").returncode == 0
    assert len(plane.seen("List")) == 3


def test_a_log_that_cannot_be_had_at_first_is_asked_for_again(serve, plane, flyte):
    busy = [{"call": "TailLogs", "code": "resource_exhausted", "times": 2}]
    plane.script(busy={"pods": [pod("p", "here")]}, faults=busy)
    assert serve("busy")["active"]
    done = flyte("get", "logs", "busy")
    assert done.stdout == "here\n", done.stderr


def test_another_cluster_gets_the_upload(serve, plane, pypi_python):
    other = Plane(pypi_python)
    try:
        plane._ask("/script", {"apps": {"": {"cluster": other.endpoint}}, "faults": []})
        assert serve("far", description="a bundle of its own", include=["main.py", "web.py"])["active"]
        assert len(other.seen("CreateUploadLocation")) == len(other.seen("PUT")) == 1
        assert plane.seen("CreateUploadLocation") == plane.seen("PUT") == []
        assert len(plane.seen("Create")) == 1 and other.seen("Create") == []
    finally:
        other.close()
        plane._ask("/script", {"apps": {"": {}}, "faults": []})


def test_what_the_pod_is_made_of(project, plane):
    project.write(
        "main.py",
        """
        import sys
        import flyte, flyte.app
        flyte.init(endpoint=sys.argv[1], project="shop", domain="development")
        pod = flyte.PodTemplate(
            pod_spec={"containers": [{"name": "side"}, {"name": "app", "env": [{"name": "B", "value": "2"}]}],
                      "tolerations": [{"key": "k"}]},
            primary_container_name="app", labels={"a": "b"},
        )
        env = flyte.app.AppEnvironment(
            name="podded", image="registry.x/app:1", args=["run"], pod_template=pod, env_vars={"A": "1"},
            resources=flyte.Resources(cpu=1, gpu=flyte.GPU("A100", 1, "1g.5gb")), include=["main.py"],
        )
        flyte.serve(env)
        """,
    )
    plane.script()
    done = project.run("main.py", plane.endpoint)
    assert done.returncode == 0, done.stderr
    spec = plane.seen("Create")[0]["request"]["app"]["spec"]
    side, app = spec["pod"]["podSpec"]["containers"]
    assert side == {"name": "side"} and spec["pod"]["podSpec"]["tolerations"] == [{"key": "k"}]
    assert app["image"] == "registry.x/app:1" and app["command"][0] == "fserve"
    assert [pair["name"] for pair in app["env"]][-1] == "B"
    assert app["resources"]["requests"] == {"cpu": "1", "nvidia.com/gpu": "1"}
    assert spec["pod"]["metadata"] == {"labels": {"a": "b"}}
    device = spec["extendedResources"]["gpuAccelerator"]
    assert device == {"device": "nvidia-tesla-a100", "partitionSize": "1g.5gb"}


def test_a_value_is_found_under_the_name_that_it_was_given(project, plane):
    """The address comes percent-encoded, and the store decodes nothing."""
    project.write("data/two größen.txt", "1")
    project.write(
        "main.py",
        """
        import sys
        import flyte, flyte.app
        from flyte.app import Parameter
        from flyte.io import Dir, File
        flyte.init(endpoint=sys.argv[1], project="shop", domain="development")
        parameters = [
            Parameter("file", File.from_local_sync("data/two größen.txt")),
            Parameter("folder", Dir.from_local_sync("data")),
        ]
        env = flyte.app.AppEnvironment(
            name="named", image="registry.x/app:1", args=["run"], parameters=parameters, include=["main.py"]
        )
        flyte.serve(env)
        """,
    )
    plane.script()
    done = project.run("main.py", plane.endpoint)
    assert done.returncode == 0, done.stderr
    command = plane.seen("Create")[0]["request"]["app"]["spec"]["container"]["command"]
    blob = gzip.decompress(base64.b64decode(command[command.index("--parameters") + 1]))
    values = {sent["name"]: sent["value"] for sent in json.loads(blob)["parameters"]}
    paths = ["s3:/" + put["path"] for put in plane.seen("PUT")]
    assert values["file"] in paths and values["file"].endswith("/two größen.txt"), values
    assert values["folder"] + "/two größen.txt" in paths, values


def test_an_upload_that_is_there_is_not_sent_again(serve, plane):
    """The store lets nobody look (403 to HEAD), but the app's command says what it was made with."""
    plane.script()
    assert serve("kept")["active"]
    plane.script()
    told = serve("kept", args=["run", "other"])
    assert told.get("active"), told
    assert plane.seen("PUT") == []


def test_the_wait_is_told_as_it_goes(project, plane, home):
    project.write(
        "app.py",
        "import flyte.app\n"
        "env = flyte.app.AppEnvironment(name='slow', image='registry.x/app:1', args=['run'])\n",
    )
    plane.script(slow={"takes": 1})
    done = home.flyte("serve", "app.py", "--endpoint", plane.endpoint, *SCOPE, cwd=project.folder)
    assert done.returncode == 0, done.stderr
    assert "Deploying" in done.stderr + done.stdout
    until(lambda: plane.seen("Watch"), 1)
