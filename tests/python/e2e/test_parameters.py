"""The table: each kind of parameter, from each source, by each way of access.

Every store is the real thing or the emulator that its users test with. One app for each source is
served once and asked for everything.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stores
from support import WEB, Home, Project, get_json

# The server of a store is built for its first test.
pytestmark = pytest.mark.timeout(900)

SOURCES = ["file", "s3", "gs", "abfs", "https"]
# Larger than what is fetched in one piece.
LARGE = bytes(range(256)) * 4096 * 20

APP = """
import hashlib, json, os, sys
import flyte
from flyte.app import AppEndpoint, AppEnvironment, Parameter, get_parameter
from flyte.io import Dir, File
import web

GIVEN = json.loads(GIVEN_JSON)
url = GIVEN["urls"]

parameters = [
    Parameter("text", "a b", env_var="TEXT"),
    Parameter("number", 7, env_var="NUMBER"),
    Parameter("ratio", 0.5, env_var="RATIO"),
    Parameter("flag", True, env_var="FLAG"),
    Parameter("file", File(path=url["one.txt"]), env_var="FILE"),
    Parameter("named", File(path=url["one.txt"]), env_var="NAMED", mount="in/named.bin"),
    Parameter("into", File(path=url["one.txt"]), env_var="INTO", mount="in/there/"),
    Parameter("large", File(path=url["large.bin"]), env_var="LARGE"),
    Parameter("empty", File(path=url["empty"]), env_var="EMPTY"),
    Parameter("kept", File(path=url["one.txt"]), env_var="KEPT", download=False),
    Parameter("typed", url["two.txt"], type="file", env_var="TYPED"),
    Parameter("sent", File.from_local_sync("sent.txt"), env_var="SENT"),
    Parameter("sent_into", File.from_local_sync("sent.txt"), env_var="SENT_INTO", mount="in/sent/"),
    Parameter("endpoint", AppEndpoint(app_name="peer"), env_var="ENDPOINT"),
]
if "tree" in url:
    parameters += [
        Parameter("folder", Dir(path=url["tree"]), env_var="FOLDER"),
        Parameter("mounted", Dir(path=url["tree"]), env_var="MOUNTED", mount="in/tree"),
        Parameter("partly", Dir(path=url["tree"]), env_var="PARTLY", ignore_patterns=["*.log", "skipped"]),
        Parameter("kept_folder", Dir(path=url["tree"]), env_var="KEPT_FOLDER", download=False),
    ]

peer = AppEnvironment(name="peer", args=["python", "-m", "http.server", "8080"])
env = AppEnvironment(
    name=GIVEN["name"], parameters=parameters, env_vars=GIVEN["variables"], depends_on=[peer]
)

def described(value):
    if not isinstance(value, (str, File, Dir)):
        return value
    path = str(value)
    if os.path.isdir(path):
        return {
            os.path.relpath(os.path.join(folder, name), path): open(os.path.join(folder, name)).read()
            for folder, _, names in os.walk(path) for name in sorted(names)
        }
    if os.path.isfile(path):
        data = open(path, "rb").read()
        return data.decode() if len(data) < 100 else hashlib.md5(data).hexdigest()
    return path

@env.server
def server(**given):
    names = sorted(given)
    answer = {
        "argument": {name: described(given[name]) for name in names},
        "get_parameter": {name: described(get_parameter(name)) for name in names},
        "env_var": {name: described(os.environ[name.upper()]) for name in names},
        "kinds": {name: type(given[name]).__name__ for name in names},
        "mount": {name: os.path.relpath(str(given[name])) for name in ("named", "into", "mounted") if name in given},
        "links": {name: os.stat(str(given[name])).st_nlink for name in ("file", "large")},
        "sent": {
            "writable": [os.stat(str(given[name])).st_mode & 0o222 for name in ("sent", "sent_into")],
            "one file": os.path.samefile(str(given["sent"]), str(given["sent_into"])),
        },
    }
    web.serve(lambda path: answer)

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""

TREE = {"a.txt": "a", "sub/b.txt": "b", "sub/c d.log": "log", "skipped/x": "x", "skipped/deep/y": "y"}
PARTLY = {"a.txt": "a", "sub/b.txt": "b"}


