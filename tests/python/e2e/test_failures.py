"""How failures are told: what happened, where it can be read, what to try, and all of it soon."""

from __future__ import annotations

import contextlib
import http.client
import time

import pytest
from support import get, until

# Below the 20 s after which an app is given up that does nothing, for all else is told before that.
SOON = 18.0


def serving(body: str, **fields: str) -> str:
    """A file that declares `env` with a server function of this body."""
    declared = "".join(f", {name}={value}" for name, value in fields.items())
    return f"""
import flyte, flyte.app
import web

env = flyte.app.AppEnvironment(name="broken"{declared})

@env.server
def server():
    {body}
"""


def running(args: str, **fields: str) -> str:
    """A file that declares `env` with arguments."""
    declared = "".join(f", {name}={value}" for name, value in fields.items())
    return f"""
import flyte, flyte.app

env = flyte.app.AppEnvironment(name="broken", args={args}{declared})
"""


@pytest.fixture
def fails(project):
    """Serves a file that cannot be served, blocking, and returns how it failed."""

    def serve(text: str, code: str, soon: float = SOON, call: str = "flyte.serve(main.env)"):
        project.write("main.py", text)
        failure = project.failure(call)
        assert failure["code"] == code, failure
        assert failure["class"] == "AppError", failure
        assert "`broken`" in failure["message"]
        assert failure["seconds"] < soon, failure
        assert all(hint in failure["text"] for hint in failure["hints"])
        return failure

    return serve


@pytest.mark.parametrize(
    "call",
    ["flyte.serve(main.env)", "__import__('asyncio').run(flyte.serve.aio(main.env))"],
    ids=["blocking", "aio"],
)
def test_a_server_function_that_raises(fails, call):
    failure = fails(serving("raise ValueError('no such model: tiny')"), "app.exited", call=call)
    assert "exited with code 1" in failure["message"]
    assert "ValueError: no such model: tiny" in failure["message"]
    log = "\n".join(failure["log"])
    assert "Traceback (most recent call last):" in log
    assert 'main.py", line 8, in server' in log
    assert failure["hints"] == ["`flyte get logs broken` shows all it wrote"]


def test_an_exit_status_of_a_command(fails):
    failure = fails(running("""["python", "-c", "print('bye'); raise SystemExit(7)"]"""), "app.exited")
    assert "exited with code 7" in failure["message"]
    assert failure["log"][-1] == "bye"


def test_a_process_that_is_killed(fails):
    kill = "__import__('os').kill(__import__('os').getpid(), 9)"
    assert "signal 9" in fails(serving(kill), "app.exited")["message"]


def test_a_startup_hook_that_raises(fails):
    text = serving("web.serve(lambda path: 1)") + (
        "\n@env.on_startup\ndef prepare():\n    raise RuntimeError('no database')\n"
    )
    failure = fails(text, "app.exited")
    assert "RuntimeError: no database" in failure["message"]


def test_an_error_while_the_module_is_imported(fails, project):
    project.write(
        "main.py",
        serving("web.serve(lambda path: 1)")
        + "\nimport os\nif os.environ.get('_FLYTE_IN_REPLICA'):\n    1 / 0\n",
    )
    failure = project.failure()
    assert failure["code"] in ("app.exited", "runtime.load")
    assert "ZeroDivisionError" in failure["message"]


def test_nothing_listens(fails):
    failure = fails(running('["sleep", "600"]'), "app.not_listening", soon=60)
    assert "port 8080" in failure["message"]
    assert failure["seconds"] > 5, "a slow start would be taken for a failure"
    assert any("8080" in hint for hint in failure["hints"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ('["sleep", "600"]', "nothing listens on port 8080, and it is idle"),
        ('["python", "-m", "http.server", "9192"]', "listens on port 9192 but declares port 8080"),
    ],
)
def test_what_is_missing_is_said_long_before_it_is_given_up(project, args, words):
    project.write("main.py", running(args) + "\nflyte.serve(env)\n")
    script = project.start()
    started = time.monotonic()
    said = next((line for line in script.stderr if words in line), None)
    assert said is not None and time.monotonic() - started < SOON
    assert script.poll() is None, "the call still waits"
    script.terminate()
    script.communicate(timeout=10)


def test_another_port_first_and_the_declared_one_later(project):
    project.write(
        "main.py",
        """
        import threading, time
        from http.server import HTTPServer, BaseHTTPRequestHandler
        import flyte, flyte.app
        import web

        env = flyte.app.AppEnvironment(name="metrics-first")

        @env.server
        def server():
            metrics = HTTPServer(("", 9464), BaseHTTPRequestHandler)
            threading.Thread(target=metrics.serve_forever, daemon=True).start()
            time.sleep(1.5)
            web.serve(lambda path: "up")

        if __name__ == "__main__":
            print(flyte.serve(env).endpoint)
        """,
    )
    done = project.run()
    assert done.returncode == 0, done.stderr
    assert get(done.stdout.split()[-1])[0] == 200


