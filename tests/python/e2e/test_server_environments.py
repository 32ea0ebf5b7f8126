"""Environments of `flyte.app.extras` as apps that answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Home, Project, get, get_json, is_alive, until


@pytest.fixture(scope="module", autouse=True)
def _nothing_compiles_on(home: Home) -> Iterator[None]:
    """Ends the byte-compiling of large environments, which goes on when their apps serve."""
    yield
    compiling = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_text().split("\0")
                if "compileall" in words and any(word.startswith(str(home.path)) for word in words):
                    compiling.append(int(entry.name))
    for pid in compiling:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in compiling))


FLASK = """
import json
import flyte
from flask import Flask
from flyte.app.extras import FlaskAppEnvironment

app = Flask(__name__)
env = FlaskAppEnvironment(name="flask", app=app, image=flyte.Image.from_debian_base().with_pip_packages("flask"))

@app.get("/square/<int:number>")
def square(number):
    return {"square": number * number}

@env.on_shutdown
def stopped():
    print("shutdown hook ran", flush=True)

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def test_flask(home: Home, project: Project):
    project.write("main.py", FLASK)
    endpoint = project.result()
    assert get_json(f"{endpoint}/square/12") == {"square": 144}
    assert home.flyte("update", "app", "flask", "--deactivate", "--wait").returncode == 0
    until(lambda: "shutdown hook ran" in home.flyte("get", "logs", "flask").stdout)


SHOP = """
import web
from flyte.app import AppEnvironment

env = AppEnvironment(name="shop")

@env.server
def server():
    web.serve(lambda path: {"path": path})
"""

WEBHOOK = """
import json
import flyte
from flyte.app.extras import FlyteWebhookAppEnvironment

hooks = FlyteWebhookAppEnvironment(name="hooks")

if __name__ == "__main__":
    import shop

    flyte.serve(shop.env)
    print(json.dumps(flyte.serve(hooks).endpoint))
"""


def post(url: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, method="POST", headers={"Authorization": "Bearer x"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_webhook_looks_at_calls_and_rests_other_apps(home: Home, project: Project):
    project.write("shop.py", SHOP)
    project.write("main.py", WEBHOOK)
    endpoint = project.result()
    assert get(f"{endpoint}/app/shop")[0] == 401
    assert post(f"{endpoint}/app/shop/call?path=/a%3Fb=1") == (200, {"path": "/a?b=1"})
    status, told = post(f"{endpoint}/app/shop/deactivate?wait=true")
    assert (status, told["is_deactivated"]) == (200, True)
    status, told = post(f"{endpoint}/app/shop/activate?wait=true")
    assert (status, told["is_active"]) == (200, True)
    assert post(f"{endpoint}/app/none/activate")[0] == 404
    assert post(f"{endpoint}/app/hooks/deactivate")[0] == 400


GRADIO = """
import json
import flyte
from flyte.app.extras import GradioAppEnvironment

def demo():
    import gradio
    return gradio.Interface(str.upper, "text", "text")

env = GradioAppEnvironment(name="demo", demo=demo, image=flyte.Image.from_debian_base().with_pip_packages("gradio"))

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def test_gradio_is_needed_in_the_image_only(project: Project):
    project.write("main.py", GRADIO)
    status, body = get(project.result())
    assert status == 200 and "gradio" in body
