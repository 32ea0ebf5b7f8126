"""The Python half of ``fserve``, in real processes that get real signals.

The native module and the declarative package are stood in for by a few lines each, so that what
is tested is ``_runtime.py`` and ``_lifecycle.py`` alone: which functions run, in which thread and order, with which
arguments, and how the process ends.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[3] / "python" / "flyte"
RUNTIME = ("_runtime.py", "_lifecycle.py")
TIMEOUT = 30.0

STUBS = {
    "flyte/__init__.py": "",
    "flyte/_native.py": """
        import json, os
        def fserve_prepare(argv):
            assert argv == ["--version", "v"], argv
            return json.loads(os.environ["START"])
    """,
    "flyte/_environment.py": """
        _REGISTRY = []
        class AppEnvironment:
            def __init__(self, name):
                self.name = name
                self._server = self._on_startup = self._on_shutdown = None
                _REGISTRY.append(self)
            def server(self, fn): self._server = fn; return fn
            def on_startup(self, fn): self._on_startup = fn; return fn
            def on_shutdown(self, fn): self._on_shutdown = fn; return fn
    """,
    "flyte/io.py": """
        import dataclasses
        @dataclasses.dataclass
        class File:
            path: str
        @dataclasses.dataclass
        class Dir:
            path: str
    """,
}

PROLOGUE = """
import asyncio, os, signal, sys, threading, time
from flyte._environment import AppEnvironment
def say(*words): print(*words, flush=True)
def where():
    try:
        asyncio.get_running_loop()
        return "loop" if threading.current_thread() is threading.main_thread() else "?"
    except RuntimeError:
        return "main" if threading.current_thread() is threading.main_thread() else "thread"
env = AppEnvironment("web")
"""


class Replica:
    """A folder with user code, and the processes that run it."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.cwd = folder / "cwd"
        self.cwd.mkdir()
        for name, text in STUBS.items():
            path = self.site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        for name in RUNTIME:
            shutil.copy(PACKAGE / name, self.site / "flyte" / name)

    def write(self, code: str, name: str = "app.py") -> None:
        path = self.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROLOGUE + textwrap.dedent(code))

    def start(self, **prepared: Any) -> subprocess.Popen[str]:
        env = prepared.pop("env", {})
        begin = {
            "loader": "app:env",
            "pkl": None,
            "app": None,
            "parameters": {},
            "kinds": {},
            "sys_path": [str(self.cwd)],
            **prepared,
        }
        return subprocess.Popen(
            [sys.executable, "-c", "import flyte._runtime as r; r.main()", "--version", "v"],
            cwd=self.cwd,
            env={
                **os.environ,
                "PYTHONPATH": str(self.site),
                "PYTHONUNBUFFERED": "1",
                "START": json.dumps(begin),
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **prepared: Any) -> tuple[int, list[str], str]:
        return ended(self.start(**prepared))


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    return process.returncode, out.splitlines(), err


def until(process: subprocess.Popen[str], line: str) -> None:
    """Read stdout up to ``line``."""
    assert process.stdout is not None
    for read in process.stdout:
        if read.strip() == line:
            return
    raise AssertionError(f"{line!r} never came: {ended(process)}")


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path)


# --- order and threads --------------------------------------------------------------------------


@pytest.mark.parametrize("startup", ["", "async "])
@pytest.mark.parametrize("server", ["", "async "])
@pytest.mark.parametrize("shutdown", ["", "async "])
def test_functions_run_in_order_in_the_main_thread(
    replica: Replica, startup: str, server: str, shutdown: str
) -> None:
    replica.write(f"""
        loops = set()
        def note(hook):
            say(hook, where())
            if where() == "loop":
                loops.add(asyncio.get_running_loop())
        @env.on_startup
        {startup}def begin(): note("startup")
        @env.server
        {server}def serve(): note("server")
        @env.on_shutdown
        {shutdown}def end():
            note("shutdown")
            say(len(loops) <= 1)
    """)
    code, out, err = replica.run()
    kinds = [
        f"{hook} {'loop' if mark else 'main'}"
        for hook, mark in [("startup", startup), ("server", server), ("shutdown", shutdown)]
    ]
    assert (code, out, err) == (0, [*kinds, "True"], "")


def test_a_failing_startup_runs_neither_server_nor_shutdown(replica: Replica) -> None:
    replica.write("""
        @env.on_startup
        def begin(): raise ValueError("no weights")
        @env.server
        def serve(): say("server")
        @env.on_shutdown
        def end(): say("shutdown")
    """)
    code, out, err = replica.run()
    assert (code, out) == (1, [])
    assert "Traceback" in err and err.strip().endswith("ValueError: no weights")


