"""What an app sees of its caller, which is nothing, and what others see of an app."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import get, get_json

LOOKER = """
import json, os, sys
import flyte, flyte.app
import web

env = flyte.app.AppEnvironment(
    name="looker",
    env_vars={"DECLARED": "one", "OVERRIDDEN": "declared", "NUMBER": 4, "LOG_LEVEL": "ERROR"},
)

def look(path):
    try:
        import pytest
        found = pytest.__file__
    except ImportError:
        found = None
    return {
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "files": sorted(os.listdir()),
        "pytest": found,
        "version": flyte.__version__,
        "python": sys.version_info[:2],
        "flyte": flyte.__file__,
        "context": vars(flyte.app.ctx()),
        "port": env.get_port().port,
        "stdin": sys.stdin.read(),
        "prefix": sys.prefix,
    }

@env.server
def server():
    web.serve(look)
"""


@pytest.fixture(scope="module")
def seen(home, tmp_path_factory):
    """What the app saw, served from a shell with variables of its own."""
    from support import WEB, Project

    project = Project(tmp_path_factory.mktemp("looker"), home)
    project.write("web.py", WEB)
    project.write("main.py", LOOKER)
    project.write("secret.txt", "not for the bundle")
    project.write(
        "first.py",
        """
        import flyte, main
        context = flyte.with_servecontext(
            env_vars={"OVERRIDDEN": "given", "GIVEN": "two"}, log_level="DEBUG"
        )
        print('"' + context.serve(main.env).endpoint + '"')
        """,
    )
    endpoint = project.result("first.py", CALLERS_OWN="secret", PYTHONPATH="/tmp/callers-own")
    return project, get_json(endpoint)


def test_variables_of_the_caller_are_not_passed_on(seen):
    variables = seen[1]["env"]
    assert "CALLERS_OWN" not in variables
    assert "PYTHONPATH" not in variables or "/tmp/callers-own" not in variables["PYTHONPATH"]
    assert not [name for name in variables if name.startswith("PYTEST")]
    assert "secret" not in variables.values()


def test_variables_of_declaration_and_call(seen):
    variables = seen[1]["env"]
    assert variables["DECLARED"] == "one"
    assert variables["NUMBER"] == "4"
    assert variables["OVERRIDDEN"] == "given"
    assert variables["GIVEN"] == "two"
    assert variables["LOG_LEVEL"] == "DEBUG" or variables["LOG_LEVEL"] == "10"
    assert variables["PORT"] == "8080"


def test_packages_of_the_caller_are_not_passed_on(seen):
    assert seen[1]["pytest"] is None
    assert seen[1]["prefix"] != sys.prefix
    assert str(seen[1]["flyte"]).startswith(seen[1]["prefix"])


def test_the_sdk_is_the_callers_version(seen):
    import flyte

    assert seen[1]["version"] == flyte.__version__
    assert tuple(seen[1]["python"]) == sys.version_info[:2]


def test_it_runs_in_the_extracted_bundle(seen, home):
    project, told = seen
    cwd = Path(told["cwd"])
    assert cwd.is_relative_to(home.path)
    assert (cwd / "main.py").read_text() == (project.folder / "main.py").read_text()
    assert "web.py" in told["files"]
    assert "secret.txt" not in told["files"]


def test_it_knows_where_it_runs(seen, home):
    context = seen[1]["context"]
    assert context["mode"] == "local"
    assert (context["project"], context["domain"]) == ("local", "development")
    raw = Path(context["raw_data_path"].removeprefix("file://"))
    assert raw.is_relative_to(home.path)


def test_its_standard_input_is_empty(seen):
    assert seen[1]["stdin"] == ""


def test_it_is_told_the_port_that_it_declared(seen):
    assert seen[1]["port"] == 8080


def test_apps_that_hardcode_one_port_run_side_by_side(project, home):
    project.write(
        "main.py",
        """
        import json
        import flyte, flyte.app
        import web

        def app(name, host):
            program = f"import web; web.serve(lambda path: '{name}', 8080, '{host}')"
            return flyte.app.AppEnvironment(name=name, args=["python", "-c", program])

        hosts = {"wide-a": "0.0.0.0", "wide-b": "0.0.0.0", "narrow": "127.0.0.1", "empty": ""}
        envs = [app(name, host) for name, host in hosts.items()]

        if __name__ == "__main__":
            print(json.dumps({env.name: flyte.serve(env).endpoint for env in envs}))
        """,
    )
    endpoints = project.result()
    assert {name: get(url) for name, url in endpoints.items()} == {
        name: (200, f'"{name}"') for name in endpoints
    }
    assert 8080 not in {port for _, port in listening(home)}, "8080 itself was not taken"


def listening(home):
    """(address, port) of every listening TCP socket of this home's processes."""
    inodes = set()
    for pid in [home.status()["pid"], *home.replicas()]:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(("loopback" if address == loopback else address, int(port, 16)))
    return found


def test_nothing_listens_on_an_address_that_others_can_reach(seen, home):
    sockets = listening(home)
    assert len(sockets) >= 3, "console, gateway and app"
    assert {address for address, _ in sockets} == {"loopback"}


def test_loading_the_module_inside_the_app_does_not_serve_again(project, home):
    project.write(
        "main.py",
        """
        import flyte, flyte.app
        import web

        env = flyte.app.AppEnvironment(name="unguarded")

        @env.server
        def server():
            web.serve(lambda path: app.endpoint)

        # Without a guard: this line runs inside the app as well.
        app = flyte.serve(env)
        print('"' + app.endpoint + '"')
        """,
    )
    endpoint = project.result()
    assert get_json(endpoint) == endpoint
    assert home.app("unguarded")["revision"] == 1
