"""Hot reload: what a save leads to, what it must not lead to, and what a watch leaves behind."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import Home, Project, get_json, is_alive, until

APP = """
import os
from flyte.app import AppEnvironment
import web
import words

env = AppEnvironment(name="{name}", env_vars={{"MODE": "a"}})

@env.server
def server():
    web.serve(lambda path: [words.WORD, os.environ["MODE"]])
"""

SCRIPT = """
import sys
import flyte
from app import env

if __name__ == "__main__":
    app = flyte.with_servecontext(watch=True, env_vars={"EXTRA": "1"}).serve(env)
    print("returned", app.name, app.revision, app.endpoint, flush=True)
"""


class Watch:
    """A process that watches, and what it has written."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        for stream, lines in ((process.stdout, self.out), (process.stderr, self.err)):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    def until(self, *words: str, after: int = 0, seconds: float = 20) -> str:
        """Wait for a line that holds all these words."""

        def found() -> str | None:
            lines = [*self.err[after:], *self.out]
            return next((line for line in lines if all(word in line for word in words)), None)

        try:
            return str(until(found, seconds))
        except AssertionError:
            raise AssertionError(f"no line with {words} in {[*self.err, *self.out]}") from None

    @property
    def rolls(self) -> list[str]:
        """The lines that tell of changes."""
        return [line for line in self.err if line.startswith(("✓", "✗")) and "answers at" not in line]

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)


@pytest.fixture
def watch(project: Project) -> Iterator[Callable[..., Watch]]:
    begun: list[Watch] = []

    def begin(*words: str, program: str = "", **more: str) -> Watch:
        command = [sys.executable, program] if program else [Path(sys.executable).with_name("flyte")]
        process = subprocess.Popen(
            [*map(str, command), *words],
            cwd=project.folder,
            env=project.home.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(Watch(process))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def app(project: Project, watch: Callable[..., Watch]) -> tuple[Watch, str]:
    """An app that is being watched, and where it answers."""
    project.write("words.py", 'WORD = "one"')
    name = f"watch-{project.folder.name[-24:].replace('_', '-').strip('-')}"
    project.write("app.py", APP.format(name=name))
    watching = watch("serve", "--watch", "app.py")
    watching.until("note: watching 3 files", seconds=60)
    # It is written to another stream than the note.
    return watching, until(lambda: watching.out, 30)[0]


def word(url: str) -> str:
    return str(get_json(url)[0])


def save_in_place(file: Path, text: str) -> None:
    file.write_text(text)


def save_by_rename(file: Path, text: str) -> None:
    new = file.with_name(f".{file.name}.tmp")
    new.write_text(text)
    new.rename(file)


def save_as_vim(file: Path, text: str) -> None:
    backup = file.with_name(f"{file.name}~")
    file.rename(backup)
    file.write_text(text)
    backup.unlink()


def save_with_the_folder(file: Path, text: str) -> None:
    """As a checkout does that replaces a tree."""
    folder, old, new = file.parent, file.parent.with_name("old"), file.parent.with_name("new")
    shutil.copytree(folder, new, ignore=lambda _, names: [name for name in names if "pycache" in name])
    (new / file.name).write_text(text)
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)


def test_every_way_of_saving_takes_effect(project, watch):
    project.write("package/__init__.py", "")
    file = project.write("package/words.py", 'WORD = "one"')
    project.write(
        "app.py", APP.format(name="watch-saving").replace("import words", "from package import words")
    )
    watching = watch("serve", "--watch", "app.py")
    watching.until("note: watching 4 files", seconds=60)
    url = until(lambda: watching.out, 30)[0]
    for save in (save_in_place, save_by_rename, save_as_vim, save_with_the_folder, save_in_place):
        save(file, f'WORD = "{save.__name__}"\n')
        until(lambda save=save: word(url) == save.__name__, what=str(watching.err))
    # A burst of events is one change.
    until(lambda: len(watching.rolls) == 5, what=str(watching.err))
    for roll in watching.rolls:
        assert roll.startswith("✓ changed package/"), roll
        assert "is ACTIVE" in roll and roll.endswith("s)")