@pytest.mark.parametrize("mark", ["", "async "])
def test_a_failing_server_still_runs_shutdown(replica: Replica, mark: str) -> None:
    replica.write(f"""
        @env.server
        {mark}def serve(): raise ValueError("broken")
        @env.on_shutdown
        def end(): say("shutdown")
    """)
    code, out, err = replica.run()
    assert (code, out) == (1, ["shutdown"])
    assert err.strip().endswith("ValueError: broken")


def test_a_failing_shutdown_is_a_failure(replica: Replica) -> None:
    replica.write("""
        @env.server
        def serve(): pass
        @env.on_shutdown
        async def end(): raise ValueError("not flushed")
    """)
    code, _, err = replica.run()
    assert code == 1
    assert err.strip().endswith("ValueError: not flushed")


def test_the_status_of_sys_exit_is_kept(replica: Replica) -> None:
    replica.write("""
        @env.server
        def serve(): sys.exit(3)
        @env.on_shutdown
        def end(): say("shutdown")
    """)
    assert replica.run() == (3, ["shutdown"], "")


# --- being stopped ------------------------------------------------------------------------------

SERVERS = {
    "sync serve_forever": """
        import http.server
        @env.server
        def serve():
            server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
            say("up")
            server.serve_forever()
    """,
    "sync sleep": """
        @env.server
        def serve():
            say("up")
            time.sleep(600)
    """,
    "async sleep": """
        @env.server
        async def serve():
            say("up")
            await asyncio.sleep(600)
    """,
    "asyncio.run in sync": """
        @env.server
        def serve():
            async def main():
                say("up")
                await asyncio.sleep(600)
            asyncio.run(main())
    """,
    "own handler": """
        @env.server
        def serve():
            gone = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: gone.set())
            say("up")
            gone.wait()
    """,
    "background thread": """
        @env.server
        async def serve():
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
            say("up")
            await asyncio.sleep(600)
    """,
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("server", SERVERS)
def test_a_stopped_server_shuts_down_and_ends_with_0(
    replica: Replica, server: str, number: signal.Signals
) -> None:
    replica.write(
        SERVERS[server]
        + """
        @env.on_shutdown
        async def end():
            await asyncio.sleep(0)
            say("shutdown")
    """
    )
    process = replica.start()
    until(process, "up")
    process.send_signal(number)
    assert ended(process) == (0, ["shutdown"], "")


def test_a_stop_that_a_request_swallows_is_told_again(replica: Replica) -> None:
    """`wsgiref` makes an answer 500 of whatever a request raises, and goes on."""
    replica.write("""
        import urllib.request
        from wsgiref.simple_server import WSGIRequestHandler, make_server
        class Quiet(WSGIRequestHandler):
            def log_message(self, *_): pass
            def get_stderr(self): return open(os.devnull, "w")
        def app(environ, start_response):
            say("up")
            time.sleep(600)
        @env.server
        def serve():
            server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
            url = f"http://127.0.0.1:{server.server_port}/"
            threading.Thread(target=urllib.request.urlopen, args=(url,), daemon=True).start()
            threading.excepthook = lambda *_: None
            server.serve_forever()
        @env.on_shutdown
        def end(): say("shutdown")
    """)
    process = replica.start()
    until(process, "up")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, ["shutdown"], "")


def test_what_a_stopped_server_does_on_its_way_out_is_not_cut_short(replica: Replica) -> None:
    replica.write("""
        @env.server
        def serve():
            try:
                say("up")
                time.sleep(600)
            finally:
                try:
                    raise OSError("while cleaning up")
                except OSError:
                    time.sleep(1.3)
                time.sleep(0.7)
                say("cleaned up")
        @env.on_shutdown
        def end():
            time.sleep(0.7)
            say("shutdown")
    """)
    process = replica.start()
    until(process, "up")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, ["cleaned up", "shutdown"], "")


