"""Serving an unchanged app over TCP: this package beside the PyPI SDK, on one platform.

Both do the same to the same server: a script of one app is run to its end, process start included,
with the platform's TCP port as its endpoint. Nothing has changed since the run before, so what is
measured is what a client needs to find that out. Fails unless ours is ten times as fast.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from _common import Limit, finish, in_turns, peer_python, quiet, scratch_home, show

APP = """
    import sys
    import flyte, flyte.app

    env = flyte.app.AppEnvironment(name=sys.argv[2], args=["python", "-m", "http.server", "8080"])

    if __name__ == "__main__":
        flyte.init(endpoint=sys.argv[1], insecure=True, project="local", domain="development", org="")
        print(flyte.serve(env).endpoint)
"""

GOAL = 10


def once(python: Path | str, folder: Path, endpoint: str, name: str) -> Callable[[], float]:
    """A run of the script by an interpreter; tells how long it took."""
    environment = quiet(HOME=str(folder / name), PYTHONHASHSEED="0", DO_NOT_TRACK="1")

    def run() -> float:
        started = time.perf_counter()
        done = subprocess.run(
            [str(python), "app.py", endpoint, name],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        took = time.perf_counter() - started
        assert done.returncode == 0, done.stdout + done.stderr
        return took

    return run


def listening(home: Path) -> str:
    """A platform that other clients reach, and where."""
    command = [sys.executable, "-m", "flyte._cli", "local", "start", "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, "--output", "json"],
        env=quiet(FLYTE_HOME=str(home)),
        capture_output=True,
        text=True,
        check=True,
    )
    return str(json.loads(done.stdout)["listen"])


def main() -> None:
    """Measure, print, and say by the exit status whether the goal is met."""
    with scratch_home() as home, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "app.py").write_text(textwrap.dedent(APP))
        endpoint = listening(home)
        ours, theirs = in_turns(
            {
                "flyte-rs": once(sys.executable, folder, endpoint, "ours"),
                "PyPI SDK": once(peer_python(), folder, endpoint, "theirs"),
            }
        )
    limits = {ours.name: Limit(times=1 / GOAL)}
    met = show("Serving an unchanged app over TCP, whole process", theirs, [ours], limits)
    print(f"\n{theirs.median / ours.median:.1f} times as fast as the PyPI SDK; the goal is {GOAL}")
    finish(met)


if __name__ == "__main__":
    main()
