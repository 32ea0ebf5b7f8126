"""`App`: all that can be asked of a served app and done with it, blocking and awaited."""

from __future__ import annotations

import asyncio
import threading
import time
from enum import IntEnum

import pytest
from support import get, refuses, until


@pytest.fixture(scope="module")
def served(home, tmp_path_factory):
    """An app that tells what it is asked for, in its log too."""
    from support import WEB, Project

    project = Project(tmp_path_factory.mktemp("handle"), home)
    project.write("web.py", WEB)
    project.write(
        "main.py",
        """
        import flyte, flyte.app
        import web

        env = flyte.app.AppEnvironment(name="handle", parameters=[flyte.app.Parameter("word", "hello")])

        @env.server
        def server(word):
            print("line zero")
            def answer(path):
                print("asked for", path)
                return word
            web.serve(answer)

        if __name__ == "__main__":
            flyte.serve(env)
        """,
    )
    project.run()
    return project


@pytest.fixture
def app(served, home):
    """The app, active, whatever the test before did."""
    from flyte.remote import App

    if "handle" not in home.names():
        assert served.run().returncode == 0
    app = App.get("handle")
    return app.activate(wait=True)


def test_it_tells_what_it_is(app):
    from flyte.remote import DeploymentStatus, DesiredState

    assert app.name == "handle"
    assert (app.project, app.domain) == ("local", "development")
    assert isinstance(app.revision, int) and app.revision >= 1
    assert isinstance(app.deployment_status, DeploymentStatus)
    assert isinstance(app.deployment_status, IntEnum)
    assert str(app.deployment_status) == "ACTIVE"
    assert app.deployment_status == 7
    assert app.desired_state is DesiredState.ACTIVE
    assert str(app.desired_state) == "ACTIVE"


def test_endpoint_and_url_answer(app):
    assert app.endpoint.startswith("http://localhost:")
    assert get(app.endpoint) == (200, '"hello"')
    status, page = get(app.url)
    assert status == 200
    assert "handle" in page and app.endpoint in page
    assert app.url != app.endpoint


def test_repr_says_what_matters(app):
    assert repr(app) == (
        f"App(name='handle', status=ACTIVE, revision={app.revision}, endpoint='{app.endpoint}')"
    )


def test_its_json_is_the_protocols(app):
    import json

    told = json.loads(app.to_json())
    assert told["metadata"]["id"]["name"] == "handle"


def test_deactivate_ends_the_process_and_activate_brings_it_back(app, home, call):
    endpoint, pid = app.endpoint, home.pid("handle")
    rested = call(app.deactivate, wait=True)
    assert rested.name == "handle"
    assert str(app.deployment_status) == "STOPPED"
    assert str(app.desired_state) == "STOPPED"
    assert call(app.is_deactivated) is True
    assert call(app.is_active) is False
    until(lambda: not home.replicas("handle"), 5, "its processes are gone")
    status, body = get(endpoint)
    assert status == 503 and "deactivated" in body
    woken = call(app.activate, wait=True)
    assert woken.endpoint == endpoint
    assert call(app.is_active) is True
    assert call(app.is_deactivated) is False
    assert get(endpoint)[0] == 200
    assert home.pid("handle") != pid


def test_without_wait_both_return_before_it_has_happened(app, call):
    call(app.deactivate)
    until(lambda: call(app.is_deactivated), 10)
    call(app.activate)
    until(lambda: call(app.is_active), 10)


def test_watch_returns_when_the_state_is_reached(app, call):
    from flyte.remote import App

    assert call(app.watch, wait_for="activated").name == "handle"
    other = App.get("handle")
    timer = threading.Timer(0.3, lambda: other.deactivate(wait=True))
    timer.start()
    seen = call(app.watch, wait_for="deactivated")
    assert str(seen.deployment_status) == "STOPPED"
    timer.join()
    timer = threading.Timer(0.3, lambda: other.activate(wait=True))
    timer.start()
    with pytest.raises(ValueError, match="wait_for"):
        call(app.watch, wait_for="nothing")
    timer.join()


def test_a_context_lasts_as_long_as_its_block(app):
    app.deactivate(wait=True)
    with app.ephemeral_ctx_sync() as inside:
        assert inside.is_active()
        assert get(app.endpoint)[0] == 200
    assert app.is_deactivated()
    with pytest.raises(ZeroDivisionError), app.ephemeral_ctx_sync():
        raise ZeroDivisionError
    assert app.is_deactivated()


def test_an_async_context_lasts_as_long_as_its_block(app):
    async def work():
        async with app.ephemeral_ctx() as inside:
            assert await inside.is_active.aio()
            assert get(app.endpoint)[0] == 200
        assert await app.is_deactivated.aio()

    asyncio.run(work())


def lines_of(app, **how):
    return [line.rstrip("\n") for line in app.logs(**how)]


def test_logs_hold_what_the_app_wrote(app):
    get(app.endpoint + "/one")
    get(app.endpoint + "/two")
    until(lambda: "asked for /two" in lines_of(app), 5)
    lines = lines_of(app)
    assert "line zero" in lines
    assert lines_of(app, tail=2) == ["asked for /one", "asked for /two"]
    assert lines_of(app, tail=0) == []

    async def collect():
        return [line async for line in app.logs(tail=2)]

    assert asyncio.run(collect()) == ["asked for /one", "asked for /two"]


def test_logs_are_followed_without_loss_or_repetition(app):
    get(app.endpoint + "/before")
    until(lambda: "asked for /before" in lines_of(app), 5)
    follow = iter(app.logs(follow=True, tail=1))
    assert next(follow) == "asked for /before"
    get(app.endpoint + "/after")
    started = time.monotonic()
    assert next(follow) == "asked for /after"
    assert time.monotonic() - started < 5


def test_logs_are_followed_in_an_event_loop(app):
    async def work():
        logs = app.logs(follow=True, tail=0)
        first = asyncio.ensure_future(logs.__anext__())
        await asyncio.sleep(0.3)
        assert not first.done()
        await asyncio.to_thread(get, app.endpoint + "/awaited")
        assert await asyncio.wait_for(first, 5) == "asked for /awaited"

    asyncio.run(work())


def test_apps_are_found_by_name_and_listed(app, call):
    from flyte import errors
    from flyte.remote import App

    assert call(App.get, "handle").endpoint == app.endpoint
    assert [one.name for one in call(App.listall)] == ["handle"]
    assert call(App.listall, project="elsewhere") == []
    with pytest.raises(errors.NotFoundError) as caught:
        call(App.get, "hadnle")
    assert caught.value.code == "app.not_found"
    assert "`hadnle`" in caught.value.message
    assert isinstance(caught.value, LookupError)


def test_a_deleted_app_is_gone_with_its_process_and_port(app, home, call):
    from flyte import errors

    endpoint, pid = app.endpoint, home.pid("handle")
    assert call(app.delete) is None
    assert "handle" not in home.names()
    assert refuses(endpoint)
    assert pid not in home.replicas("handle")
    for method in (app.delete, app.is_active, app.activate):
        with pytest.raises(errors.NotFoundError):
            call(method)
