"""`flyte.deploy` and `flyte deploy`: apps as they are declared, with all that they depend on."""

from __future__ import annotations

import json

import pytest
from support import get, get_json

MAIN = """
import asyncio, json
import flyte, flyte.app, web

base = flyte.app.AppEnvironment(name="deploy-base")
top = flyte.app.AppEnvironment(name="deploy-top", depends_on=[base])

@base.server
def keep():
    web.serve(lambda path: "base")

@top.server
def show():
    web.serve(lambda path: "top")

def told(deployments):
    print(json.dumps([
        {name: [one.deployed_app.name, one.deployed_app.endpoint] for name, one in deployment.envs.items()}
        for deployment in deployments
    ]))
"""


@pytest.fixture
def graph(project):
    """Two apps, one of which needs the other."""
    project.write("main.py", MAIN)
    return project


def test_a_deployment_holds_the_app_and_what_it_depends_on(graph, call):
    for form in ("flyte.deploy(top)", "asyncio.run(flyte.deploy.aio(top, base))"):
        graph.write("run.py", f"from main import *\n\nif __name__ == '__main__':\n    told({form})\n")
        (deployment,) = graph.result("run.py")
        assert list(deployment) == ["deploy-top", "deploy-base"], "the one that was asked for first"
        for name, (app, endpoint) in deployment.items():
            assert app == name
            assert get_json(endpoint) == name.removeprefix("deploy-")


@pytest.mark.parametrize("asked", ["main.first", "main.first, main.second", "main.above"])
def test_a_circle_is_told(project, home, asked):
    project.write(
        "main.py",
        """
        from flyte.app import AppEnvironment

        words = ["python", "-m", "http.server", "8080"]
        first = AppEnvironment(name="circle-first", args=words)
        second = AppEnvironment(name="circle-second", args=words, depends_on=[first])
        above = AppEnvironment(name="circle-above", args=words, depends_on=[second])
        first.add_dependency(second)
        """,
    )
    failure = project.failure(f"flyte.deploy({asked})")
    assert failure["code"] == "graph.cycle"
    assert "circle-first" not in home.names()


def test_its_rows_and_lines_are_of_all_apps(graph):
    graph.write(
        "rows.py",
        """
        from main import *

        if __name__ == "__main__":
            (deployment,) = flyte.deploy(top, version="v7")
            print(json.dumps({
                "summary": deployment.summary_repr().splitlines(),
                "table": deployment.table_repr(),
                "env": deployment.env_repr(),
                "command": flyte.remote.App.get("deploy-top").to_dict()["spec"]["container"]["command"],
            }))
        """,
    )
    told = graph.result("rows.py")
    assert [line.split()[0] for line in told["summary"]] == ["deploy-top", "deploy-base"]
    assert [dict(row)["name"] for row in told["table"]] == ["deploy-top", "deploy-base"]
    assert ["environment", "deploy-base"] in told["env"]
    command = told["command"]
    assert command[command.index("--version") + 1] == "v7"


@pytest.mark.parametrize("option", ["dry_run", "dryrun"])
def test_a_dry_run_does_nothing(graph, home, option):
    graph.write(
        "dry.py",
        f"""
        import warnings
        warnings.simplefilter("ignore")
        from main import *

        never = flyte.app.AppEnvironment(name="deploy-never", args=["python", "-m", "http.server", "8080"])
        told(flyte.deploy(never, {option}=True))
        """,
    )
    assert graph.result("dry.py") == [{"deploy-never": ["deploy-never", ""]}]
    assert "deploy-never" not in home.names()


def test_the_command_shows_the_plan_and_takes_no_overrides(graph, home):
    done = home.flyte("deploy", "main.py", "top", cwd=graph.folder)
    assert done.returncode == 0, done.stderr
    assert "2 apps: `deploy-base`, then `deploy-top`" in done.stderr
    assert get(done.stdout.strip())[0] == 200
    for option in ("--param=a=b", "--env-var=A=B", "--name=x", "--service-account=x", "--cluster-pool=x"):
        refused = home.flyte("deploy", "main.py", "top", option, cwd=graph.folder)
        assert refused.returncode == 2, option
        assert option.split("=")[0] in refused.stderr
    document = home.flyte("deploy", "main.py", "top", "--output", "json", cwd=graph.folder).stdout
    assert json.loads(document)["name"] == "deploy-top"
