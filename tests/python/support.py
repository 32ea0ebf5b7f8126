"""What the end-to-end tests stand on: a scratch home, user projects, and plain HTTP.

Nothing here is a stand-in. A `Home` is a real folder with a real platform process behind it, a
`Project` is a folder of files that are run as a user runs them, and a request is a request. When a
module of tests is through, its platform is ended and must have left nothing behind.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# The fifteen lines that nearly every app under test is made of. It listens where users hardcode.
WEB = """
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def serve(answer, port=8080, host="0.0.0.0"):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, value = 200, answer(self.path)
            if isinstance(value, tuple):
                status, value = value
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    server.serve_forever()
"""


def until(condition: Callable[[], Any], seconds: float = 10, what: str = "") -> Any:
    """Return the first true value of `condition`, which is asked again until the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.01)


def get(url: str, timeout: float = 20) -> tuple[int, str]:
    """GET, with the status as a value rather than an exception."""
    # No proxy, whatever the machine has: apps are here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def get_json(url: str, timeout: float = 20) -> Any:
    """GET a JSON document that must be there."""
    status, body = get(url, timeout)
    assert status == 200, (status, body)
    return json.loads(body)


def refuses(url: str) -> bool:
    """Whether nothing listens there."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=5)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    finally:
        connection.close()
    return False


def environment_of(pid: int | str) -> dict[str, str]:
    """The variables that a process was started with; none when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in text.split(b"\0") if entry)
    return {name.decode(): value.decode(errors="replace") for name, _, value in pairs}


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# In the environment of everything that tests run. Put together, so that no file of theirs holds it.
PLANTED = "-".join(["plant", "ed", "in", "the", "shell"])


class Home:
    """A `FLYTE_HOME` of its own, with the commands that act on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # How commands and scripts reach the platform, where that is not over its socket.
        self.through: dict[str, str] = {}
        # Where the platform listens for that; it is closed by `local stop`.
        self.listen = ""

    def environment(self, **more: str) -> dict[str, str]:
        """Variables of a user's shell that uses this home."""
        skipped = ("FLYTE_", "_FLYTE", "_RUN_MODE", "INTERNAL_APP")
        own = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
        # A test's key is no entry for the keyring of whoever runs the tests.
        own["FLYTE_DISABLE_KEYRING"] = "1"
        # What a shell holds is nobody's business; looked for when the home goes.
        own["UNRELATED_API_TOKEN"] = PLANTED
        return {**own, "FLYTE_HOME": str(self.path), **self.through, **more}

    def flyte(
        self, *words: str | Path, cwd: Path | None = None, timeout: float = 60, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user does."""
        if self.listen and words[:2] == ("local", "start") and "--listen" not in words:
            words = (*words, "--listen", self.listen)
        done = subprocess.run(
            [Path(sys.executable).with_name("flyte"), *map(str, words)],
            env=self.environment(**more),
            cwd=cwd or self.path,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert PLANTED not in done.stdout + done.stderr, "what a shell holds is shown"
        return done

    def json(self, *words: str | Path, cwd: Path | None = None) -> Any:
        """What a command that must succeed prints as JSON."""
        done = self.flyte(*words, "--output", "json", cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def status(self) -> Any:
        """`flyte local status`."""
        return self.json("local", "status")

    def app(self, name: str) -> Any:
        """The entry of an app in `flyte local status`."""
        found = [app for app in self.status()["apps"] if app["name"] == name]
        assert found, f"no app `{name}`"
        return found[0]

    def names(self) -> list[str]:
        """The apps that the platform knows; one that does not run yet is started to be asked."""
        return [app["name"] for app in self.json("local", "start")["apps"]]

    def pid(self, name: str) -> int:
        """The one process of an app that serves."""
        (replica,) = self.app(name)["replicas"]
        return int(replica["pid"])

    def replicas(self, name: str = "") -> list[int]:
        """Every process that carries the mark of an app of this home."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                variables = environment_of(entry.name)
                mark = variables.get("_FLYTE_REPLICA")
                own = variables.get("FLYTE_HOME") == str(self.path)
                if mark is not None and own and f"/{name}:" in (mark if name else "/:"):
                    found.append(int(entry.name))
        return found

    def run_folder(self, name: str) -> Path:
        """Where the app's code was unpacked, as its process sees it."""
        return Path(os.readlink(f"/proc/{self.pid(name)}/cwd"))

    def end(self) -> None:
        """Stop the platform and check that nothing of it is left."""
        running = self.flyte("local", "status", "--output", "json")
        stopped = self.flyte("local", "stop", "--output", "json")
        assert stopped.returncode == 0, stopped.stderr
        left = [pid for pid in self.replicas() if is_alive(pid)]
        assert not left, {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left}
        if running.returncode != 0:
            return
        status = json.loads(running.stdout)
        assert not is_alive(status["pid"]), "the platform's process is still there"
        by_name = "http://localhost:" + status["by_name"].rpartition(":")[2]
        listening = [status["console"], by_name, *(app["endpoint"] for app in status["apps"])]
        answering = [url for url in listening if not refuses(url)]
        # Another platform of this machine may have taken a port in the meantime.
        answering = [url for url in answering if self.listens(url)]
        assert not answering, answering

    def holding(self, text: str) -> list[str]:
        """Files below the home that hold `text`; environments and caches are of packages only."""
        skipped = {self.path / name for name in ("envs", "cache")}
        found = []
        for folder, names, files in os.walk(self.path):
            names[:] = [name for name in names if Path(folder, name) not in skipped]
            for file in (Path(folder, name) for name in files):
                with contextlib.suppress(OSError):
                    if (
                        file.is_file()
                        and file.stat().st_size < 1 << 26
                        and text.encode() in file.read_bytes()
                    ):
                        found.append(str(file))
        return found

    def listens(self, url: str) -> bool:
        """Whether a process with this home in its environment listens there."""
        port = f"{urlsplit(url).port or 80:04X}"
        tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
        rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
        sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port}") and row[3] == "0A"}
        own = f"FLYTE_HOME={self.path}".encode()
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and own in (process / "environ").read_bytes().split(b"\0"):
                    if any(os.readlink(file) in sockets for file in (process / "fd").iterdir()):
                        return True
        return False


