"""Several callers at the same time: who serves, deactivates or deletes while another one waits."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest
from support import get, get_json, until

APP = """
import json, os, sys, time
import flyte, flyte.app
from flyte import errors
import web

env = flyte.app.AppEnvironment(
    name="shared", parameters=[flyte.app.Parameter("word", "none"), flyte.app.Parameter("delay", 0.0)]
)

@env.server
def server(word, delay):
    until = time.monotonic() + delay
    while time.monotonic() < until:
        pass
    web.serve(lambda path: word)

if __name__ == "__main__":
    values = json.loads(sys.argv[1])
    try:
        app = flyte.with_servecontext(input_values={"shared": values}).serve(env)
    except errors.Error as error:
        print(json.dumps([type(error).__name__, error.code, error.message]))
    else:
        print(json.dumps(app.endpoint))
"""


@pytest.fixture
def shared(project, home):
    project.write("main.py", APP)
    yield project
    home.flyte("delete", "app", "shared")


def start(shared, **values):
    return shared.start("main.py", json.dumps(values))


def outcome(script):
    out, errors = script.communicate(timeout=90)
    assert script.returncode == 0, errors
    return json.loads(out)


def test_the_same_app_from_several_scripts(shared, home):
    scripts = [start(shared, word="same") for _ in range(4)]
    assert len({outcome(script) for script in scripts}) == 1
    assert home.app("shared")["revision"] == 1
    until(lambda: len(home.replicas("shared")) == 1, 10)


def test_different_values_from_several_scripts_end_in_one_of_them(shared, home):
    words = [f"word-{n}" for n in range(4)]
    scripts = [start(shared, word=word) for word in words]
    outcomes = [outcome(script) for script in scripts]
    endpoint = home.app("shared")["endpoint"]
    assert endpoint in outcomes
    # Who was overtaken is told so, or was up for a moment; nobody is left waiting.
    for told in outcomes:
        assert told == endpoint or told[0] in ("ConflictError", "AppError"), told
    assert get_json(endpoint) in words
    until(lambda: len(home.replicas("shared")) == 1, 15)
    assert home.app("shared")["status"] == "ACTIVE"


def test_a_newer_deployment_overtakes_one_that_is_starting(shared, home):
    slow = start(shared, word="slow", delay=30.0)
    until(lambda: home.replicas("shared"), 20)
    endpoint = outcome(start(shared, word="quick"))
    assert get_json(endpoint) == "quick"
    started = time.monotonic()
    told = outcome(slow)
    assert time.monotonic() - started < 15, "its caller is not left waiting"
    assert told == endpoint or told[0] in ("ConflictError", "AppError"), told
    until(lambda: len(home.replicas("shared")) == 1, 20)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("update", "app", "shared", "--deactivate", "--wait"), "app.deactivated"),
        (("delete", "app", "shared"), "app.not_found"),
    ],
    ids=["deactivated", "deleted"],
)
def test_an_app_is_taken_away_while_it_is_waited_for(shared, home, words, code):
    script = start(shared, word="x", delay=30.0)
    until(lambda: home.replicas("shared"), 20)
    assert home.flyte(*words).returncode == 0
    started = time.monotonic()
    assert outcome(script)[1] == code
    assert time.monotonic() - started < 15
    until(lambda: not home.replicas("shared"), 15)


def test_the_platform_is_stopped_while_an_app_is_waited_for(shared, home):
    script = start(shared, word="x", delay=2.0)
    until(lambda: home.replicas("shared"), 20)
    assert home.flyte("local", "stop").returncode == 0
    assert home.replicas() == []
    told = outcome(script)
    # Either it is told that the platform is gone, or the platform came back and the app with it.
    assert told == home.json("local", "start")["apps"][0]["endpoint"] or told[0] == "UnavailableError", told


def test_a_request_waits_for_an_app_that_starts(shared, home):
    script = start(shared, word="patient", delay=2.0)
    until(lambda: home.replicas("shared"), 20)
    assert get(home.app("shared")["endpoint"]) == (200, '"patient"')
    assert get(outcome(script))[0] == 200


def test_many_watchers_see_the_end(shared, home):
    from flyte.remote import App

    outcome(start(shared, word="watched"))
    seen = []
    watchers = [
        threading.Thread(target=lambda: seen.append(App.get("shared").watch(wait_for="deactivated").name))
        for _ in range(5)
    ]
    for watcher in watchers:
        watcher.start()
    time.sleep(0.3)
    App.get("shared").deactivate(wait=True)
    for watcher in watchers:
        watcher.join(10)
    assert seen == ["shared"] * 5


def test_a_caller_that_is_killed_leaves_a_working_app(shared, home):
    script = start(shared, word="orphan", delay=1.0)
    until(lambda: home.replicas("shared"), 20)
    script.send_signal(signal.SIGKILL)
    script.communicate()
    assert get(home.app("shared")["endpoint"]) == (200, '"orphan"')
    assert outcome(start(shared, word="orphan", delay=1.0)) == home.app("shared")["endpoint"]
    assert home.app("shared")["revision"] == 1