class Shop:
    """The stores that were asked for, and what the app of each said."""

    def __init__(self, home: Home, folder: Path, stack: contextlib.ExitStack) -> None:
        self.home, self.folder, self.stack = home, folder, stack
        self._stores: dict[str, stores.Store] = {}
        self._answers: dict[str, Any] = {}

    def store(self, source: str) -> stores.Store:
        if source not in self._stores:
            place = self.folder / source
            place.mkdir()
            opened: dict[str, Callable[[], Any]] = {
                "file": lambda: contextlib.nullcontext(stores.Files(place)),
                "s3": stores.s3,
                "gs": stores.google,
                "abfs": lambda: stores.azure(place),
                "https": lambda: stores.web(place),
            }
            self._stores[source] = self.stack.enter_context(opened[source]())
        return self._stores[source]

    def project(self, name: str) -> Project:
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"{name}-"))
        project = Project(folder, self.home)
        project.write("web.py", WEB)
        return project

    def endpoint(self) -> str:
        """Where the app beside them answers."""
        return str(self.home.app("peer")["endpoint"])

    def answer(self, source: str) -> Any:
        if source not in self._answers:
            store = self.store(source)
            files = {"one.txt": b"one", "two.txt": b"two", "large.bin": LARGE, "empty": b""}
            for key, content in files.items():
                store.put(key, content)
            for key, text in TREE.items():
                store.put(f"tree/{key}", text.encode())
            names = [*files, *(["tree"] if source != "https" else [])]
            given = {
                "name": f"from-{source}",
                "urls": {name: store.url(name) for name in names},
                "variables": store.variables(),
            }
            project = self.project(source)
            project.write("sent.txt", "sent")
            project.write("main.py", APP.replace("GIVEN_JSON", repr(json.dumps(given))))
            self._answers[source] = get_json(project.result())
        return self._answers[source]


@pytest.fixture(scope="module")
def shop(home: Home) -> Iterator[Shop]:
    folder = Path(tempfile.mkdtemp(prefix="flyte-stores-", dir="/tmp"))
    # The web server's worker is another user.
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        yield Shop(home, folder, stack)
    shutil.rmtree(folder)


def expected(source: str, name: str, access: str, store: stores.Store, endpoint: str) -> Any:
    import hashlib

    plain = {"text": "a b", "number": 7, "ratio": 0.5, "flag": True, "endpoint": endpoint}
    if name in plain:
        value = plain[name]
        if access != "env_var":
            return value
        return str(value).lower() if isinstance(value, bool) else str(value)
    return {
        "file": "one",
        "named": "one",
        "into": "one",
        "large": hashlib.md5(LARGE).hexdigest(),
        "empty": "",
        "typed": "two",
        "sent": "sent",
        "sent_into": "sent",
        # A file of this machine can be opened where it is; what lies elsewhere stays an address.
        "kept": store.url("one.txt") if source != "file" or access != "argument" else "one",
        "folder": TREE,
        "mounted": TREE,
        "partly": PARTLY,
        "kept_folder": store.url("tree") if source != "file" or access != "argument" else TREE,
    }[name]


PLAIN = ["text", "number", "ratio", "flag", "endpoint"]
FILES = ["file", "named", "into", "large", "empty", "kept", "typed", "sent", "sent_into"]
FOLDERS = ["folder", "mounted", "partly", "kept_folder"]
TABLE = [
    (source, name) for source in SOURCES for name in [*PLAIN, *FILES, *(FOLDERS if source != "https" else [])]
]


@pytest.mark.parametrize("access", ["argument", "get_parameter", "env_var"])
@pytest.mark.parametrize(("source", "name"), TABLE)
def test_table(shop: Shop, source: str, name: str, access: str):
    found = shop.answer(source)[access][name]
    assert found == expected(source, name, access, shop.store(source), shop.endpoint())


@pytest.mark.parametrize("source", SOURCES)
def test_all_of_a_source(shop: Shop, source: str):
    """Prints its part of the table with `pytest -s`."""
    answer, store = shop.answer(source), shop.store(source)
    ways = ("argument", "get_parameter", "env_var")
    names = [name for found, name in TABLE if found == source]
    at = shop.endpoint()
    good = {
        name: [answer[way][name] == expected(source, name, way, store, at) for way in ways] for name in names
    }
    print(f"\n{store.url('...'):<44}" + "".join(f"{way:>15}" for way in ways))
    for name, held in good.items():
        print(f"  {name:<42}" + "".join(f"{'as declared' if one else 'WRONG':>15}" for one in held))
    assert all(all(held) for held in good.values())


@pytest.mark.parametrize("source", SOURCES)
def test_mounts_are_where_they_were_asked_for(shop: Shop, source: str):
    mounts = {"named": "in/named.bin", "into": "in/there/one.txt"}
    if source != "https":
        mounts["mounted"] = "in/tree"
    assert shop.answer(source)["mount"] == mounts
    kinds = shop.answer(source)["kinds"]
    assert (kinds["file"], kinds["kept"], kinds["text"]) == ("File", "File", "str")
    assert kinds.get("folder", "Dir") == kinds.get("kept_folder", "Dir") == "Dir"


@pytest.mark.parametrize("source", SOURCES)
def test_what_was_sent_is_read_only_and_shared(shop: Shop, source: str):
    assert shop.answer(source)["sent"] == {"writable": [0, 0], "one file": True}


@pytest.mark.parametrize("source", SOURCES[1:])
def test_what_was_fetched_is_shared_between_parameters(shop: Shop, source: str):
    # The shelf's own link, and those of `file`, `named` and `into`.
    assert shop.answer(source)["links"] == {"file": 4, "large": 2}
