"""Servers as people write them, all hardcoding port 8080, two replicas of each, all at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from support import Project, get, is_alive, until

MODULE = """
async def asgi(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

FLASK = """
from flask import Flask

app = Flask(__name__)
app.get("/")(lambda: "hello")
app.run(host="0.0.0.0", port=8080)
"""

AIOHTTP = """
from aiohttp import web

async def hello(request):
    return web.Response(text="hello")

app = web.Application()
app.router.add_get("/", hello)
web.run_app(app, port=8080)
"""

TORNADO = """
import asyncio, tornado.web

class Hello(tornado.web.RequestHandler):
    def get(self):
        self.write("hello")

async def main():
    tornado.web.Application([("/", Hello)]).listen(8080)
    await asyncio.Event().wait()

asyncio.run(main())
"""

STREAMLIT = """
import streamlit
streamlit.write("hello")
"""

GRADIO = """
import gradio
gradio.Interface(str, "text", "text").launch(server_name="0.0.0.0", server_port=8080)
"""

GO = """
package main

import ("fmt"; "net/http")

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	panic(http.ListenAndServe(":8080", nil))
}
"""

NODE = """
require("http").createServer((request, response) => response.end("hello")).listen(8080);
"""

# name: (packages, files, command); what is answered holds the last word.
PYTHON = {
    "stdlib": ((), {}, "python -m http.server 8080", "app.py"),
    "uvicorn": (("uvicorn",), {}, "uvicorn --host 0.0.0.0 --port 8080 --loop asyncio hello:asgi", "hello"),
    "uvloop": (
        ("uvicorn", "uvloop"),
        {},
        "uvicorn --host 0.0.0.0 --port 8080 --loop uvloop hello:asgi",
        "hello",
    ),
    "gunicorn": (("gunicorn",), {}, "gunicorn -w 2 -b 0.0.0.0:8080 hello:wsgi", "hello"),
    "flask": (("flask",), {"flask_app.py": FLASK}, "python flask_app.py", "hello"),
    "aiohttp": (("aiohttp",), {"aiohttp_app.py": AIOHTTP}, "python aiohttp_app.py", "hello"),
    "tornado": (("tornado",), {"tornado_app.py": TORNADO}, "python tornado_app.py", "hello"),
    "streamlit": (
        ("streamlit",),
        {"streamlit_app.py": STREAMLIT},
        "streamlit run streamlit_app.py --server.port 8080 --server.address 0.0.0.0 --server.headless true",
        "streamlit",
    ),
    "gradio": (("gradio",), {"gradio_app.py": GRADIO}, "python gradio_app.py", "gradio"),
}

MAIN = """
import sys
import flyte, flyte.app

env = flyte.app.AppEnvironment(
    name={name!r},
    image=flyte.Image.from_debian_base().with_pip_packages(*{packages!r}),
    args={command!r},
    include={include!r},
    scaling=flyte.app.Scaling(replicas=2),
)

if __name__ == "__main__":
    app = flyte.with_servecontext(activate_timeout=150).serve(env)
    print('"' + app.endpoint + '"')
"""


def serve(folder: Path, home, name: str, packages, files: dict[str, str], command: str) -> str:
    folder.mkdir(exist_ok=True)
    project = Project(folder, home)
    files = {"hello.py": MODULE, **files}
    for file, text in files.items():
        project.write(file, text)
    project.write("app.py", MAIN.format(name=name, packages=packages, command=command, include=[*files]))
    done = project.run("app.py", timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1].strip('"')


def check(home, name: str, endpoint: str, word: str) -> None:
    pids = {replica["pid"] for replica in home.app(name)["replicas"]}
    assert len(pids) == 2, (name, pids)
    for _ in range(4):
        status, body = get(endpoint)
        assert status == 200 and word in body.lower(), (name, status, body[:300])


@pytest.fixture(autouse=True, scope="module")
def no_compilers(home):
    """New environments are byte-compiled in the background; the home cannot be removed under that."""
    yield
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"compileall" in words and str(home.path).encode() in words:
                os.kill(int(entry.name), signal.SIGKILL)
                until(lambda entry=entry: not is_alive(int(entry.name)), 10)


def tool(name: str) -> str:
    """A program that the test needs; in CI it must be there, see `.ci/run`."""
    program = shutil.which(name)
    if program is None and os.environ.get("CI") != "true":
        pytest.skip(f"no `{name}` on this machine")
    assert program, f"`.ci/run` has not installed `{name}`"
    return program


def binary(folder: Path, language: str) -> str:
    """A server of another language, as a command."""
    folder.mkdir()
    program = tool(language)
    if language == "go":
        (folder / "hello.go").write_text(GO)
        subprocess.run([program, "build", "-o", folder / "hello", "hello.go"], cwd=folder, check=True)
        return str(folder / "hello")
    (folder / "hello.js").write_text(NODE)
    return f"{program} {folder / 'hello.js'}"


@pytest.fixture(scope="module")
def nine(home, tmp_path_factory) -> dict[str, str]:
    """Endpoints of the Python servers, which stay up for the rest of the module."""
    folder = tmp_path_factory.mktemp("nine")
    # The image of each is built by the platform's `uv`, so the first run of a machine downloads.
    with ThreadPoolExecutor(3) as pool:
        served = {
            name: pool.submit(serve, folder / name, home, name, packages, files, command)
            for name, (packages, files, command, _) in PYTHON.items()
        }
        return {name: future.result() for name, future in served.items()}


@pytest.fixture(scope="module")
def others(home, tmp_path_factory) -> Callable[[str], str]:
    """The endpoint of a server in another language, which stays up too."""

    @cache
    def endpoint(language: str) -> str:
        folder = tmp_path_factory.mktemp(language)
        command = binary(folder / "server", language)
        return serve(folder / "app", home, language, (), {}, command)

    return endpoint


@pytest.mark.timeout(600)
def test_nine_python_servers_side_by_side(home, nine):
    assert len(home.status()["apps"]) == len(PYTHON)
    for name, endpoint in nine.items():
        check(home, name, endpoint, PYTHON[name][3])


@pytest.mark.parametrize("language", ["go", "node"])
def test_servers_of_other_languages(home, others, language):
    endpoint = others(language)
    until(lambda: len(home.app(language)["replicas"]) == 2, 10)
    check(home, language, endpoint, "hello")


@pytest.mark.timeout(600)
def test_eleven_servers_on_one_port_at_once(home, nine, others):
    served = nine | {language: others(language) for language in ("go", "node")}
    running = home.status()["apps"]
    assert {app["name"] for app in running} == set(served)
    assert {len(app["replicas"]) for app in running} == {2}
    assert len({replica["pid"] for app in running for replica in app["replicas"]}) == 22
    # All of them answer when all of them are up.
    for name, endpoint in served.items():
        check(home, name, endpoint, PYTHON[name][3] if name in PYTHON else "hello")
