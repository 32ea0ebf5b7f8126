"""Apps that use each other: served whole, what is needed first, each found by the others."""

from __future__ import annotations

import pytest
from support import get, get_json

CHAIN = """
import asyncio, json, os, urllib.request
import flyte, flyte.app
from flyte.app import AppEndpoint, AppEnvironment, Parameter
import web

def ask(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.loads(answer.read())

# All three hardcode port 8080.
store = AppEnvironment(name="store")

@store.server
def keep():
    web.serve(lambda path: ["store"])

model = AppEnvironment(
    name="model",
    depends_on=[store],
    parameters=[Parameter("upstream", AppEndpoint(app_name="store"), env_var="STORE_URL")],
)

@model.server
def predict(upstream):
    assert upstream == os.environ["STORE_URL"] == flyte.app.get_parameter("upstream")
    assert ask(upstream) == ["store"], "what this needs was not up first"
    web.serve(lambda path: ["model", *ask(upstream)])

front = AppEnvironment(name="front", depends_on=[model])

@front.server
def show():
    assert ask(model.endpoint) == ["model", "store"], "what this needs was not up first"
    web.serve(lambda path: {"chain": ["front", *ask(model.endpoint)], "model": model.endpoint})
"""


@pytest.mark.usefixtures("home")
def test_a_chain_is_served_whole_and_in_order(project, home, serve_call):
    project.write(
        "main.py",
        CHAIN
        + f"""
if __name__ == "__main__":
    env = front
    app = {serve_call}
    print(json.dumps([app.endpoint, model.endpoint]))
""",
    )
    endpoint, model_endpoint = project.result()
    answer = get_json(endpoint)
    assert answer["chain"] == ["front", "model", "store"]
    # Inside and outside an app the same address is meant.
    assert answer["model"] == model_endpoint
    apps = {app["name"]: app for app in home.status()["apps"]}
    assert {name: app["status"] for name, app in apps.items()} == {
        "front": "ACTIVE",
        "model": "ACTIVE",
        "store": "ACTIVE",
    }
    assert len({app["endpoint"] for app in apps.values()}) == 3


def test_serving_the_chain_again_restarts_none_of_it(project, home):
    project.write("main.py", CHAIN + '\nif __name__ == "__main__":\n    flyte.serve(front)\n')
    assert project.run().returncode == 0
    pids = {name: home.pid(name) for name in ("front", "model", "store")}
    assert project.run().returncode == 0
    assert {name: home.pid(name) for name in pids} == pids


def test_values_are_given_to_any_app_of_the_graph(project):
    project.write(
        "main.py",
        """
        import flyte, flyte.app
        import web

        base = flyte.app.AppEnvironment(name="base", parameters=[flyte.app.Parameter("word", "declared")])

        @base.server
        def server(word):
            web.serve(lambda path: word)

        args = ["python", "-m", "http.server", "8080"]
        top = flyte.app.AppEnvironment(name="top", depends_on=[base], args=args)

        if __name__ == "__main__":
            flyte.with_servecontext(input_values={"base": {"word": "given"}}).serve(top)
            print('"' + base.endpoint + '"')
        """,
    )
    assert get(project.result()) == (200, '"given"')


def test_a_circle_is_named_and_nothing_is_deployed(project, home):
    project.write(
        "main.py",
        """
        from flyte.app import AppEnvironment

        env = AppEnvironment(name="round-a", args="sleep 60")
        other = AppEnvironment(name="round-b", args="sleep 60", depends_on=[env])
        third = AppEnvironment(name="round-c", args="sleep 60", depends_on=[other])
        env.add_dependency(third)
        """,
    )
    failure = project.failure()
    assert failure["class"] == "ConfigError"
    assert failure["code"] == "graph.cycle"
    for name in ("round-a", "round-b", "round-c"):
        assert name in failure["message"]
    assert failure["hints"]
    assert not [name for name in home.names() if name.startswith("round")]


def test_what_depends_on_a_failing_app_is_not_started(project, home):
    project.write(
        "main.py",
        """
        from flyte.app import AppEnvironment

        broken = AppEnvironment(name="broken", args=["python", "-c", "raise SystemExit(3)"])
        env = AppEnvironment(name="above", depends_on=[broken], args="python -m http.server 8080")
        """,
    )
    failure = project.failure()
    assert failure["code"] == "app.exited"
    assert "`broken`" in failure["message"]
    assert "above" not in home.names()


def test_the_endpoint_of_an_app_that_is_not_served(project):
    project.write(
        "main.py",
        """
        import flyte.app
        from flyte import errors

        try:
            flyte.app.AppEnvironment(name="nowhere", args="true").endpoint
        except errors.NotFoundError as error:
            print('"' + error.code + '"')
        """,
    )
    assert project.result() == "app.not_found"