def test_an_error_keeps_the_old_version_and_the_fix_takes_over(app, project):
    watching, url = app
    project.write("words.py", "WORD = = 2")
    watching.until("✗ changed words.py", "previous revision 1 keeps serving")
    watching.until("SyntaxError: invalid syntax")
    # The traceback with the line, as the app wrote it.
    watching.until("  WORD = = 2")
    assert word(url) == "one"
    project.write("words.py", 'WORD = "fixed"')
    watching.until("✓ changed words.py", "revision 3 is ACTIVE")
    assert word(url) == "fixed"
    # What was told once by the app is not told again by who reads the declaration.
    assert len([line for line in watching.err if "SyntaxError: invalid" in line]) == 2, watching.err


def test_a_changed_declaration_takes_effect(app, project):
    watching, url = app
    file = project.folder / "app.py"
    file.write_text(file.read_text().replace('"MODE": "a"', '"MODE": "b"'))
    watching.until("changed env_vars of", "is ACTIVE")
    assert get_json(url) == ["one", "b"]
    # And stays when the code changes next.
    project.write("words.py", 'WORD = "two"')
    watching.until("✓ changed words.py")
    assert get_json(url) == ["two", "b"]


def test_modules_come_and_go(app, project):
    watching, url = app
    # The import first, then its folder, then the file: each in a moment of its own.
    project.write("words.py", "from extra.more import WORD")
    watching.until("✗ changed words.py")
    (project.folder / "extra").mkdir()
    time.sleep(0.1)
    project.write("extra/more.py", 'WORD = "new"')
    watching.until("✓", "added extra/more.py")
    assert word(url) == "new"
    project.write("words.py", 'WORD = "own"')
    shutil.rmtree(project.folder / "extra")
    until(lambda: word(url) == "own", what=str(watching.err))


def test_an_included_folder_that_is_made_anew_is_watched_again(project, watch):
    project.write(
        "words.py",
        'import pathlib\nWORD = (pathlib.Path(__file__).parent / "data/word").read_text()\n',
    )
    project.write("data/word", "one")
    text = APP.format(name="watch-included")
    project.write("app.py", text.replace("env_vars=", 'include=["data/word"], env_vars='))
    watching = watch("serve", "--watch", "app.py")
    watching.until("note: watching 4 files", seconds=60)
    url = until(lambda: watching.out, 30)[0]
    shutil.rmtree(project.folder / "data")
    watching.until("`data/word` matches nothing in `", f"{project.folder.name}`")
    (project.folder / "data").mkdir()
    watching.until("`data/word` matches nothing in `", f"{project.folder.name}/data`")
    project.write("data/word", "two")
    until(lambda: word(url) == "two", what=str(watching.err))


def test_what_changes_nothing_is_not_told(app, project):
    watching, url = app
    words = project.folder / "words.py"
    pid = project.home.pid(name := get_name(project))
    before = len(watching.err)
    words.touch()
    words.chmod(0o600)
    save_by_rename(words, words.read_text())
    project.write(".words.py.swp", "b0VIM")
    project.write("notes.txt", "nobody bundles me")
    # Looked at after all of these, since events keep their order.
    time.sleep(0.5)
    assert watching.err[before:] == []
    assert project.home.pid(name) == pid
    project.write("words.py", 'WORD = "two"')
    watching.until("✓ changed words.py: revision 2")


def get_name(project: Project) -> str:
    return (project.folder / "app.py").read_text().partition('name="')[2].partition('"')[0]


def test_ctrl_c_ends_the_watch_and_not_the_app(app, project):
    watching, url = app
    started = time.monotonic()
    assert watching.interrupt() == 0
    assert time.monotonic() - started < 15
    said = watching.until("no longer watching")
    name = get_name(project)
    assert f"`flyte update app {name} --deactivate` stops it" in said
    assert watching.out == [url]
    assert word(url) == "one"


