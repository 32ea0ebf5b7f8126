"""Typed environments as bytes: what travels, the same bytes each time, and what is said of the rest."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import types

import pytest

import flyte.app
from flyte import _notebook, _pickling
from flyte.errors import ConfigError

HEAD = """
import flyte.app
env = flyte.app.AppEnvironment(name="web")
"""


def typed(text: str) -> dict:
    """What a cell leaves behind."""
    variables: dict = {"__name__": "__main__"}
    exec(compile(HEAD + textwrap.dedent(text), "/tmp/ipykernel_12/34.py", "exec"), variables)
    return variables


SQLITE = "import sqlite3\nconn = sqlite3.connect(':memory:')\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SQLITE + "@env.server\ndef server(): return conn",
            "`server` uses `conn` (a `sqlite3.Connection`)",
        ),
        (
            SQLITE + "@env.on_startup\ndef prepare(): return conn\n@env.server\ndef server(): pass",
            "`prepare` uses `conn` (a `sqlite3.Connection`)",
        ),
        (
            SQLITE + "def helper(): return conn\n@env.server\ndef server(): return helper()",
            "`helper`, which `server` leads to, uses `conn` (a `sqlite3.Connection`)",
        ),
        (
            SQLITE + "class Store:\n    def __init__(self): self.pool = {'main': [1, conn]}\n"
            "store = Store()\n@env.server\ndef server(): return store",
            "`server` uses `store.pool['main'][1]` (a `sqlite3.Connection`)",
        ),
        (
            "def make():\n    steps = (i for i in range(3))\n    def server(): return next(steps)\n"
            "    return server\nenv.server(make())",
            "`server` uses `steps` (a `generator`)",
        ),
        (
            "import socket\ndef server(sock=socket.socket()): return sock\nenv.server(server)",
            "`server` uses `sock` (a `socket.socket`)",
        ),
        (
            "import threading\nlock = threading.Lock()\n@env.server\ndef server(): return lock",
            "`server` uses `lock` (a `_thread.lock`)",
        ),
        # Not the lock inside of it.
        (
            "import threading\nworker = threading.Thread()\n@env.server\ndef server(): return worker",
            "`server` uses `worker` (a `threading.Thread`)",
        ),
        (
            "import os\nnote = open(os.devnull)\n@env.server\ndef server(): return note.read()",
            "`server` uses `note` (an `io.TextIOWrapper`)",
        ),
        (
            "import functools, socket\nsend = functools.partial(print, file=socket.socket())\n"
            "@env.server\ndef server(): send()",
            "`server` uses `send.keywords['file']` (a `socket.socket`)",
        ),
        (
            "import socket\nclass Server:\n    def __init__(self): self.sock = socket.socket()\n"
            "    def run(self): return self.sock\nenv.server(Server().run)",
            "environment `web` uses `server.__self__.sock` (a `socket.socket`)",
        ),
        # Two apps that know each other, and the one to blame is the other.
        (
            SQLITE + "db = flyte.app.AppEnvironment(name='db')\nenv.depends_on.append(db)\n"
            "@db.server\ndef serve_db(): return conn, env\n@env.server\ndef server(): return db.endpoint",
            "`serve_db`, which `server` leads to, uses `conn` (a `sqlite3.Connection`)",
        ),
        # An object of the user's that says itself why not.
        (
            "class Handle:\n    def __reduce__(self): raise TypeError('lives on the GPU')\n"
            "handle = Handle()\n@env.server\ndef server(): return handle",
            "`server` uses `handle` (a `Handle`), which cannot be pickled\nCaused by: lives on the GPU",
        ),
    ],
)
def test_what_cannot_be_pickled_is_named(text, expected):
    with pytest.raises(ConfigError) as caught:
        _pickling.pack(typed(text)["env"])
    assert str(caught.value).startswith(f"app `web` cannot be sent: {expected}"), caught.value
    assert caught.value.code == "bundle.unpicklable"
    assert "`@env.on_startup`" in caught.value.hints[0]


def test_what_the_startup_hook_assigns_stays_here():
    variables = typed(
        """
        import sqlite3, threading
        conn, lock = sqlite3.connect(":memory:"), None
        @env.on_startup
        def prepare():
            global conn, lock
            conn, lock = sqlite3.connect(":memory:"), threading.Lock()
        @env.server
        def server():
            return conn
        """
    )
    variables["prepare"]()
    env = pickle.loads(_pickling.pack(variables["env"]).data)
    env._on_startup()
    assert env._server() is not variables["conn"]
    assert type(env._server()) is type(variables["conn"])


def test_modules_that_functions_import_are_found_without_importing_them(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "package" / "part.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    packed = _pickling.pack(
        typed(
            """
            @env.server
            def server():
                def inner():
                    from package import part, no_module
                    import not_there.at_all
            """
        )["env"]
    )
    assert packed.imports == [
        str(tmp_path / "package" / "__init__.py"),
        str(tmp_path / "package" / "part.py"),
    ]


def test_large_variables_are_told_by_name_and_size():
    variables = typed(
        """
        table, small = bytes(12_000_000), bytes(10)
        @env.server
        def server():
            return table, small
        """
    )
    (note,) = _pickling.pack(variables["env"]).notes
    assert note.startswith("`server` takes `table` along (a `bytes`, 12.0 MB); load it in `on_startup`")


REPEATED = """
import dataclasses, enum, hashlib, typing
import fastapi, pydantic
from flyte.app.extras import FastAPIAppEnvironment
from flyte import _pickling

