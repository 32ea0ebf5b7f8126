"""Functions of an app: sync and async servers, hooks around them, and how they are told to end."""

from __future__ import annotations

import pytest
from support import get_json, until

HEAD = """
import asyncio, json, os, threading, time
import flyte, flyte.app
import web

env = flyte.app.AppEnvironment(name="functions", parameters=[flyte.app.Parameter("word", "x")])
marks = []

def mark(text):
    marks.append(text)
    print("mark", text, flush=True)

"""

HOOKS = {
    "sync": """
@env.on_startup
def prepare(word):
    mark("startup " + word)

@env.on_shutdown
def tidy():
    mark("shutdown")
""",
    "async": """
@env.on_startup
async def prepare():
    await asyncio.sleep(0.01)
    mark("startup x")

@env.on_shutdown
async def tidy(word):
    await asyncio.sleep(0.01)
    mark("shutdown")
""",
}

SERVERS = {
    "sync": """
@env.server
def server():
    mark("server")
    web.serve(lambda path: marks)
""",
    "async": """
@env.server
async def server(word):
    mark("server")

    async def answer(reader, writer):
        await reader.readuntil(b"\\r\\n\\r\\n")
        body = json.dumps(marks).encode()
        head = b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n"
        writer.write(head % len(body) + body)
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", env.get_port().port)
    async with listener:
        await listener.serve_forever()
""",
}

TAIL = """
if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("server", SERVERS)
def test_hooks_run_around_the_server_and_a_stop_runs_the_last(project, home, server, hooks):
    from flyte.remote import App

    project.write("main.py", HEAD + HOOKS[hooks] + SERVERS[server] + TAIL)
    assert get_json(project.result()) == ["startup x", "server"]
    app = App.get("functions")
    app.deactivate(wait=True)
    marks = [line.split(" ", 1)[1] for line in app.logs() if line.startswith("mark ")]
    assert marks[-3:] == ["startup x", "server", "shutdown"]
    assert "Traceback" not in "\n".join(app.logs())
    app.delete()


def test_a_server_that_returns_is_an_app_that_ended(project):
    project.write(
        "main.py",
        """
        import flyte.app
        env = flyte.app.AppEnvironment(name="short")

        @env.server
        def server():
            print("done already")
        """,
    )
    failure = project.failure()
    assert failure["code"] == "app.exited"
    assert "exited with code 0" in failure["message"]
    assert failure["log"] == ["done already"]


def test_a_command_gets_the_signal_itself(project, home):
    from flyte.remote import App

    project.write(
        "main.py",
        """
        import json
        import flyte, flyte.app
        import web
        program = (
            "import signal, sys, web\\n"
            "def end(*_):\\n    print('told to end', flush=True)\\n    sys.exit(0)\\n"
            "signal.signal(signal.SIGTERM, end)\\n"
            "web.serve(lambda path: 1)\\n"
        )
        env = flyte.app.AppEnvironment(name="signalled", args=["python", "-c", program])
        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    project.result()
    app = App.get("signalled")
    app.deactivate(wait=True)
    assert [line for line in app.logs()][-1:] == ["told to end"]


def test_children_of_an_app_end_with_it(project, home):
    from flyte.remote import App

    project.write(
        "main.py",
        """
        import json, subprocess
        import flyte, flyte.app
        import web
        env = flyte.app.AppEnvironment(name="parent")

        @env.server
        def server():
            child = subprocess.Popen(["sleep", "600"])
            web.serve(lambda path: child.pid)

        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    child = get_json(project.result())
    assert child in home.replicas("parent")
    App.get("parent").deactivate(wait=True)
    until(lambda: not home.replicas("parent"), 15, "the child is gone")


def test_functions_defined_without_a_file_are_sent_themselves(project):
    # What a notebook or a REPL does: there is no file that the app could import.
    code = (
        "import flyte, flyte.app\n"
        "env = flyte.app.AppEnvironment(name='pickled')\n"
        "word = 'from nowhere'\n"
        "@env.server\n"
        "def server():\n"
        "    import http.server\n"
        "    class Handler(http.server.BaseHTTPRequestHandler):\n"
        "        def do_GET(self):\n"
        "            self.send_response(200); self.end_headers(); self.wfile.write(word.encode())\n"
        "    http.server.HTTPServer(('', 8080), Handler).serve_forever()\n"
        "print(flyte.serve(env).endpoint)\n"
    )
    import subprocess
    import sys

    from support import get

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=project.home.environment(),
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert get(done.stdout.strip()) == (200, "from nowhere")