UVICORN = {
    "serve": "async def serve(): await uvicorn.Server(config).serve()",
    "run": "def serve(): uvicorn.run(app, port=port, log_level='warning')",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", UVICORN)
def test_uvicorn_ends_its_lifespan_and_then_the_app(
    replica: Replica, kind: str, number: signal.Signals
) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    replica.write(f"""
        import contextlib, fastapi, uvicorn
        port = {port}
        @contextlib.asynccontextmanager
        async def lifespan(app):
            yield
            say("lifespan over")
        app = fastapi.FastAPI(lifespan=lifespan)
        @app.get("/")
        def root(): return "hello"
        config = uvicorn.Config(app, port=port, log_level="warning")
        @env.server
        {UVICORN[kind]}
        @env.on_shutdown
        def end(): say("shutdown")
    """)
    process = replica.start()
    wait_for_port(process, port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=TIMEOUT) as answer:
        assert answer.read() == b'"hello"'
    process.send_signal(number)
    assert ended(process) == (0, ["lifespan over", "shutdown"], "")


def wait_for_port(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)  # nothing else tells when another process listens
    raise AssertionError(f"nothing listens on {port}: {ended(process)}")


@pytest.mark.parametrize("server", ["async sleep", "own handler"])
def test_a_second_signal_ends_at_once(replica: Replica, server: str) -> None:
    replica.write(
        SERVERS[server]
        + """
        @env.on_shutdown
        def end():
            say("shutting down")
            time.sleep(600)
    """
    )
    process = replica.start()
    until(process, "up")
    process.send_signal(signal.SIGTERM)
    until(process, "shutting down")
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 128 + signal.SIGTERM


def test_a_signal_does_not_cut_short_the_shutdown_of_a_server_that_returned(
    replica: Replica,
) -> None:
    replica.write("""
        @env.server
        def serve(): pass
        @env.on_shutdown
        async def end():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
            say("flushed")
    """)
    assert replica.run() == (0, ["flushed"], "")


@pytest.mark.parametrize(
    "wait",
    [
        "def begin(): say('up'); time.sleep(600)",
        "async def begin(): say('up'); await asyncio.sleep(600)",
    ],
)
def test_a_stop_during_startup_starts_nothing(replica: Replica, wait: str) -> None:
    replica.write(f"""
        @env.on_startup
        {wait}
        @env.server
        def serve(): say("server")
        @env.on_shutdown
        def end(): say("shutdown")
    """)
    process = replica.start()
    until(process, "up")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, [], "")


def test_a_stop_during_import_is_clean(replica: Replica) -> None:
    replica.write("say('up'); time.sleep(600)")
    process = replica.start()
    until(process, "up")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, [], "")


def test_async_cleanup_after_cancellation_is_waited_for(replica: Replica) -> None:
    replica.write("""
        @env.server
        async def serve():
            try:
                say("up")
                await asyncio.sleep(600)
            finally:
                await asyncio.sleep(0.01)
                say("closed")
        @env.on_shutdown
        def end(): say("shutdown")
    """)
    process = replica.start()
    until(process, "up")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, ["closed", "shutdown"], "")


# --- parameters ---------------------------------------------------------------------------------

GIVEN = {
    "parameters": {"model": "/m", "data": "/d", "port": 80, "debug": True},
    "kinds": {"model": "file", "data": "directory", "port": "string", "debug": "string"},
}


def test_parameters_are_bound_by_name_as_objects(replica: Replica) -> None:
    replica.write("""
        @env.on_startup
        async def begin(*args, model, other="default"): say(args, model, other)
        @env.server
        def serve(port, data): say(repr(port), data)
        @env.on_shutdown
        def end(**everything): say(sorted(everything), everything["debug"] is True)
    """)
    code, out, err = replica.run(**GIVEN)
    assert out == [
        "() File(path='/m') default",
        "80 Dir(path='/d')",
        "['data', 'debug', 'model', 'port'] True",
    ]
    assert (code, err) == (0, "")


def test_an_argument_without_a_parameter_is_a_type_error(replica: Replica) -> None:
    replica.write("""
        @env.server
        def serve(weights): say("server")
    """)
    code, out, err = replica.run(**GIVEN)
    assert (code, out) == (1, [])
    assert "TypeError" in err and "'weights'" in err


# --- finding the app ----------------------------------------------------------------------------

TWO_APPS = """
    other = AppEnvironment("other")
    factory = lambda: AppEnvironment("made")
    factory()._server = lambda: say("made")
    @env.server
    def serve(): say("web")
    @other.server
    def serve(): say("other")
"""


@pytest.mark.parametrize(
    ("loader", "app", "served"),
    [
        ("app:env", None, "web"),
        ("app:other", None, "other"),
        ("app:@made", None, "made"),
        ("app:gone", "made", "made"),
        ("app:factory", "other", "other"),
        ("app:env", "other", "other"),
        ("app:env", "renamed-by-the-platform", "web"),
    ],
)
def test_the_app_is_found_by_variable_or_by_name(
    replica: Replica, loader: str, app: str | None, served: str
) -> None:
    replica.write(TWO_APPS)
    assert replica.run(loader=loader, env={"_FLYTE_APP_NAME": app or ""}) == (0, [served], "")
    assert replica.run(loader=loader, app=app) == (0, [served], "")