def test_a_newer_save_does_not_wait_for_one_that_does_not_come_up(app, project):
    watching, url = app
    project.write("words.py", "import time; time.sleep(600)")
    name = get_name(project)
    until(lambda: len(project.home.replicas(name)) == 2, what="the start that hangs")
    project.write("words.py", 'WORD = "two"')
    started = time.monotonic()
    watching.until("✓ changed words.py: revision 3 is ACTIVE")
    assert time.monotonic() - started < 15
    assert word(url) == "two"


STREAM = """
from flyte.app import AppEnvironment
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import threading
import words

env = AppEnvironment(name="watch-events")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f'["{words.WORD}"]\\n'.encode())
        while self.path == "/events":
            self.wfile.write(b"data: tick\\n\\n")
            self.wfile.flush()
            threading.Event().wait(0.05)

    def log_message(self, *_):
        pass

@env.server
def server():
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


def test_an_open_event_stream_does_not_hold_a_roll_up(project, watch):
    project.write("words.py", 'WORD = "one"')
    project.write("app.py", STREAM)
    watching = watch("serve", "--watch", "app.py")
    watching.until("note: watching", seconds=60)
    url = until(lambda: watching.out, 30)[0]
    stream = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port or 0, timeout=10)
    stream.request("GET", "/events")
    events = stream.getresponse()
    assert events.readline() == b'["one"]\n'
    project.write("words.py", 'WORD = "two"')
    started = time.monotonic()
    until(lambda: word(url) == "two", what=str(watching.err))
    # Far below the 30 s that the old version gets for what it has begun.
    assert time.monotonic() - started < 15
    assert [events.readline() for _ in range(20)].count(b"data: tick\n") == 10
    stream.close()


def test_each_roll_is_a_line_of_json(project, watch):
    project.write("words.py", 'WORD = "one"')
    project.write("app.py", APP.format(name="watch-json"))
    watching = watch("serve", "--watch", "app.py", "-o", "json", "--follow")
    watching.until('"endpoint"', seconds=60)
    first = json.loads(watching.out[0])
    assert (first["name"], first["status"]) == ("watch-json", "ACTIVE")
    project.write("words.py", 'print("hello from the log")\nWORD = "two"')
    rolled = json.loads(watching.until('"ACTIVE"', '"words.py"'))
    assert rolled["changed"] == ["words.py"] and rolled["added"] == rolled["removed"] == []
    assert rolled["revision"] == 2 and 0 < rolled["seconds"] < 10
    assert json.loads(watching.until("hello from")) == {"log": "hello from the log"}
    project.write("words.py", "WORD =")
    failed = json.loads(watching.until('"FAILED"'))
    assert failed["serving_revision"] == 2
    assert any("SyntaxError" in line for line in failed["error"]["log"])
    watching.interrupt()
    assert all(json.loads(line) for line in watching.out)


def test_a_script_watches_until_ctrl_c_and_goes_on_with_the_app(project, watch):
    project.write("words.py", 'WORD = "one"')
    project.write("app.py", APP.format(name="watch-script"))
    project.write("main.py", SCRIPT)
    watching = watch(program="main.py")
    url = watching.until("`watch-script` answers at", seconds=60).split()[-1]
    watching.until("note: watching")
    project.write("words.py", 'WORD = "two"')
    watching.until("✓ changed words.py: revision 2")
    file = project.folder / "main.py"
    file.write_text(file.read_text().replace('"EXTRA": "1"', '"MODE": "script"'))
    watching.until("changed overrides", "is ACTIVE")
    assert get_json(url) == ["two", "script"]
    assert watching.interrupt() == 0
    # Only the first program has gone on behind the call.
    until(lambda: watching.out, what="the script's own line")
    assert [line.split()[0] for line in watching.out] == ["returned"]
    assert watching.out[0].endswith(url)
    assert word(url) == "two"


def test_a_task_that_watches_is_cancelled(project):
    project.write("words.py", 'WORD = "one"')
    project.write("app.py", APP.format(name="watch-aio"))
    project.write(
        "main.py",
        """
        import asyncio, time
        import flyte
        from app import env

        async def main():
            watching = asyncio.create_task(flyte.with_servecontext(watch=True).serve.aio(env))
            await asyncio.to_thread(input)
            watching.cancel()
            started = time.monotonic()
            try:
                await watching
            except asyncio.CancelledError:
                print("cancelled", time.monotonic() - started < 15, flush=True)

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    watching = Watch(
        subprocess.Popen(
            [sys.executable, "main.py"],
            cwd=project.folder,
            env=project.home.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    try:
        url = watching.until("answers at", seconds=60).split()[-1]
        project.write("words.py", 'WORD = "two"')
        watching.until("✓ changed words.py")
        assert watching.process.stdin
        watching.process.stdin.write("\n")
        watching.process.stdin.close()
        watching.until("cancelled True")
        assert watching.process.wait(timeout=30) == 0
        assert word(url) == "two"
    finally:
        watching.process.kill()
        watching.process.wait()


def test_a_first_start_that_fails_is_watched_until_it_is_repaired(project, watch):
    project.write("words.py", 'WORD = "one"')
    project.write("app.py", APP.format(name="watch-first").replace("web.serve(", "web.sreve("))
    watching = watch("serve", "--watch", "app.py")
    watching.until("AttributeError", seconds=60)
    watching.until("note: watching 3 files")
    assert watching.out == []
    file = project.folder / "app.py"
    file.write_text(file.read_text().replace("web.sreve(", "web.serve("))
    url = watching.until("http://localhost:")
    assert word(url.split()[-1]) == "one"


def test_a_declaration_that_cannot_be_read_any_more_is_told_and_kept(app, project):
    watching, url = app
    file = project.folder / "app.py"
    # Fails where it is imported to be served, and not in the replica.
    file.write_text(
        file.read_text() + '\nif "_FLYTE_REPLICA" not in os.environ:\n    raise RuntimeError("not here")\n'
    )
    watching.until("✓ changed app.py")
    watching.until("what was declared before holds")
    watching.until("RuntimeError: not here")
    project.write("words.py", 'WORD = "two"')
    watching.until("✓ changed words.py")
    assert get_json(url) == ["two", "a"]


def test_what_cannot_be_watched_is_refused(home: Home, project):
    project.write("app.py", APP.format(name="watch-refused"))
    project.write("words.py", 'WORD = "one"')
    refused = home.flyte("deploy", "--watch", "app.py", cwd=project.folder)
    assert refused.returncode == 2 and "`flyte serve --watch`" in refused.stderr
    refused = home.flyte("serve", "--watch", "--dry-run", "app.py", cwd=project.folder)
    assert refused.returncode == 2 and "--dry-run" in refused.stderr
    typed = """
import flyte
from flyte.app import AppEnvironment
env = AppEnvironment(name="watch-typed", args=["python", "-m", "http.server", "8080"])
for options in ({"dry_run": True}, {}):
    try:
        flyte.with_servecontext(watch=True, **options).serve(env)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", typed], env=home.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "watch and dry_run are mutually exclusive" in done.stdout
    assert "app `watch-typed` cannot be watched: it was typed, or is sent pickled" in done.stdout


def test_nothing_of_a_watch_is_left(app, project):
    watching, _ = app
    project.write("words.py", 'WORD = "two"')
    watching.until("✓ changed words.py")
    watching.interrupt()
    # The program that reads the declaration ends with the watch, even in the middle of it.
    own = [pid for pid in os.listdir("/proc") if pid.isdigit() and reads_for(int(pid), watching.process.pid)]
    assert [pid for pid in own if is_alive(int(pid))] == []


def reads_for(pid: int, parent: int) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(entry.startswith(f"_FLYTE_WATCH={parent}:".encode()) for entry in variables)