class Project:
    """A folder of a user's files."""

    def __init__(self, folder: Path, home: Home) -> None:
        self.folder = folder
        self.home = home
        self._started: list[subprocess.Popen[str]] = []

    def write(self, name: str, text: str) -> Path:
        """Write a file, with the indentation of the test taken away."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        # Python tells versions apart by their size and second, and a test writes several within one.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        return path

    def start(self, name: str = "main.py", *words: str, **more: str) -> subprocess.Popen[str]:
        """Start a script and leave it running."""
        process = subprocess.Popen(
            [sys.executable, name, *words],
            cwd=self.folder,
            env=self.home.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End the scripts that a failed test left running."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def run(
        self, name: str = "main.py", *words: str, timeout: float = 90, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, whatever that is."""
        process = self.start(name, *words, **more)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"`{name}` did not end: {process.communicate()}") from None
        assert PLANTED not in out + err, "what a shell holds is shown"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def result(self, name: str = "main.py", *words: str, **more: str) -> Any:
        """What a script that must succeed prints as its last line, which is JSON."""
        done = self.run(name, *words, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def failure(self, serve: str = "flyte.serve(main.env)", **more: str) -> Any:
        """How serving `main.env` fails, as the script that called it sees it."""
        self.write(
            "attempt.py",
            f"""
            import json, time
            import flyte, main
            from flyte import errors

            started = time.monotonic()
            try:
                {serve}
            except errors.Error as error:
                print(json.dumps({{
                    "class": type(error).__name__,
                    "code": error.code,
                    "message": error.message,
                    "hints": error.hints,
                    "log": error.log_tail,
                    "text": str(error),
                    "seconds": time.monotonic() - started,
                }}))
            else:
                raise SystemExit("it did not fail")
            """,
        )
        return self.result("attempt.py", **more)