def test_an_app_under_the_name_of_another_is_not_that_one(replica: Replica) -> None:
    replica.write(TWO_APPS)
    env = {"_FLYTE_DECLARED_NAME": "web"}
    assert replica.run(loader="app:env", app="other", env=env) == (0, ["web"], "")


@pytest.mark.parametrize("loader", ["app:gone", "app:@gone", "app:factory"])
def test_an_app_that_is_not_there_is_told_with_those_that_are(replica: Replica, loader: str) -> None:
    replica.write(TWO_APPS)
    code, out, err = replica.run(loader=loader)
    assert (code, out) == (78, [])
    wanted = loader.split(":")[1]
    assert err.startswith(f"fserve: module `app` has no app `{wanted}`; apps found: `web`, `other`, `made`. ")
    assert "at module level" in err


@pytest.mark.parametrize("loader", ["app", ":env", "app:", "__main__:env", None])
def test_a_loader_that_names_nothing_is_refused(replica: Replica, loader: str | None) -> None:
    code, _, err = replica.run(loader=loader)
    assert code == 78
    assert err.startswith(f"fserve: `{loader}` names no app")


def test_an_app_without_a_server_has_nothing_to_run(replica: Replica) -> None:
    replica.write("")
    code, _, err = replica.run()
    assert code == 78
    assert err == ("fserve: app `web` has nothing to run: set args, command or a server function\n")


def test_a_missing_module_leaves_pythons_own_traceback(replica: Replica) -> None:
    replica.write("import no_such_module")
    code, _, err = replica.run()
    assert code == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.strip().endswith("ModuleNotFoundError: No module named 'no_such_module'")


def test_the_module_has_its_own_name_and_the_given_folders_come_first(replica: Replica) -> None:
    replica.write("say('src', __name__)", "src/helper.py")
    replica.write("say('cwd', __name__)", "helper.py")
    replica.write("import helper\nenv._server = lambda: say(__name__)", "src/pkg/app.py")
    folders = [str(replica.cwd / "src"), str(replica.cwd)]
    assert replica.run(loader="pkg.app:env", sys_path=folders) == (
        0,
        ["src helper", "pkg.app"],
        "",
    )


def test_a_pickled_app_is_unpacked_and_run(replica: Replica) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")

    class Pickled:
        name = "notebook"
        _on_startup = None
        _on_shutdown = staticmethod(lambda: print("shutdown", flush=True))

        @staticmethod
        async def _server(port: int) -> None:
            print("port", port, flush=True)

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        data = cloudpickle.dumps(Pickled(), protocol=pickle.DEFAULT_PROTOCOL)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    bundle = replica.cwd / "code_bundle.pkl.gz"
    bundle.write_bytes(gzip.compress(data))
    code, out, err = replica.run(loader=None, pkl=str(bundle), **GIVEN)
    assert (code, out, err) == (0, ["port 80", "shutdown"], "")


def test_a_pickle_and_an_image_that_is_too_old_for_it(replica: Replica) -> None:
    (replica.cwd / "cloudpickle.py").write_text("__version__ = '2.2.1'")
    code, out, err = replica.run(loader=None, pkl="code_bundle.pkl.gz", **GIVEN)
    assert (code, out) == (78, [])
    assert "the image has cloudpickle 2.2.1" in err


@pytest.mark.parametrize("named", ["flyte._internal.gone\nApp", "flyte._environment\nGone"])
def test_a_pickle_of_another_sdk_is_told_from_a_broken_one(replica: Replica, named: str) -> None:
    (replica.cwd / "cloudpickle.py").write_text("__version__ = '3.1.0'")
    bundle = replica.cwd / "code_bundle.pkl.gz"
    bundle.write_bytes(gzip.compress(b"c" + named.encode() + b"\n."))
    code, out, err = replica.run(loader=None, pkl=str(bundle), **GIVEN)
    assert (code, out) == (78, [])
    assert err.startswith("fserve: the app was pickled by another SDK") and "Traceback" not in err
    bundle.write_bytes(gzip.compress(b"cno_such_module\nApp\n."))
    code, out, err = replica.run(loader=None, pkl=str(bundle), **GIVEN)
    assert code == 1 and "No module named 'no_such_module'" in err
