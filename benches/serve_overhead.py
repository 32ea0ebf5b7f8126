"""What `flyte.serve` adds to starting the same program by hand, beside what the PyPI SDK adds.

Three ways to bring up `python -m http.server`, each until it answers:

- by hand: start the process, ask until it says 200;
- flyte-rs: `flyte.serve(env)` until it returns, with the platform running and the environment
  built; the app is deleted before each round, so that it is really started;
- the PyPI SDK: `serve` in its local mode and `activate(wait=True)`, imports not counted.

The peer is looked for in the virtual environment `$FLYTE_PYPI_VENV`; without that one is made in
`benches/.peers`, once.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from _common import ROUNDS, Figure, Limit, finish, free_port, peer_python, quiet, rounds, scratch_home, show

TIMEOUT_SECONDS = 60

# Runs in the peer's environment and prints the seconds of each round.
PEER = """
import json, sys, time
import flyte, flyte.app

env = flyte.app.AppEnvironment(
    name="bench", args=[sys.executable, "-m", "http.server", sys.argv[1], "--bind", "127.0.0.1"],
    port=int(sys.argv[1]),
)
took = []
for _ in range(int(sys.argv[2]) + 1):
    started = time.perf_counter()
    # Its default asks for /health, which this server does not have.
    app = flyte.with_servecontext(mode="local", health_check_path="/").serve(env)
    app.activate(wait=True)
    took.append(time.perf_counter() - started)
    app.deactivate(wait=True)
print("took", json.dumps(took[1:]))
"""


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def by_hand() -> float:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not answers(port):
            if process.poll() is not None or time.perf_counter() - started > TIMEOUT_SECONDS:
                raise RuntimeError("http.server did not come up")
            time.sleep(0.001)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()


def ours(home: Path) -> Figure:
    os.environ.update(FLYTE_HOME=str(home))
    import flyte
    import flyte.app

    env = flyte.app.AppEnvironment(name="bench", args=["python", "-m", "http.server", "8080"])

    def once() -> float:
        started = time.perf_counter()
        app = flyte.serve(env)
        took = time.perf_counter() - started
        port = int(app.endpoint.rpartition(":")[2])
        if not answers(port):
            raise RuntimeError(f"{app} does not answer at {app.endpoint}")
        app.delete()
        return took

    return rounds("flyte-rs: flyte.serve(env)", once)


def pypi_sdk(home: Path) -> Figure:
    done = subprocess.run(
        [str(peer_python()), "-c", PEER, str(free_port()), str(ROUNDS)],
        env=quiet(HOME=str(home)),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=10 * TIMEOUT_SECONDS,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("took ")]
    if done.returncode or not found:
        raise RuntimeError(f"the PyPI SDK failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return Figure("PyPI SDK: serve + activate(wait=True)", json.loads(found[-1].removeprefix("took ")))


def main() -> None:
    with scratch_home() as home:
        hand = rounds("by hand: python -m http.server until 200", by_hand)
        own = ours(home)
        met = show("Bringing an app up", hand, [own, pypi_sdk(home)], {own.name: Limit(more=60)})
    finish(met)


if __name__ == "__main__":
    main()
