"""The command `flyte`: each verb, what it prints for people and for programs, and its exit status."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import WEB, Project, get, get_json, until

FILE = """
import flyte, flyte.app
from flyte.app import AppEnvironment, Parameter
import web

first = AppEnvironment(name="cli-first", parameters=[Parameter("word", "declared")], env_vars={"MODE": "a"})

@first.server
def server(word):
    import os
    print("serving", word)

    def answer(path):
        print("asked", path)
        return [word, os.environ["MODE"]]

    web.serve(answer)

second = AppEnvironment(name="cli-second", args=["python", "-m", "http.server", "8080"])
"""

ONE = """
from flyte.app import AppEnvironment
env = AppEnvironment(name="cli-one", args=["python", "-m", "http.server", "8080"])
"""


@pytest.fixture(scope="module")
def files(home, tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("cli"), home)
    project.write("web.py", WEB)
    project.write("two.py", FILE)
    project.write("one.py", ONE)
    return project


@pytest.fixture
def flyte(files):
    return lambda *words: files.home.flyte(*words, cwd=files.folder)


def test_a_file_with_one_environment_needs_no_name(flyte):
    done = flyte("serve", "one.py")
    assert done.returncode == 0, done.stderr
    # Only the endpoint stands on standard output, for `$(...)`.
    assert get(done.stdout.strip())[0] == 200
    for step in ("Bundle", "Image", "Deploy", "Activate", "URL"):
        assert step in done.stderr


@pytest.mark.parametrize("name", ["first", "cli-first"])
def test_an_environment_is_named_by_variable_or_name(flyte, name):
    done = flyte("serve", "two.py", name, "--param", "word=given", "-e", "MODE=b")
    assert done.returncode == 0, done.stderr
    assert get_json(done.stdout.strip()) == ["given", "b"]


def test_a_file_with_several_environments_needs_a_name(flyte):
    done = flyte("serve", "two.py")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "first" in done.stderr and "second" in done.stderr


def test_an_unknown_environment(flyte):
    done = flyte("serve", "two.py", "frist")
    assert done.returncode == 2
    assert "frist" in done.stderr
    assert "did you mean `first`?" in done.stderr


def test_serve_as_json(flyte):
    done = flyte("serve", "two.py", "second", "--output", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["name"] == "cli-second"
    assert told["status"] == "ACTIVE"
    assert get(told["endpoint"])[0] == 200
    assert get(told["url"])[0] == 200
    steps = [step["step"] for step in told["steps"] if "step" in step]
    # Bundle and image are made side by side.
    assert sorted(steps[:2]) == ["bundle", "image"]
    assert steps[2:] == ["deploy", "activate", "url"]


def test_a_failure_as_text_and_as_json(flyte, files):
    files.write(
        "sad.py",
        """
        from flyte.app import AppEnvironment
        program = "print('last words'); raise SystemExit(4)"
        env = AppEnvironment(name="cli-sad", args=["python", "-c", program])
        """,
    )
    done = flyte("serve", "sad.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: app `cli-sad` did not come up: the process exited with code 4" in done.stderr
    assert "last words" in done.stderr
    assert "hint: " in done.stderr
    told = json.loads(flyte("serve", "sad.py", "--output", "json").stdout)
    assert told["error"]["code"] == "app.exited"
    assert told["error"]["log"][-1] == "last words"
    assert told["error"]["hints"]
    assert flyte("delete", "app", "cli-sad").returncode == 0


def test_an_exception_of_the_file_is_shown_with_its_traceback(flyte, files):
    files.write("wrong.py", "import flyte\n\nvalue = {}['key']\n")
    done = flyte("serve", "wrong.py")
    assert done.returncode == 1
    assert "KeyError: 'key'" in done.stderr
    assert 'wrong.py", line 3' in done.stderr
    assert "importlib" not in done.stderr


def test_an_import_that_fails_is_told_in_words_and_as_json(flyte, files):
    files.write("fails.py", "import helper_of_fails\n")
    files.write("helper_of_fails.py", "def broken():\n    raise OSError('no disk')\n\nbroken()\n")
    done = flyte("serve", "fails.py")
    assert done.returncode == 1
    assert done.stderr.startswith("error: `fails.py` could not be imported: OSError: no disk\n")
    assert "Traceback" not in done.stderr and "importlib" not in done.stderr
    assert 'helper_of_fails.py", line 2' in done.stderr
    assert "`flyte explain app.import_failed` tells more" in done.stderr
    assert "Traceback" in flyte("-v", "serve", "fails.py").stderr
    told = json.loads(flyte("serve", "fails.py", "--output", "json").stdout)["error"]
    assert told["code"] == "app.import_failed"
    assert any("helper_of_fails.py" in line for line in told["log"])
    assert told["hints"]


def test_an_error_of_syntax_names_its_line(flyte, files):
    files.write("syntax.py", "import flyte\nvalue = = 1\n")
    done = flyte("serve", "syntax.py")
    assert done.returncode == 1
    assert "SyntaxError: invalid syntax" in done.stderr
    assert "value = = 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_declaration_that_cannot_be_used_names_its_line(flyte, files):
    files.write("reserved.py", ONE.replace("args=", "port=8022, args="))
    done = flyte("serve", "reserved.py")
    assert done.returncode == 2
    assert "error: port 8022 is not allowed" in done.stderr
    assert "at `reserved.py`, line 2" in done.stderr
    assert "hint: take another one" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_apps_of_a_folder_are_deployed(flyte, files):
    for name in ("all-one", "all-two"):
        files.write(f"apps/{name[4:]}.py", ONE.replace("cli-one", name))
    files.write("apps/below/three.py", ONE.replace("cli-one", "all-three"))
    files.write("apps/wrong.py", ONE.replace("cli-one", "all-wrong") + "raise ValueError('no')\n")
    done = flyte("deploy", "apps", "--all")
    assert (done.returncode, done.stdout) == (1, "")
    assert not {"all-one", "all-two"} & set(files.home.names()), "nothing was deployed before all was read"
    done = flyte("deploy", "apps", "--recursive", "--ignore-load-errors")
    assert done.returncode == 0, done.stderr
    assert "`apps/wrong.py` is left out" in done.stderr
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["NAME", "all-three", "all-one", "all-two"]
    told = json.loads(flyte("build", "apps", "-r", "-i", "--dry-run", "-of", "json").stdout)
    assert sorted(told) == ["all-one", "all-three", "all-two"]
    for name in ("all-one", "all-two", "all-three"):
        assert flyte("delete", "app", name).returncode == 0


def test_a_file_of_a_folder_may_import_the_app_of_another(flyte, files):
    files.write("linked/base.py", ONE.replace("cli-one", "linked-base"))
    above = ONE.replace("cli-one", "linked-above").replace("args=", "depends_on=[base.env], args=")
    files.write("linked/above.py", "import base\n" + above)
    files.write("linked/last.py", "import base\n" + ONE.replace("cli-one", "linked-last"))
    done = flyte("deploy", "linked", "--all")
    assert done.returncode == 0, done.stderr
    names = [row.split()[0] for row in done.stdout.splitlines()]
    assert names == ["NAME", "linked-above", "linked-base", "linked-last"]
    for name in names[1:]:
        assert flyte("delete", "app", name).returncode == 0


def test_all_apps_are_checked_before_one_is_deployed(flyte, files):
    files.write("checked/first.py", ONE.replace("cli-one", "checked-first"))
    files.write(
        "checked/second.py",
        'from flyte.app import AppEnvironment\nenv = AppEnvironment(name="checked-second")\n',
    )
    done = flyte("deploy", "checked", "--all")
    assert done.returncode == 2
    assert "app `checked-second` has nothing to run" in done.stderr
    assert "checked-first" not in files.home.names()


def test_all_apps_of_a_file_are_deployed(flyte, files):
    done = flyte("deploy", "two.py", "--all", "--output", "json-raw")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert sorted(app["name"] for app in json.loads(done.stdout)["apps"]) == ["cli-first", "cli-second"]


def test_an_image_that_nobody_asks_for_is_refused(flyte):
    done = flyte("serve", "one.py", "--image", "gpu=ghcr.io/me/gpu:1")
    assert done.returncode == 2
    assert "no app here asks for an image called `gpu`" in done.stderr
    told = json.loads(flyte("serve", "one.py", "--image", "x:1", "--output", "json").stdout)
    assert told["error"]["code"] == "config.unknown_name"


def test_the_port_of_an_app_can_be_another_one(flyte, files):
    files.write("port.py", ONE.replace("cli-one", "cli-port").replace("8080", "9321"))
    assert flyte("serve", "port.py", "--port", "9321").returncode == 0
    assert flyte("delete", "app", "cli-port").returncode == 0


def test_an_app_that_asks_for_its_port_is_told_another_one(flyte, files):
    files.write(
        "asks.py",
        """
        from flyte.app import AppEnvironment
        import web

        env = AppEnvironment(name="cli-asks")

        @env.server
        def server():
            port = env.get_port().port
            web.serve(lambda path: "answers", port=port)
        """,
    )
    for options in [("--port", "9322"), ("--port", "9323", "--name", "cli-asks-too")]:
        done = flyte("serve", "asks.py", *options)
        assert done.returncode == 0, done.stderr
        assert get_json(done.stdout.strip()) == "answers"
    for name in ("cli-asks", "cli-asks-too"):
        assert flyte("delete", "app", name).returncode == 0
    done = flyte("serve", "asks.py", "--port", "9090")
    assert done.returncode == 2 and "the platform reserves" in done.stderr


def test_help_of_deploy_names_what_it_takes(flyte):
    page = flyte("deploy", "--help").stdout
    for option in (
        "--param",
        "--env-var",
        "--name",
        "--service-account",
        "--cluster-pool",
        "--watch",
        "--port",
    ):
        assert f"{option} " not in page and f"{option}\n" not in page
    assert "--recursive" in page


def test_a_module_that_only_the_image_has_is_named(flyte, files):
    files.write("imports.py", "import not_there.at_all\n")
    done = flyte("serve", "imports.py")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "install `not_there` here, or import it inside of the function" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "missing.py"),
        ("serve",),
        ("nonsense",),
        ("serve", "one.py", "--param", "novalue"),
        ("update", "app", "cli-one"),
        ("update", "app", "cli-one", "--activate", "--deactivate"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_status_2(flyte, words):
    done = flyte(*words)
    assert done.returncode == 2
    assert done.stderr and not done.stdout


def test_help_and_version(flyte):
    import flyte as package

    assert package.__version__ in flyte("--version").stdout
    for words in [("--help",), ("serve", "--help"), ("local", "--help")]:
        done = flyte(*words)
        assert done.returncode == 0
        assert "Usage: flyte" in done.stdout


def test_dry_run(flyte, files):
    files.write("dry.py", ONE.replace("cli-one", "cli-dry"))
    done = flyte("serve", "dry.py", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would serve `cli-dry`" in done.stderr
    assert "cli-dry" not in files.home.names()


def test_deploy_takes_no_overrides(flyte):
    assert flyte("deploy", "two.py", "first", "--param", "word=x").returncode == 2
    done = flyte("deploy", "two.py", "first")
    assert done.returncode == 0, done.stderr
    assert get_json(done.stdout.strip()) == ["declared", "a"]


def test_apps_are_listed_and_shown(flyte, files):
    assert flyte("serve", "one.py").returncode == 0
    listed = files.home.json("get", "app")
    entry = next(app for app in listed if app["name"] == "cli-one")
    table = flyte("get", "app").stdout
    assert table.splitlines()[0].split() == ["NAME", "STATUS", "REVISION", "ENDPOINT"]
    assert entry["endpoint"] in table
    one = files.home.json("get", "app", "cli-one")
    assert one["name"] == "cli-one"
    assert (one["project"], one["domain"]) == ("local", "development")
    assert one["endpoint"] == entry["endpoint"]
    assert entry["endpoint"] in flyte("get", "app", "cli-one").stdout
    active = files.home.json("get", "app", "--status", "active")
    assert "cli-one" in [app["name"] for app in active]
    missing = flyte("get", "app", "cli-noe")
    assert missing.returncode == 1
    assert "`cli-noe`" in missing.stderr


def test_logs(flyte):
    endpoint = flyte("serve", "two.py", "first").stdout.strip()
    get(endpoint + "/one")
    get(endpoint + "/two")
    until(lambda: "asked /two" in flyte("get", "logs", "cli-first").stdout)
    done = flyte("get", "logs", "cli-first", "--tail", "2")
    assert done.stdout.splitlines() == ["asked /one", "asked /two"]
    told = [
        json.loads(line)
        for line in flyte("get", "logs", "cli-first", "-n", "1", "--output", "json").stdout.splitlines()
    ]
    assert [line["text"] for line in told] == ["asked /two"]
    assert told[0]["replica"].startswith("cli-first-") and told[0]["time"]
    assert flyte("get", "logs", "cli-nothing").returncode == 1
    # Names of the PyPI command line; a box needs a terminal.
    done = flyte("get", "logs", "cli-first", "-l", "1", "--pretty", "--filter-system")
    assert (done.returncode, done.stdout) == (0, "asked /two\n")


def test_logs_are_followed_until_ctrl_c(flyte, files):
    endpoint = flyte("serve", "two.py", "first").stdout.strip()
    follow = subprocess.Popen(
        [Path(sys.executable).with_name("flyte"), "get", "logs", "cli-first", "--tail", "1", "--follow"],
        env=files.home.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = follow.stdout.readline()
        assert first
        get(endpoint + "/followed")
        assert follow.stdout.readline() == "asked /followed\n"
        follow.send_signal(signal.SIGINT)
        _, errors = follow.communicate(timeout=30)
        assert follow.returncode == 130
        assert "Traceback" not in errors
    finally:
        follow.kill()


def test_serve_can_go_on_to_follow_the_log(files):
    serve = subprocess.Popen(
        [Path(sys.executable).with_name("flyte"), "serve", "two.py", "first", "--follow"],
        cwd=files.folder,
        env=files.home.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        endpoint = serve.stdout.readline().strip()
        get(endpoint + "/while-followed")
        for line in serve.stdout:
            if line == "asked /while-followed\n":
                break
        serve.send_signal(signal.SIGINT)
        _, errors = serve.communicate(timeout=30)
        assert serve.returncode == 130
        assert "Traceback" not in errors
    finally:
        serve.kill()
    assert get(endpoint)[0] == 200, "the app goes on without its follower"


def test_the_folder_it_is_called_from_makes_no_difference(flyte, files):
    assert flyte("serve", "two.py", "first").returncode == 0
    before = files.home.app("cli-first")
    done = files.home.flyte("serve", files.folder / "two.py", "first", cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    assert files.home.app("cli-first") == before


def test_an_app_under_another_name(flyte, files):
    done = flyte("serve", "two.py", "first", "--name", "cli-renamed", "--param", "word=renamed")
    assert done.returncode == 0, done.stderr
    assert get_json(done.stdout.strip()) == ["renamed", "a"]
    assert {"cli-first", "cli-renamed"} <= set(files.home.names())


def test_an_app_under_the_name_of_its_neighbour(flyte, files):
    files.write(
        "colours.py",
        """
        from flyte.app import AppEnvironment
        import web

        blue = AppEnvironment(name="cli-shop")
        green = AppEnvironment(name="cli-shop-next")

        @blue.server
        def serve_blue():
            web.serve(lambda path: "blue")

        @green.server
        def serve_green():
            web.serve(lambda path: "green")
        """,
    )
    for options, colour in [(("blue",), "blue"), (("green", "--name", "cli-shop"), "green")]:
        done = flyte("serve", "colours.py", *options)
        assert done.returncode == 0, done.stderr
        assert get_json(done.stdout.strip()) == colour
    assert flyte("delete", "app", "cli-shop").returncode == 0


def test_update_and_delete(flyte, files):
    endpoint = flyte("serve", "one.py").stdout.strip()
    done = flyte("update", "app", "cli-one", "--deactivate", "--wait")
    assert (done.returncode, done.stdout) == (0, "cli-one is STOPPED\n")
    assert get(endpoint)[0] == 503
    done = flyte("update", "app", "cli-one", "--activate", "--wait")
    assert (done.returncode, done.stdout) == (0, "cli-one is ACTIVE\n")
    assert get(endpoint)[0] == 200
    assert flyte("delete", "app", "cli-one").returncode == 0
    assert "cli-one" not in files.home.names()
    assert flyte("update", "app", "cli-one", "--activate").returncode == 1


def test_local_status(flyte, files):
    import flyte as package

    assert flyte("serve", "one.py").returncode == 0
    told = files.home.status()
    assert {"pid", "home", "version", "apps"} <= told.keys()
    assert told["home"] == str(files.home.path)
    assert told["version"] == package.__version__
    app = files.home.app("cli-one")
    assert {"name", "status", "revision", "endpoint", "replicas"} <= app.keys()
    text = flyte("local", "status").stdout
    assert str(told["pid"]) in text and "cli-one" in text
    assert "platform is up" in flyte("local", "logs").stdout


def test_status_of_a_platform_that_does_not_run(fresh_home):
    done = fresh_home.flyte("local", "status")
    assert done.returncode == 1
    assert "does not run" in done.stderr and "flyte local start" in done.stderr
    assert not (fresh_home.path / "run" / "platform.sock").exists(), "asking starts nothing"


def test_reset_asks_first(fresh_home, files):
    done = fresh_home.flyte("serve", files.folder / "one.py")
    assert done.returncode == 0, done.stderr
    assert fresh_home.flyte("local", "reset").returncode == 2
    assert fresh_home.names() == ["cli-one"]
    assert fresh_home.flyte("local", "reset", "--yes").returncode == 0
    assert fresh_home.replicas() == []
    assert fresh_home.flyte("local", "start").returncode == 0
    assert fresh_home.names() == []


def test_a_reader_that_goes_away_is_no_failure(flyte, files):
    command = Path(sys.executable).with_name("flyte")
    done = subprocess.run(
        f"'{command}' local status | head -1",
        shell=True,
        env=files.home.environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.startswith("pid")
    assert done.stderr == ""
