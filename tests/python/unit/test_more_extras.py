"""Streamlit, Gradio, Flask and webhook environments: what is declared, and what is refused."""

from __future__ import annotations

import subprocess
import sys

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