def test_a_crash_is_told_in_the_apps_log_and_state(project, home):
    project.write(
        "main.py",
        """
        import os, pathlib
        import flyte, flyte.app
        import web

        env = flyte.app.AppEnvironment(name="crashes", env_vars={"ENDED": os.environ.get("ENDED", "")})

        @env.server
        def server():
            ended = pathlib.Path(os.environ["ENDED"])
            # Once it has crashed it does not come back, so that there is time to look.
            if ended.exists():
                os._exit(3)

            def answer(path):
                if path == "/end":
                    ended.touch()
                    os._exit(3)
                return "up"

            web.serve(answer)

        if __name__ == "__main__":
            print(flyte.serve(env).endpoint)
        """,
    )
    done = project.run(ENDED=str(project.folder / "ended"))
    assert done.returncode == 0, done.stderr
    with contextlib.suppress(OSError, http.client.HTTPException):
        get(done.stdout.split()[-1] + "/end")
    until(
        lambda: "exited with code 3" in home.json("get", "app", "crashes")["message"],
        30,
        "the reason in the state",
    )
    log = home.flyte("get", "logs", "crashes").stdout
    assert "flyte: the process exited with code 3" in log and "starting it again" in log
    home.flyte("delete", "app", "crashes")


def test_an_app_that_keeps_crashing(project, home):
    project.write(
        "main.py",
        """
        import os, pathlib, time
        import flyte, flyte.app
        import web

        ill = pathlib.Path(os.environ["ILL"])
        variables = {"ILL": str(ill), "ALWAYS": os.environ.get("ALWAYS", "")}
        env = flyte.app.AppEnvironment(
            name="unwell", env_vars=variables, scaling=flyte.app.Scaling(replicas=1)
        )

        @env.server
        def server():
            how = ill.read_text()
            print("is", how)
            if how == "slowly ill":
                time.sleep(2)
            if how.endswith("ill") or os.environ["ALWAYS"]:
                os._exit(3)
            if how == "slowly well":
                time.sleep(3)
            web.serve(lambda path: os._exit(4) if path == "/end" else "up")

        if __name__ == "__main__":
            print(flyte.serve(env).endpoint)
        """,
    )
    ill = project.folder / "ill"
    ill.write_text("well")
    first = project.run(ILL=str(ill))
    assert first.returncode == 0, first.stderr
    endpoint = first.stdout.split()[-1]
    ill.write_text("ill")
    with contextlib.suppress(OSError, http.client.HTTPException):
        get(endpoint + "/end")
    states = []

    def state():
        app = home.json("get", "app", "unwell")
        states.append((app["status"], app["substate"]))
        return states[-1]

    def log():
        return home.flyte("get", "logs", "unwell").stdout

    # After five in a row the pauses are long, and so is the word.
    until(lambda: state() == ("FAILED", "CRASH_LOOP"), 60, "a failure")
    assert ("PENDING", "CRASH_LOOP") in states
    until(lambda: "in 6400 ms" in log(), 60, "a long pause")
    assert state() == ("FAILED", "CRASH_LOOP")

    # A change that fails as well does not make it one that serves.
    ill.write_text("slowly ill")
    assert project.run(ILL=str(ill), ALWAYS="yes").returncode != 0
    told = home.json("get", "app", "unwell")
    assert "keeps serving" not in told["message"], told

    # Serving it again once it is well tries at once, and is not told what became of an earlier try.
    until(lambda: log().count("is slowly ill") > 1, 60, "a try of the platform's own")
    ill.write_text("slowly well")
    again = project.run(ILL=str(ill))
    assert again.returncode == 0, again.stderr
    assert get(endpoint)[0] == 200
    home.flyte("delete", "app", "unwell")


def test_another_port(fails):
    failure = fails(running('["python", "-m", "http.server", "9191"]'), "app.wrong_port")
    assert "9191" in failure["message"] and "8080" in failure["message"]
    assert any("8080" in hint for hint in failure["hints"])


def test_an_app_that_is_busy_for_a_while_is_not_a_failure(project):
    project.write(
        "main.py",
        """
        import time
        import flyte, flyte.app
        import web

        env = flyte.app.AppEnvironment(name="busy")

        @env.server
        def server():
            print("loading", flush=True)
            ends = time.time() + 3
            while time.time() < ends:
                pass
            web.serve(lambda path: "loaded")

        if __name__ == "__main__":
            print('"' + flyte.serve(env).endpoint + '"')
        """,
    )
    assert get(project.result()) == (200, '"loaded"')


@pytest.mark.parametrize(("status", "part"), [(500, "answers 500"), (404, "answers 404")])
def test_a_health_path_that_answers_with_an_error(fails, status, part):
    text = serving(f"web.serve(lambda path: ({status}, 'pool is empty') if path == '/ready' else 'fine')")
    call = "flyte.with_servecontext(health_check_path='/ready').serve(main.env)"
    failure = fails(text, "app.unhealthy", call=call)
    assert "`/ready`" in failure["message"]
    assert part in failure["message"] and "pool is empty" in failure["message"]


