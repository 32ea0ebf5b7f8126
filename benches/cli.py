"""What a command costs before it does anything, beside the PyPI SDK in the same run.

`flyte --help`, `flyte get app` and `import flyte, flyte.app` import no code of a user. Both command
lines list the apps of the same local platform; the SDK, which knows no Unix socket, reaches it over
a forwarder on loopback. Whole processes are timed, one of ours and one of the SDK's in turn.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from _common import Limit, finish, in_turns, peer_python, quiet, scratch_home, show

EIGHTH = Limit(times=1 / 8)
# A command that imports no code of a user is there at once.
START = Limit(times=1 / 8, most=50)
IMPORT = "import flyte, flyte.app"
APP = """
import flyte.app
env = flyte.app.AppEnvironment(name="bench-cli", args=["python", "-m", "http.server", "8080"])
"""


def timed(command: list[str], environment: dict[str, str], folder: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True)
    took = time.perf_counter() - started
    assert done.returncode == 0, (command, done.stderr.decode()[-2000:])
    return took


@contextmanager
def forwarder(socket: Path) -> Iterator[int]:
    """A port on loopback that leads to the platform's socket."""

    async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
        both = pipe(reader, inner_writer), pipe(inner_reader, writer)
        await asyncio.gather(*both, return_exceptions=True)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.start_server(connected, "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def main() -> None:
    """Print the tables and whether the targets are met."""
    ours, theirs = Path(sys.executable), peer_python()
    failures: list[str] = []
    with scratch_home() as home:
        environment = quiet(FLYTE_HOME=str(home))
        (home / "app.py").write_text(APP)
        serve = [str(ours), "-m", "flyte._cli", "serve", "app.py"]
        # Twice, so that the package is known by its files' states, as on any day but the first.
        for _ in range(2):
            timed(serve, environment, home)
        with forwarder(home / "run" / "platform.sock") as port:
            endpoint = ["--endpoint", f"http://127.0.0.1:{port}", "--insecure"]
            scope = ["--project", "local", "--domain", "development"]
            for name, own, peer in [
                ("flyte --help", ["--help"], ["--help"]),
                ("flyte get app", ["get", "app"], [*endpoint, "get", "app", *scope]),
            ]:
                commands = {
                    f"PyPI SDK: {name}": [str(theirs.with_name("flyte")), *peer],
                    f"flyte-rs: {name}": [str(ours.with_name("flyte")), *own],
                }
                sdk, mine = in_turns(
                    {name: partial(timed, words, environment, home) for name, words in commands.items()}
                )
                if not show(name, sdk, [mine], {mine.name: START}):
                    failures.append(name)
        commands = {
            "bare Python": [str(ours), "-c", "pass"],
            f"PyPI SDK: {IMPORT}": [str(theirs), "-c", IMPORT],
            f"flyte-rs: {IMPORT}": [str(ours), "-c", IMPORT],
        }
        bare, sdk, mine = in_turns(
            {name: partial(timed, words, environment, home) for name, words in commands.items()}
        )
        if not show(IMPORT, sdk, [mine], {mine.name: EIGHTH}):
            failures.append(IMPORT)
        if not show("Import, over bare Python", bare, [mine], {mine.name: Limit(more=25)}):
            failures.append("over bare Python")
    for name in failures:
        print(f"missed: {name}")
    finish(not failures)


if __name__ == "__main__":
    main()
