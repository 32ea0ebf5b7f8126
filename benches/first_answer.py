"""From a command to the first right answer: a hello world under every tool that people serve it with.

The command is started and asked over a new connection every millisecond until it says the right
words; what it needs once (environments, databases, a platform that runs) is there before. Each peer
lives in an environment of its own in `benches/.peers` (`peers.py`), made on the first run.

FastAPI apps, where the tool serves those: uvicorn, `uvicorn --reload`, `fastapi dev`, BentoML and
the PyPI SDK's local mode; a LitServe API; and `flyte serve` twice, once with the app deleted before,
so that it is new, and once as it was left.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from _common import ROUNDS, Figure, free_port, quiet, scratch_home, show
from peers import environment

TIMEOUT_SECONDS = 60
WORDS = b"hello from"

FASTAPI = """
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()

@app.get("/", response_class=PlainTextResponse)
async def hello() -> str:
    return "hello from fastapi"
"""

OURS = """
import flyte, flyte.app
image = flyte.Image.from_debian_base().with_pip_packages("fastapi", "uvicorn")
env = flyte.app.AppEnvironment(
    name="first-answer", image=image, include=["hello.py"],
    args=["uvicorn", "hello:app", "--host", "127.0.0.1", "--port", "8080"],
)
"""

SDK = """
import sys
import flyte, flyte.app
env = flyte.app.AppEnvironment(
    name="first-answer", port=int(sys.argv[1]),
    args=[sys.executable, "-m", "uvicorn", "hello:app", "--host", "127.0.0.1", "--port", sys.argv[1]],
)
app = flyte.with_servecontext(mode="local", health_check_path="/").serve(env)
app.activate(wait=True)
import signal
signal.pause()
"""

BENTO = """
import bentoml
from hello import app

@bentoml.asgi_app(app)
@bentoml.service
class Hello:
    pass
"""

LITSERVE = """
import sys
import litserve as ls

class Hello(ls.LitAPI):
    def setup(self, device):
        pass
    def decode_request(self, request):
        return request
    def predict(self, x):
        return x
    def encode_response(self, output):
        return {"output": "hello from litserve"}

if __name__ == "__main__":
    server = ls.LitServer(Hello(), accelerator="cpu", timeout=False)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="error")
"""


def answer(port: int, path: str = "/", body: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"content-type": "application/json"} if body else {}
        connection.request("POST" if body else "GET", path, body, headers)
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """It and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    process.wait()


def until_answered(
    words: list[str], folder: Path, port: int, path: str = "/", body: bytes | None = None
) -> float:
    """Starts a server, waits for its answer and ends it."""
    started = time.perf_counter()
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=quiet(HOME=str(folder), DO_NOT_TRACK="1", BENTOML_DO_NOT_TRACK="1"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while WORDS not in answer(port, path, body):
            if process.poll() is not None or time.perf_counter() - started > TIMEOUT_SECONDS:
                raise RuntimeError(f"{words} does not answer")
            time.sleep(0.001)
        return time.perf_counter() - started
    finally:
        end(process)


def peers(folder: Path) -> dict[str, Callable[[], float]]:
    """What else serves a hello world, each as a round."""
    (folder / "hello.py").write_text(FASTAPI)
    (folder / "sdk.py").write_text(SDK)
    (folder / "service.py").write_text(BENTO)
    (folder / "lit.py").write_text(LITSERVE)
    fastapi = environment("fastapi")
    bento = environment("bentoml")
    lit = environment("litserve")
    sdk = environment("sdk-fastapi")

    def uvicorn(*more: str) -> float:
        port = free_port()
        words = [str(fastapi), "-m", "uvicorn", "hello:app", "--port", str(port), *more]
        return until_answered(words, folder, port)

    def dev() -> float:
        port = free_port()
        words = [str(fastapi.with_name("fastapi")), "dev", "hello.py", "--port", str(port)]
        return until_answered(words, folder, port)

    def script() -> float:
        port = free_port()
        return until_answered([str(sdk), "sdk.py", str(port)], folder, port)

    def bentoml() -> float:
        port = free_port()
        words = [str(bento.with_name("bentoml")), "serve", "service:Hello", "--port", str(port)]
        return until_answered(words, folder, port)

    def litserve() -> float:
        port = free_port()
        return until_answered([str(lit), "lit.py", str(port)], folder, port, "/predict", b'{"x": 1}')

    return {
        "uvicorn hello:app": uvicorn,
        "uvicorn --reload": lambda: uvicorn("--reload"),
        "fastapi dev": dev,
        "PyPI SDK, local mode": script,
        "BentoML": bentoml,
        "LitServe": litserve,
    }


def ours(home: Path, folder: Path) -> dict[str, Callable[[], float]]:
    """`flyte serve`, of an app that is new and of one that is up."""
    (folder / "app.py").write_text(OURS)
    flyte = [sys.executable, "-m", "flyte._cli"]
    own = quiet(FLYTE_HOME=str(home))

    def command(*words: str) -> str:
        done = subprocess.run([*flyte, *words], cwd=folder, env=own, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"flyte {words} failed:\n{done.stderr}")
        return done.stdout

    command("serve", "app.py")

    def serve() -> float:
        started = time.perf_counter()
        port = int(command("serve", "app.py").split()[-1].rpartition(":")[2])
        if WORDS not in answer(port):
            raise RuntimeError("the app is up and does not answer")
        return time.perf_counter() - started

    def new() -> float:
        command("delete", "app", "first-answer")
        return serve()

    return {"flyte serve, the app is new": new, "flyte serve, nothing changed": serve}


def main() -> None:
    with scratch_home() as home:
        folder = home / "project"
        folder.mkdir()
        ways = {**peers(folder), **ours(home, folder)}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(ROUNDS + 1):
            for name, once in ways.items():
                took = once()
                if number:  # the first round fills caches
                    taken[name].append(took)
        base, *others = (Figure(name, seconds) for name, seconds in taken.items())
        show("From the command to the first answer", base, others)


if __name__ == "__main__":
    main()