T = typing.TypeVar("T")
class Colour(enum.Enum):
    RED = 1
@dataclasses.dataclass
class Item(typing.Generic[T]):
    names: set = dataclasses.field(default_factory=lambda: {"a", "b", "c", "d"})
class Model(pydantic.BaseModel):
    name: str
words, item = {"alpha", "beta", "gamma", "delta"}, Item()
def outer():
    closed = frozenset(words)
    return lambda word: word in {"one", "two", "three", "four"} or word in closed
inner = outer()
api = fastapi.FastAPI()
@api.get("/")
def root(word: str) -> Model:
    return Model(name=word + str(inner(word)) + str(words) + Colour.RED.name + str(item))
env = FastAPIAppEnvironment(name="api", app=api)
"""


def test_the_same_code_is_the_same_bytes_in_any_process():
    program = (
        f"cell = {REPEATED!r}\n"
        "for count in range(2):\n"
        "    exec(compile(cell, f'<ipython-input-{count}-{id(cell)}>', 'exec'))\n"
        "    print(hashlib.md5(_pickling.pack(env).data).hexdigest())\n"
    )
    seen = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.update(done.stdout.split())
    assert len(seen) == 1


@pytest.mark.parametrize("variable", ["__vsc_ipynb_file__", "JPY_SESSION_NAME"])
def test_the_folder_of_a_notebook(tmp_path, monkeypatch, variable):
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert _notebook.folder() == os.getcwd()
    notebook = str(tmp_path / "x.ipynb")
    if variable == "JPY_SESSION_NAME":
        monkeypatch.setenv(variable, notebook)
        # Inherited by a program that is no kernel.
        assert _notebook.folder() == os.getcwd()
        main.get_ipython = lambda: None
        assert _notebook.folder() == str(tmp_path)
        monkeypatch.setenv(variable, "4f1f-some-id")
        assert _notebook.folder() == os.getcwd()
    else:
        setattr(main, variable, notebook)
        assert _notebook.folder() == str(tmp_path)


def test_what_no_file_holds_needs_a_pickle():
    assert _notebook.needs_pickle(typed("")["env"])
    env = flyte.app.AppEnvironment(name="of-this-file")
    env.server(test_what_no_file_holds_needs_a_pickle)
    assert not _notebook.needs_pickle(env)
    env.on_shutdown(typed("def tidy(): pass")["tidy"])
    assert _notebook.needs_pickle(env)
