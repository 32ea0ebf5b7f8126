"""FastAPI apps: what is declared, what uvicorn is told, and who gets through the middleware."""

from __future__ import annotations

import asyncio
import builtins
import socket
import sys
import types
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from flyte.app import AppEnvironment, Link
from flyte.app.extras import FastAPIAppEnvironment, FastAPIPassthroughAuthMiddleware

DOCS = Link("/docs", "FastAPI OpenAPI Docs", is_relative=True)


def test_declaration_leaves_the_app_alone():
    app = FastAPI()
    app.state.model = "mine"
    env = FastAPIAppEnvironment("api", app=app, links=[Link("/", "home")])
    assert isinstance(env, AppEnvironment) and env.type == "FastAPI" and env.app is app
    assert env.links == [DOCS, Link("/", "home")] and app.state.model == "mine"
    assert asyncio.iscoroutinefunction(env._server)


@pytest.mark.parametrize("app", [None, 3, "app", object()])
def test_other_apps_are_refused(app):
    with pytest.raises(TypeError, match="Expected app to be of type FastAPI"):
        FastAPIAppEnvironment("api", app=app)


def test_own_fields_are_keyword_only_and_app_is_required():
    with pytest.raises(TypeError, match="app"):
        FastAPIAppEnvironment("api")


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_missing_packages_say_what_to_install(monkeypatch, missing):
    env = FastAPIAppEnvironment("api", app=FastAPI())
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match="pip install fastapi uvicorn") as caught:
        FastAPIAppEnvironment("api", app=env.app) if missing == "fastapi" else env._config()
    assert caught.value.name == missing


def test_clone_serves_its_own_port_and_has_one_docs_link():
    env = FastAPIAppEnvironment("api", app=FastAPI())
    clone = env.clone_with("api-2", port=9000)
    assert clone.links == [DOCS] and clone.app is env.app
    assert (env._config().port, clone._config().port) == (8080, 9000)
    other = FastAPI()
    assert env.clone_with("api-3", app=other)._config().app is other


def test_own_server_replaces_uvicorn_and_survives_cloning():
    env = FastAPIAppEnvironment("api", app=FastAPI())

    @env.server
    def mine(): ...

    assert env._server is mine and env.clone_with("b")._server is mine


def test_uvicorn_listens_where_traffic_arrives(monkeypatch):
    app = FastAPI()
    plain = FastAPIAppEnvironment("api", app=app)._config()
    assert (plain.app, plain.host, plain.port) == (app, "0.0.0.0", 8080)
    given = uvicorn.Config(app, workers=1, log_level="warning")
    env = FastAPIAppEnvironment("api", app=app, uvicorn_config=given, port=9000)
    config = env._config()
    assert (config.host, config.port, config.log_level) == ("0.0.0.0", 9000, "warning")
    assert (given.host, given.port) == ("127.0.0.1", 8000)
    chosen = uvicorn.Config(app, host="10.0.0.1", port=7000)
    env = FastAPIAppEnvironment("api", app=app, uvicorn_config=chosen)
    assert (env._config().host, env._config().port) == ("10.0.0.1", 7000)
    monkeypatch.setenv("_FLYTE_APP_NAME", "api")
    monkeypatch.setenv("_FLYTE_APP_PORT", "12345")
    assert env._config().port == 12345


def test_an_open_stream_does_not_hold_a_stop_up_for_ever():
    app = FastAPI()
    assert FastAPIAppEnvironment("api", app=app)._config().timeout_graceful_shutdown == 5
    silent = uvicorn.Config(app, log_level="warning")
    assert (
        FastAPIAppEnvironment("api", app=app, uvicorn_config=silent)._config().timeout_graceful_shutdown == 5
    )
    chosen = uvicorn.Config(app, timeout_graceful_shutdown=60)
    assert (
        FastAPIAppEnvironment("api", app=app, uvicorn_config=chosen)._config().timeout_graceful_shutdown == 60
    )
    assert silent.timeout_graceful_shutdown is None


def test_default_server_answers(monkeypatch):
    app = FastAPI()
    app.get("/x")(lambda: "hello")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = FastAPIAppEnvironment("api", app=app, port=port)
    started, servers = asyncio.Event(), []
    startup = uvicorn.Server.startup

    async def announce(self, *args, **kwargs):
        await startup(self, *args, **kwargs)
        servers.append(self)
        started.set()

    monkeypatch.setattr(uvicorn.Server, "startup", announce)

    async def use():
        serving = asyncio.create_task(env._server())
        await asyncio.wait_for(started.wait(), 10)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        servers[0].should_exit = True
        await serving
        return answer

    assert asyncio.run(use()).endswith(b'"hello"')


def client(**options):
    app = FastAPI()
    app.add_middleware(FastAPIPassthroughAuthMiddleware, **options)
    for path in ("/health", "/x"):
        app.get(path)(lambda: "ok")
    return TestClient(app)


def test_credentials_are_required():
    answer = client().get("/x")
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json() == {"detail": "Authentication credentials required"}
    assert client().get("/x", headers={"Authorization": "Bearer t"}).status_code == 200
    assert client().get("/x", headers={"Cookie": "a=b"}).status_code == 200


def test_excluded_paths_match_exactly():
    with_health = client(excluded_paths={"/health"})
    assert with_health.get("/health").status_code == 200
    assert with_health.get("/health/").status_code == with_health.get("/x").status_code == 401


def test_preflights_pass_but_other_options_do_not():
    asked = {"Access-Control-Request-Method": "GET", "Origin": "http://a"}
    assert client().options("/x", headers=asked).status_code == 405  # FastAPI's own answer
    assert client().options("/x").status_code == 401


def test_extractors():
    custom = FastAPIPassthroughAuthMiddleware.extract_custom_header("X-Api-Key")
    assert custom.__name__ == "extract_x_api_key_header"

    def broken(request):
        raise RuntimeError("no")

    chosen = client(header_extractors=[broken, custom])
    assert chosen.get("/x", headers={"X-API-KEY": "k"}).status_code == 200
    assert chosen.get("/x", headers={"Authorization": "Bearer t"}).status_code == 401


def test_credentials_reach_the_calls_made_while_answering(monkeypatch):
    inside, given = [], []

    @contextmanager
    def auth_metadata(*pairs):
        given.extend(pairs)
        inside.append(True)
        yield
        inside.pop()

    remote = types.ModuleType("flyte.remote")
    remote.auth_metadata = auth_metadata
    monkeypatch.setitem(sys.modules, "flyte.remote", remote)
    app = FastAPI()
    app.add_middleware(FastAPIPassthroughAuthMiddleware)
    app.get("/x")(lambda: bool(inside))
    assert TestClient(app).get("/x", headers={"Authorization": "t", "Cookie": "c"}).json() is True
    assert given == [("authorization", "t"), ("cookie", "c")] and inside == []


def test_websockets_without_credentials_are_refused():
    from starlette.websockets import WebSocketDisconnect

    app = FastAPI()
    app.add_middleware(FastAPIPassthroughAuthMiddleware)
    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/ws"):
        pass
