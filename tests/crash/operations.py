"""What the rounds do: each a command as a user gives it, and what is true once it was acknowledged."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from model import Belief, Effect, State, is_active, is_as_it_was, is_gone, serves
from support import Home

SERVER = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = ({code!r} + os.environ.get("WORD", "") + os.environ.get("IMAGE", "")).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

print("serving " + {code!r} + os.environ.get("WORD", ""), flush=True)
ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""

DECLARATION = """
import flyte, flyte.app

env = flyte.app.AppEnvironment(
    name={name!r}, args=["python", "server.py"], include=["server.py"], env_vars={{"WORD": {value!r}}},
    image=flyte.Image.from_debian_base(name="crash").with_env_vars({{"IMAGE": {image!r}}}),
    scaling=flyte.app.Scaling(replicas=1),
)
"""


@dataclass
class Operation:
    """One command: what it acts on, and what it does to that."""

    about: Belief
    effect: Effect
    words: tuple[str, ...]
    folder: Path
    standard_input: str = ""
    process: subprocess.Popen[str] | None = None
    output: str = ""
    code: int | None = None
    started: threading.Event = field(default_factory=threading.Event)

    def run(self, home: Home, seconds: float, **variables: str) -> None:
        """Run it to its end; `code` stays `None` where it did not end in time."""
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("flyte"), *self.words],
            cwd=self.folder,
            # Rounds change a file more than once a second, and what Python keeps of one is told apart by
            # its size and its second.
            env=home.environment(PYTHONDONTWRITEBYTECODE="1", **variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.set()
        try:
            self.output, _ = self.process.communicate(self.standard_input, timeout=seconds)
            self.code = self.process.returncode
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.output, _ = self.process.communicate()

    def told(self) -> str:
        return f"`flyte {' '.join(self.words)}` in {self.folder.name}, exit {self.code}"


class App:
    """An app of the user's, whose files and declaration change from serve to serve."""

    def __init__(self, name: str, folder: Path) -> None:
        self.belief, self.folder = Belief(name), folder
        self.code, self.value, self.image = "code0.", "value0.", "image0."
        # What revisions of it say, since it was last made, and what they write to the log as they start.
        self.words: set[str] = set()
        self.lines: set[str] = set()
        folder.mkdir()

    def write(self) -> None:
        (self.folder / "server.py").write_text(SERVER.format(code=self.code))
        name = self.belief.name
        text = DECLARATION.format(name=name, value=self.value, image=self.image)
        (self.folder / "app.py").write_text(text)

    @property
    def word(self) -> str:
        return self.code + self.value + self.image

    def serve(self, dice: random.Random, what: str = "") -> Operation:
        """Something new in one of the three things that an app is made of, or nothing new."""
        what = what or dice.choice(["code", "value", "value", "image", "nothing"])
        if what != "nothing":
            setattr(self, what, f"{what}{dice.randrange(10**6)}.")
        self.write()
        return self.served(self.value, "serve", "app.py")

    def served(self, value: str, *words: str) -> Operation:
        word = self.code + value + self.image
        self.words.add(word)
        self.lines.add(f"serving {self.code}{value}")
        return Operation(self.belief, serves(word), words, self.folder)

    def serve_beside(self, dice: random.Random) -> Operation:
        """The same files with another value, for a second client at the same time."""
        value = f"beside{dice.randrange(10**6)}."
        return self.served(value, "serve", "app.py", "-e", f"WORD={value}")

    def rollback(self) -> Operation:
        words = ("update", "app", self.belief.name, "--rollback", "--wait")
        return Operation(self.belief, serves(*self.words), words, self.folder)

    def rebuild(self) -> Operation:
        return Operation(self.belief, is_as_it_was, ("build", "app.py", "--force"), self.folder)

    def update(self, active: bool) -> Operation:
        flag = "--activate" if active else "--deactivate"
        words = ("update", "app", self.belief.name, flag, "--wait")
        return Operation(self.belief, is_active(active), words, self.folder)

    def delete(self) -> Operation:
        words = ("delete", "app", self.belief.name)
        return Operation(self.belief, is_gone, words, self.folder)

    @property
    def state(self) -> State:
        """One that may be; they differ at most in what the app would answer if it were active."""
        return next(iter(self.belief.possible))

    def any(self, dice: random.Random) -> Operation:
        """Something that makes sense for an app in its state."""
        if not self.state.exists:
            return self.serve(dice)
        roll = dice.random()
        if roll < 0.45:
            return self.serve(dice)
        if roll < 0.55:
            return self.serve(dice, what="image")
        if roll < 0.6:
            return self.rebuild()
        if roll < 0.68 and self.state.active:
            return self.rollback()
        if roll < 0.85:
            return self.update(active=not self.state.active)
        return self.delete()

    def passing(self, point: str, dice: random.Random) -> Operation | None:
        """What leads past a point, if that can be done to the app as it is."""
        part, _, place = point.partition(".")
        if part in ("serve", "apply", "deploy", "promote", "replica", "start"):
            return None if place == "created" and self.state.exists else self.serve(dice, what="value")
        if part in ("bundle", "upload", "unpack"):
            return self.serve(dice, what="code")
        if part == "image":
            if self.state.exists and dice.random() < 0.4:
                return self.rebuild()
            return self.serve(dice, what="image")
        if part == "delete":
            return self.delete() if self.state.exists else None
        if part in ("deactivate", "stop"):
            return self.update(active=False) if self.state.exists and self.state.active else None
        return None


class Keeper:
    """A secret that comes, changes and goes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.belief, self.folder = Belief(name), folder

    def any(self, dice: random.Random) -> Operation:
        state = next(iter(self.belief.possible))
        name = self.belief.name
        if state.exists and dice.random() < 0.4:
            return Operation(self.belief, is_gone, ("delete", "secret", name), self.folder)
        # What a secret holds is never told; that it is there is.
        return self.keep()

    def keep(self) -> Operation:
        words = ("create", "secret", self.belief.name, "--replace")
        return Operation(self.belief, serves(""), words, self.folder, standard_input="hush")