def test_a_health_path_that_becomes_well_is_waited_for(project):
    project.write(
        "main.py",
        """
        import time
        import flyte, flyte.app
        import web

        env = flyte.app.AppEnvironment(name="loading")

        @env.server
        def server():
            ready = time.time() + 1.5
            web.serve(lambda path: 1 if time.time() > ready else (503, "loading"))

        if __name__ == "__main__":
            app = flyte.with_servecontext(health_check_path="/").serve(env)
            print('"' + app.endpoint + '"')
        """,
    )
    assert get(project.result()) == (200, "1")


def test_a_module_of_the_project_that_is_not_in_the_bundle(fails, project):
    project.write("helper_words.py", "WORD = 'hidden'\n")
    failure = fails(
        serving("__import__('importlib').import_module('helper_' + 'words')"), "app.missing_module"
    )
    assert "`helper_words`" in failure["message"]
    (hint,) = failure["hints"]
    assert 'include=["helper_words.py"]' in hint
    # The hint is true.
    text = (project.folder / "main.py").read_text()
    project.write(
        "main.py",
        text.replace('name="broken"', 'name="mended", include=["helper_words.py"]')
        + "    web.serve(lambda path: 1)\n"
        + "\nif __name__ == '__main__':\n    flyte.serve(env)\n",
    )
    assert project.run().returncode == 0


def test_a_package_that_the_image_does_not_have(fails):
    failure = fails(serving("import yaml"), "app.missing_module")
    assert "`yaml`" in failure["message"]
    (hint,) = failure["hints"]
    assert 'with_pip_packages("pyyaml")' in hint


def test_a_command_that_does_not_exist(fails):
    failure = fails(running('["gunicron", "main:app"]'), "app.missing_command")
    assert "`gunicron`" in failure["message"]
    assert failure["hints"]


def test_a_file_of_the_arguments_that_is_not_in_the_bundle(fails, project):
    project.write("serve_me.py", "import web; web.serve(lambda path: 1)\n")
    failure = fails(running('["python", "serve_me.py"]'), "app.missing_file")
    assert "serve_me.py" in failure["message"]
    (hint,) = failure["hints"]
    assert 'include=["serve_me.py"]' in hint


def test_a_data_file_that_is_not_in_the_bundle(fails, project):
    project.write("data/words.txt", "x\n")
    failure = fails(serving("open('data/words.txt')"), "app.missing_file")
    assert "data/words.txt" in failure["message"]
    assert 'include=["data/words.txt"]' in failure["hints"][0]


def test_nothing_to_run(project):
    project.write("main.py", 'import flyte.app\nenv = flyte.app.AppEnvironment(name="empty")\n')
    failure = project.failure()
    assert (failure["class"], failure["code"]) == ("ConfigError", "config.invalid")
    assert failure["hints"]


def test_a_wait_that_is_too_short(project):
    project.write("main.py", running("""["python", "-c", "import time\\nwhile True: time.time()"]"""))
    failure = project.failure("flyte.with_servecontext(activate_timeout=1.5).serve(main.env)")
    assert (failure["class"], failure["code"]) == ("TimeoutError", "app.timeout")
    assert 1.5 <= failure["seconds"] < SOON


def test_the_old_revision_keeps_serving_when_the_new_one_fails(project, home):
    good = serving("web.serve(lambda path: 'old')").replace('"broken"', '"kept"')
    project.write("main.py", good)
    project.write("first.py", "import flyte, main\nprint('\"' + flyte.serve(main.env).endpoint + '\"')\n")
    endpoint = project.result("first.py")
    pid = home.pid("kept")
    project.write("main.py", good.replace("web.serve(lambda path: 'old')", "raise ValueError('new')"))
    failure = project.failure()
    assert failure["code"] == "app.exited"
    assert "ValueError: new" in failure["message"]
    assert get(endpoint) == (200, '"old"')
    assert home.pid("kept") == pid
    assert home.app("kept")["status"] == "ACTIVE"
    # What failed is tried again when it is asked for again, and fails again.
    assert project.failure()["code"] == "app.exited"
    project.write("main.py", good.replace("'old'", "'mended'"))
    assert project.result("first.py") == endpoint
    assert get(endpoint) == (200, '"mended"')


def test_a_failed_app_says_why_at_its_endpoint(project, home):
    project.write("main.py", serving("raise ValueError('sad')").replace('"broken"', '"sad"'))
    project.failure()
    status, body = get(home.app("sad")["endpoint"])
    assert status == 503
    assert "ValueError: sad" in body
    assert home.app("sad")["status"] == "FAILED"


def test_an_uncaught_failure_of_a_script(project):
    project.write(
        "main.py", serving("raise ValueError('sad')") + "\nif __name__ == '__main__':\n    flyte.serve(env)\n"
    )
    done = project.run()
    assert done.returncode == 1
    assert "flyte.errors.AppError: app `broken` did not come up" in done.stderr
    assert "last log lines:" in done.stderr
    assert "hint: `flyte get logs broken`" in done.stderr
