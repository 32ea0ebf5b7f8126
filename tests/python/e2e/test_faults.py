"""A line that fails: each step of serving ends in success or in a clear error, there is one app, and
nothing is done twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from faults import Line, Rule
from support import Home, get, until

# What serves one app on the image that an app of the local platform was built with.
MAIN = """
import json, sys, time
import flyte, flyte.app
from flyte import errors

def main(image, endpoint, names):
    flyte.init(endpoint=endpoint, project="local", domain="development")
    for name in names:
        env = flyte.app.AppEnvironment(
            name=name, image=image, args=["python", "-m", "http.server", "8080"], include=["main.py"]
        )
        started = time.monotonic()
        try:
            app = flyte.serve(env)
            told = {"endpoint": app.endpoint, "revision": app.revision}
        except errors.Error as error:
            told = {"code": error.code, "text": str(error), "request": error.request_id}
        print(json.dumps({**told, "seconds": time.monotonic() - started}), flush=True)
        sys.stdin.readline()

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
"""


@pytest.fixture(scope="module")
def image(home: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of an app that the local platform has built an environment for."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "app.py").write_text(
        "import flyte.app\n"
        "env = flyte.app.AppEnvironment(name='first', args=['python', '-m', 'http.server', '8080'])\n"
    )
    home.json("serve", "app.py", cwd=folder)
    return str(home.json("get", "app", "first", "--revisions")[0]["image"])


@pytest.fixture
def line(home: Home, image: str) -> Iterator[Line]:
    line = Line(home.path / "run" / "platform.sock")
    yield line
    line.close()


@pytest.fixture
def attempt(project, line, image):
    """Serves an app over the line, with these rules; tells what came of it."""
    project.write("main.py", MAIN)

    def serve(name: str, *rules: Rule, endpoint: str | None = None):
        line.expect(*rules)
        # An upload is there when its content was sent before; each app has some of its own.
        project.write("main.py", MAIN + f"# {name} {time.time()}\n")
        done = project.run("main.py", image, endpoint or line.endpoint, name)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return serve


STEPS = ["SelectCluster", "CreateUploadLocation", "/upload/ PUT", "/upload/ HEAD", "Create", "Watch"]


@pytest.mark.parametrize("action", ["cut", "lose"])
@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_mended(attempt, line, home, step, action):
    name = f"{step.strip('/').replace('/ ', '-').lower()}-{action}"[:30]
    serves_once(attempt(name, Rule(action, step)), line, home, name)


@pytest.mark.parametrize("action", ["broken", "busy"])
def test_a_line_that_fails_at_every_step_is_mended(attempt, line, home, action):
    name = f"all-{action}"
    rules = [Rule(action, step, seconds=1 if step == "Create" else 0) for step in STEPS]
    told = attempt(name, *rules)
    # An app may be up before it is looked for, and needs no watch then.
    line.rules = [rule for rule in rules if rule.path != "Watch"]
    serves_once(told, line, home, name)
    # The server said when to come again.
    assert action != "busy" or told["seconds"] >= 1


def serves_once(told, line, home, name):
    """The app serves, and the platform was told once, whatever was lost on the way."""
    assert told.get("revision") == 1, told
    assert get(told["endpoint"])[0] == 200
    assert [rule.path for rule in line.rules if rule.times] == [], "a rule was not used"
    assert (line.count("Create"), line.count("Update")) == (1, 0)
    assert len(set(line.ids("Create"))) == 1
    assert [app["name"] for app in home.json("get", "app")].count(name) == 1


def test_a_watch_that_says_nothing_is_not_believed(attempt, line):
    told = attempt("silent", Rule("silent", "Watch"))
    assert told.get("revision") == 1, told
    assert told["seconds"] < 15
    assert line.count("Get") >= 1


def test_a_create_that_was_carried_out_is_not_sent_again(attempt, line):
    told = attempt("lost", Rule("lose", "Create"), Rule("cut", "Get"))
    assert told.get("revision") == 1, told
    assert line.count("Create") == 1 and line.count("Get") >= 1


def test_a_create_that_never_arrived_is_sent_again_under_the_same_name(attempt, line):
    told = attempt("repeated", Rule("cut", "Create", times=2))
    assert told.get("revision") == 1, told
    assert line.count("Create") == 1
    ids = line.ids("Create")
    assert len(ids) == 3 and len(set(ids)) == 1 and ids[0]


def test_a_line_that_stays_bad_is_told(attempt, line):
    told = attempt("hopeless", Rule("cut", "Create", times=99))
    assert told["code"] == "client.unavailable" and line.endpoint in told["text"]
    assert told["request"] == line.ids("Create")[0]
    assert told["seconds"] < 20
    assert len(line.ids("Create")) == 4
    told = attempt("turned-away", Rule("busy", "Create", times=99, seconds=0))
    assert told["code"] == "client.unavailable" and told["seconds"] < 20


def test_an_upload_that_stays_bad_names_no_secret(attempt):
    told = attempt("unsent", Rule("busy", "/upload/ PUT", times=99, seconds=0))
    assert told["code"] == "client.upload_failed"
    assert "503" in told["text"] and "/upload/" in told["text"] and "?" not in told["text"]


def test_a_file_that_changes_while_it_is_sent_is_named(project, line, image):
    """Noticed by who receives it, and that one knows of no parameter."""
    project.write("word.txt", "one")
    project.write(
        "main.py",
        """
        import sys
        import flyte, flyte.app
        from flyte.io import File
        flyte.init(endpoint=sys.argv[2], project="local", domain="development")
        word = flyte.app.Parameter("word", File.from_local_sync("word.txt"))
        env = flyte.app.AppEnvironment(
            name="changing", image=sys.argv[1], args=["python", "-m", "http.server", "8080"],
            parameters=[word], include=["main.py"],
        )
        flyte.serve(env)
        """,
    )
    line.expect(Rule("slow", "CreateUploadLocation", times=2, seconds=3))
    serving = project.start("main.py", image, line.endpoint)
    # The second one is for the parameter, which is hashed by then.
    until(lambda: len(line.ids("CreateUploadLocation")) == 2, 30)
    (project.folder / "word.txt").write_text("two")
    _, told = serving.communicate(timeout=60)
    assert serving.returncode == 1, told
    assert "parameter `word` is" in told and "word.txt` changed while it was sent" in told, told


def test_a_secret_is_deleted_once(project, line, home):
    """The answer is lost, and a second call finds nothing there any more."""
    scope = ("--project", "local", "--domain", "development")
    value = project.write("value", "v")
    created = home.flyte("create", "secret", "passing", "--from-file", value, *scope)
    assert created.returncode == 0, created.stderr
    line.expect(Rule("lose", "DeleteSecret"))
    done = home.flyte("delete", "secret", "passing", "--endpoint", line.endpoint, *scope)
    assert done.returncode == 0, done.stderr
    assert line.count("DeleteSecret") == 2
    again = home.flyte("delete", "secret", "passing", "--endpoint", line.endpoint, *scope)
    assert again.returncode == 1 and "does not exist" in again.stderr


def test_what_cannot_be_repeated_is_not(project, line, home, image, attempt):
    """An update whose answer is lost is looked for before it is sent again."""
    assert attempt("rested")["revision"] == 1
    line.expect(Rule("lose", "Update"))
    done = home.flyte(
        "update", "app", "rested", "--deactivate", "--wait",
        "--endpoint", line.endpoint, "-p", "local", "-d", "development",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert line.count("Update") == 1
    line.expect(Rule("lose", "Delete"))
    done = home.flyte(
        "delete", "app", "rested", "--endpoint", line.endpoint, "-p", "local", "-d", "development"
    )
    assert done.returncode == 0, done.stderr
    assert "rested" not in home.names()


@pytest.mark.parametrize("action", ["cut", "lose", "broken", "busy"])
def test_looking_is_mended_too(attempt, line, home, action):
    name = f"looked-at-{action}"
    assert attempt(name)["revision"] == 1
    scope = ("--endpoint", line.endpoint, "-p", "local", "-d", "development")
    for call, words in [("List", ("get", "app")), ("TailLogs", ("get", "logs", name))]:
        line.expect(Rule(action, call, seconds=0))
        done = home.flyte(*words, *scope)
        assert done.returncode == 0, done.stderr
        assert line.rules[0].times == 0, call
        assert call != "List" or name in done.stdout


def test_a_slow_line_is_waited_for(attempt, line):
    told = attempt("slow", Rule("slow", "Create", seconds=1), Rule("slow", "Watch", seconds=1))
    assert told.get("revision") == 1, told
    assert line.count("Create") == 1


def test_limits_of_clusters_are_checked_before_anything_is_sent(project, line):
    line.expect()
    project.write(
        "limits.py",
        """
        import json, sys
        import flyte, flyte.app
        from flyte import errors
        flyte.init(endpoint=sys.argv[1], project="p", domain="d")
        told = []
        for settings in [{"name": "a" * 31}, {"name": "a", "description": "x" * 101}]:
            try:
                flyte.serve(flyte.app.AppEnvironment(args="true", **settings))
            except errors.Error as error:
                told.append([error.code, str(error)])
        print(json.dumps(told))
        """,
    )
    name, description = project.result("limits.py", line.endpoint)
    assert name[0] == "config.invalid" and "31 characters" in name[1]
    assert description[0] == "config.invalid" and "101 characters" in description[1]
    assert line.arrived == []
