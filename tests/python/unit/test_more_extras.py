"""Streamlit, Gradio, Flask and webhook environments: what is declared, and what is refused."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading

import pytest
from fastapi.testclient import TestClient

from flyte.app.extras import (
    FlaskAppEnvironment,
    FlyteWebhookAppEnvironment,
    GradioAppEnvironment,
    StreamlitAppEnvironment,
)
from flyte.errors import UnsupportedError

WITH_CREDENTIALS = {"authorization": "Bearer x"}


def test_no_framework_is_imported_for_a_declaration():
    code = """
import sys
from flyte.app.extras import GradioAppEnvironment, StreamlitAppEnvironment, FlaskAppEnvironment
StreamlitAppEnvironment(name="a", script="x.py")
GradioAppEnvironment(name="b", demo=lambda: None)
FlaskAppEnvironment(name="c", app=lambda environ, start: [])
assert not {"streamlit", "gradio", "flask", "waitress", "werkzeug", "fastapi"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_streamlit_is_told_port_and_script():
    env = StreamlitAppEnvironment(
        name="pages",
        script="pages.py",
        port=9999,
        streamlit_args=["--theme.base", "dark"],
        script_args=["a b"],
    )
    assert env.type == "Streamlit" and env.include == ("pages.py",)
    words = env._streamlit_command()
    assert words[1:4] == ["-m", "streamlit", "run"]
    assert words[4].endswith("/pages.py") and words[4].startswith("/")
    assert words[words.index("--server.port") + 1] == "9999"
    assert words[-4:] == ["--theme.base", "dark", "--", "a b"]
    clone = env.clone_with(name="other", include=["x", "pages.py"])
    assert clone.include == ("x", "pages.py")
    with pytest.raises(ValueError, match="script"):
        StreamlitAppEnvironment(name="pages", script="")


def test_gradio_launches_a_demo_or_what_a_function_makes():
    told = []

    class Demo:
        def launch(self, **options):
            told.append(options)

    for demo in (Demo(), Demo):
        env = GradioAppEnvironment(name="upper", demo=demo if demo is not Demo else lambda: Demo(), port=9999)
        env._serve_with_gradio()
    assert [options["server_port"] for options in told] == [9999, 9999]
    assert told[0]["server_name"] == "0.0.0.0" and told[0]["share"] is False
    with pytest.raises(TypeError, match="gradio.Blocks"):
        GradioAppEnvironment(name="upper", demo="text")


def test_flask_takes_what_speaks_wsgi():
    with pytest.raises(TypeError, match="WSGI"):
        FlaskAppEnvironment(name="shop", app=3)


def test_flask_lets_a_request_finish_before_it_ends():
    pytest.importorskip("werkzeug")
    import time
    from urllib.request import urlopen

    from flyte.app.extras import _flask

    begun, answers = threading.Event(), []

    def app(environ, start_response):
        begun.set()
        time.sleep(0.5)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"done"]

    server = _flask._make_server(app, 0)
    serving = threading.Thread(target=_flask._serve_to_the_end, args=(server,))
    serving.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    asking = threading.Thread(target=lambda: answers.append(urlopen(url, timeout=10).read()))
    asking.start()
    assert begun.wait(10)
    server.shutdown()
    serving.join(10)
    # The process may end now, and takes the server's threads with it.
    assert not server._BaseServer__is_shut_down.is_set() or not serving.is_alive()
    asking.join(10)
    assert answers == [b"done"]


def test_the_webhook_has_the_paths_that_concern_apps():
    env = FlyteWebhookAppEnvironment(name="hooks")
    assert env.type == "FlyteWebhookApp" and env.app.title == "Flyte Webhook: hooks"
    paths = {route.path for route in env.app.routes}
    assert {
        "/health",
        "/app/{name}",
        "/app/{name}/activate",
        "/app/{name}/deactivate",
        "/app/{name}/call",
    } <= paths
    client = TestClient(env.app)
    assert client.get("/health").json() == {"status": "healthy"}
    assert client.get("/app/x").status_code == 401
    assert client.get("/app/hooks", headers=WITH_CREDENTIALS).status_code == 400
    with pytest.raises(TypeError, match="app"):
        FlyteWebhookAppEnvironment(name="hooks", app=env.app)


def test_the_webhook_has_only_what_is_chosen():
    def paths(**chosen):
        env = FlyteWebhookAppEnvironment(name="hooks", **chosen)
        return {route.path for route in env.app.routes if route.path.startswith(("/app", "/health"))}

    assert paths(endpoints=["get_app", "nonsense"]) == {"/app/{name}"}
    assert paths(endpoint_groups=["core"]) == {"/health"}
    assert paths(endpoints=[]) == set()
    assert len(paths(endpoint_groups=["all"])) == 5
    with pytest.raises(UnsupportedError, match="`run_task` drives tasks"):
        paths(endpoints=["run_task"])
    with pytest.raises(ValueError, match="together"):
        paths(endpoints=[], endpoint_groups=[])


def test_the_webhook_keeps_to_its_allowlist():
    env = FlyteWebhookAppEnvironment(name="hooks", app_allowlist=["shop"])
    client = TestClient(env.app)
    assert client.get("/app/other", headers=WITH_CREDENTIALS).status_code == 403


def test_the_webhook_calls_an_app_for_its_caller_and_nobody_else(monkeypatch):
    from flyte.app.extras._webhook import _ask
    from flyte.remote import auth_metadata

    seen = []

    class App(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.headers["Host"].split(":")[0], self.path, self.headers["Authorization"]))
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/there")
            else:
                self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # A proxy is of no use for what runs here.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    try:
        endpoint = f"http://localhost:{server.server_port}"
        with auth_metadata(("authorization", "Bearer me")):
            _ask(endpoint, "x", "GET", None, {"a": "b"})
            _ask(endpoint, "/away", "GET", None, None)
        _ask(endpoint, "x", "GET", None, None)
    finally:
        server.shutdown()
        server.server_close()
    assert seen == [
        ("localhost", "/x?a=b", "Bearer me"),
        ("localhost", "/away", "Bearer me"),
        ("127.0.0.1", "/there", None),
        ("localhost", "/x", None),
    ]
