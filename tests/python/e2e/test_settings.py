"""Where apps go: nothing configured, a file, an argument, and control planes that are not there."""

from __future__ import annotations

import json
import socket
import time

import pytest
from support import get

from flyte import errors


def told_by(project, code: str):
    """What a script prints that has `flyte` and an app `env`, which it may serve."""
    project.write(
        "main.py",
        f"""
        import asyncio, json, time
        import flyte, flyte.app
        from flyte import errors

        env = flyte.app.AppEnvironment(name="settled", args=["python", "-m", "http.server", "8080"])

        def attempt(function, *args, **kwargs):
            started = time.monotonic()
            try:
                function(*args, **kwargs)
            except errors.Error as error:
                return [type(error).__name__, error.code, str(error), time.monotonic() - started]

        if __name__ == "__main__":
            {code}
        """,
    )
    return project.run()


@pytest.mark.parametrize("init", ["flyte.init_from_config()", "asyncio.run(flyte.init_from_config.aio())"])
def test_with_nothing_configured_the_local_platform_is_used_and_said_so(project, home, init):
    done = told_by(project, f"{init}; print(flyte.serve(env).endpoint)")
    assert done.returncode == 0, done.stderr
    assert f"using the local platform ({home.path})" in done.stderr
    assert get(done.stdout.strip())[0] == 200


@pytest.mark.parametrize("init", ["flyte.init({})", "asyncio.run(flyte.init.aio({}))"])
def test_project_and_domain_of_init(project, home, init):
    call = init.format("project='mine', domain='staging'")
    done = told_by(
        project,
        f"{call}; app = flyte.serve(env); "
        "print(json.dumps([app.project, app.domain, flyte.current_project(), flyte.current_domain()]))",
    )
    assert json.loads(done.stdout) == ["mine", "staging", "mine", "staging"], done.stderr
    assert home.json("get", "app", "settled", "-p", "mine", "-d", "staging")["project"] == "mine"


def test_a_file_is_found_and_read(project):
    project.write(".flyte/config.yaml", "task:\n  project: from-file\n  domain: production\n")
    done = told_by(
        project, "flyte.init_from_config(); print(flyte.current_project(), flyte.current_domain())"
    )
    assert done.stdout == "from-file production\n", done.stderr


def test_a_file_that_is_missing_or_wrong(project):
    project.write("wrong.yaml", "admin:\n  endpiont: localhost:1\n")
    done = told_by(
        project,
        "init = flyte.init_from_config; "
        "print(json.dumps([attempt(init, 'missing.yaml'), attempt(init, 'wrong.yaml')]))",
    )
    missing, wrong = json.loads(done.stdout)
    assert missing[:2] == ["ConfigError", "config.invalid"] and "missing.yaml" in missing[2]
    assert wrong[:2] == ["ConfigError", "config.invalid"] and "endpiont" in wrong[2]


def test_a_control_plane_that_is_not_there(project):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code = (
            f"flyte.init(endpoint={endpoint!r}, project='p', domain='d'); "
            "print(json.dumps(attempt(flyte.serve, env)))"
        )
        done = told_by(project, code)
    kind, code, text, seconds = json.loads(done.stdout)
    assert (kind, code) == ("UnavailableError", "client.unavailable")
    assert endpoint in text
    assert seconds < 15


def test_something_else_that_answers_at_the_endpoint(project, home):
    project.write(
        "other.py",
        """
        import json
        import flyte, flyte.app
        env = flyte.app.AppEnvironment(name="impostor", args=["python", "-m", "http.server", "8080"])
        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    endpoint = project.result("other.py")
    done = told_by(
        project,
        f"flyte.init(endpoint={endpoint!r}, project='p', domain='d'); "
        "print(json.dumps(attempt(flyte.serve, env)))",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[3] < 15


def test_a_cluster_needs_a_project(project):
    done = told_by(
        project, "flyte.init(endpoint='http://127.0.0.1:1'); print(json.dumps(attempt(flyte.serve, env)))"
    )
    kind, code, text, _ = json.loads(done.stdout)
    assert (kind, code) == ("ConfigError", "config.invalid")
    assert "project" in text


def test_modes(project):
    done = told_by(
        project,
        "flyte.init(endpoint='http://127.0.0.1:1'); "
        "print(flyte.with_servecontext(mode='local').serve(env).endpoint)",
    )
    assert done.returncode == 0, done.stderr
    assert get(done.stdout.strip())[0] == 200
    done = told_by(project, "flyte.with_servecontext(mode='remote').serve(env)")
    assert "no endpoint is configured" in done.stderr
    done = told_by(project, "flyte.with_servecontext(mode='hybrid')")
    assert issubclass(errors.ConfigError, ValueError)
    assert "flyte.errors.ConfigError" in done.stderr and "hybrid" in done.stderr


def test_importing_and_declaring_touch_nothing(project, tmp_path):
    untouched = tmp_path / "untouched"
    project.write(
        "main.py",
        """
        import time
        import flyte, flyte.app
        env = flyte.app.AppEnvironment(name="declared", args="true")
        """,
    )
    started = time.monotonic()
    done = project.run(FLYTE_HOME=str(untouched))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 20
    assert not untouched.exists()


def test_a_home_that_cannot_be_written(project):
    done = told_by(project, "flyte.serve(env)")
    assert done.returncode == 0, done.stderr
    done = project.run(FLYTE_HOME="/proc/flyte")
    assert done.returncode == 1
    assert "flyte.errors." in done.stderr and "/proc/flyte" in done.stderr


def test_a_home_with_a_long_path(project, tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    deep = tmp_path / ("d" * 90)
    done = told_by(project, "print(flyte.serve(env).endpoint)")
    done = project.run(FLYTE_HOME=str(deep))
    assert done.returncode == 0, done.stderr
    assert get(done.stdout.strip())[0] == 200
    stopped = subprocess.run(
        [Path(sys.executable).with_name("flyte"), "local", "stop"],
        env=project.home.environment(FLYTE_HOME=str(deep)),
        timeout=30,
        check=False,
    )
    assert stopped.returncode == 0
