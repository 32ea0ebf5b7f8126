"""`File` and `Dir` of real stores, opened, listed, fetched and sent by user code."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import stores
from support import WEB, Home, Project, get_json

from flyte.errors import Error
from flyte.io import Dir, File

# The server of a store is built for its first test.
pytestmark = pytest.mark.timeout(900)

LARGE = os.urandom(1 << 20) * 36  # several parts, to be sent and to be fetched
TREE = {"a.csv": b"a", "b.txt": b"b", "sub/c.csv": b"c", "sub/deep/d.csv": b"d"}


@pytest.fixture(scope="module", params=["s3", "gs", "abfs"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.Store]:
    opened = {
        "s3": stores.s3,
        "gs": stores.google,
        "abfs": lambda: stores.azure(tmp_path_factory.mktemp("azurite")),
    }
    with opened[request.param]() as one, pytest.MonkeyPatch.context() as patch:
        for name, value in one.variables().items():
            patch.setenv(name, value)
        for key, content in TREE.items():
            one.put(f"tree/{key}", content)
        one.put("large.bin", LARGE)
        yield one


def names(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_file_is_read_in_pieces_and_as_text(store: stores.Store):
    file = File(store.url("large.bin"))
    with file.open(block_size=1 << 20) as stream:
        assert stream.read(4) == LARGE[:4]
        assert stream.seek(-3, os.SEEK_END) == len(LARGE) - 3
        assert stream.read() == LARGE[-3:] and stream.read() == b""
        stream.seek(30 << 20)
        assert stream.read(5) == LARGE[30 << 20 : (30 << 20) + 5]
    with file.open_sync() as stream:
        assert stream.read() == LARGE

    async def text() -> str:
        async with File(store.url("tree/a.csv")).open("r") as stream:
            return await stream.read()

    assert asyncio.run(text()) == "a"


def test_a_file_is_fetched_whole_to_where_it_was_asked_for(store: stores.Store, tmp_path: Path):
    file = File(store.url("large.bin"))
    assert file.download_sync(tmp_path / "deep" / "copy") == str(tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == LARGE
    assert asyncio.run(file.download(f"{tmp_path}/into/")) == f"{tmp_path}/into/large.bin"
    own = Path(file.download_sync())
    assert own.name == "large.bin" and own.read_bytes() == LARGE
    own.write_bytes(b"mine")  # a copy of the user's, not one that others see
    own.unlink()
    own.parent.rmdir()


def test_what_does_not_arrive_leaves_everything_as_it_was(store: stores.Store, tmp_path: Path):
    (tmp_path / "kept").write_text("before")
    missing = File(store.url("large.bim"))
    for attempt in (
        lambda: missing.download_sync(tmp_path / "kept"),
        lambda: asyncio.run(missing.download(tmp_path / "kept")),
        lambda: missing.open_sync(),
        lambda: Dir(store.url("three")).download_sync(tmp_path / "tree"),
        lambda: list(Dir(store.url("three")).walk_sync()),
    ):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            attempt()
    with pytest.raises(FileNotFoundError, match="did you mean `.*large.bin`"):
        missing.open_sync()
    assert names(tmp_path) == {"kept": b"before"}
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    assert not missing.exists_sync() and not asyncio.run(Dir(store.url("three")).exists())
    assert File(store.url("large.bin")).exists_sync() and Dir(store.url("tree")).exists_sync()


def test_a_folder_is_listed_and_fetched(store: stores.Store, tmp_path: Path):
    folder = Dir(store.url("tree"))
    listed = [file.path for file in folder.walk_sync()]
    assert listed == [store.url(f"tree/{key}") for key in TREE]
    assert [file.name for file in folder.walk_sync(max_depth=2, file_pattern="*.csv")] == ["a.csv", "c.csv"]
    assert [file.name for file in folder.list_files_sync()] == ["a.csv", "b.txt"]
    found = folder.get_file_sync("a.csv")
    assert found is not None and found.open_sync().read() == b"a" and folder.get_file_sync("c.csv") is None
    target = tmp_path / "copy"
    for _ in range(2):  # a second time merges, and does not nest
        assert folder.download_sync(target) == str(target)
        assert names(target) == TREE
        (target / "own").write_bytes(b"own")
        (target / "own").rename(tmp_path / "own")
    assert asyncio.run(folder.download(f"{tmp_path}/into/")) == f"{tmp_path}/into/tree"
    assert names(tmp_path / "into" / "tree") == TREE


def test_files_and_folders_are_sent(store: stores.Store, tmp_path: Path):
    (tmp_path / "large").write_bytes(LARGE)
    if store.scheme == "gs":
        # The emulator needs no credentials to be read, and knows no uploads of this kind.
        with pytest.raises(Error, match="takes credentials"):
            File.from_local_sync(tmp_path / "large", store.url("sent/large"))
        return
    sent = File.from_local_sync(tmp_path / "large", store.url("sent/large"))
    assert sent == File(store.url("sent/large")) and sent.open_sync().read() == LARGE
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "a").write_bytes(b"a")
    (tmp_path / "tree" / "sub" / "empty").write_bytes(b"")
    folder = asyncio.run(Dir.from_local(tmp_path / "tree", store.url("sent/tree")))
    assert [file.path for file in folder.walk_sync()] == [
        store.url("sent/tree/a"),
        store.url("sent/tree/sub/empty"),
    ]
    written = File(store.url("sent/written"))
    with written.open("w") as stream:
        stream.write("one\ntwo")
    with written.open_sync("r") as stream:
        assert stream.readlines() == ["one\n", "two"]
    with pytest.raises(ZeroDivisionError), written.open("wb") as stream:
        stream.write(b"half of it")
        stream.write(bytes([1 // 0]))
    assert written.open_sync().read() == b"one\ntwo"
    with pytest.raises(ValueError, match="read or written anew"):
        written.open_sync("a")


def test_web_servers_are_read_with_and_without_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Not below pytest's own folder, which the web server's worker may not enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, stores.web(Path(folder)) as web:
        for name, value in web.variables().items():
            monkeypatch.setenv(name, value)
        web.put("large.bin", LARGE)
        web.put("whole/large.bin", LARGE)
        web.put("private/x", b"x")
        for key in ("large.bin", "whole/large.bin"):
            with File(web.url(key)).open() as stream:
                stream.seek(7)
                assert stream.read(3) == LARGE[7:10], key
        signed = File(web.url("private/x") + "?signature=good")
        assert signed.open_sync().read() == b"x"
        assert os.path.basename(signed.download_sync(f"{tmp_path}/into/")) == "x"
        with pytest.raises(Error, match="may not be read") as refused:
            File(web.url("private/x") + "?signature=bad-and-secret").open_sync()
        assert "bad-and-secret" not in str(refused.value)
        with pytest.raises(Error, match="cannot be listed"):
            list(Dir(web.url("private")).walk_sync())
        (tmp_path / "here").write_text("here")
        with pytest.raises(Error, match="take no files"):
            File.from_local_sync(tmp_path / "here", web.url("there"))


APP = """
import json, os
import flyte, web
from flyte.app import AppEnvironment, Parameter
from flyte.io import Dir, File

GIVEN = json.loads(GIVEN_JSON)
env = AppEnvironment(
    name="reader",
    parameters=[Parameter("data", Dir(path=GIVEN["url"]), download=False)],
    env_vars=GIVEN["variables"],
)

@env.server
def server(data: Dir):
    read = {file.name: file.open_sync().read().decode() for file in data.list_files_sync()}
    File.from_local_sync(__file__, GIVEN["url"] + "/sent.py")
    web.serve(lambda path: read)

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def test_an_app_reads_and_writes_with_its_own_credentials(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with stores.s3() as store:
        store.put("tree/a.csv", b"a")
        project = Project(tmp_path, home)
        project.write("web.py", WEB)
        given = {"url": store.url("tree"), "variables": store.variables()}
        project.write("main.py", APP.replace("GIVEN_JSON", repr(json.dumps(given))))
        assert get_json(project.result()) == {"a.csv": "a"}
        for name, value in store.variables().items():
            monkeypatch.setenv(name, value)
        assert File(store.url("tree/sent.py")).open_sync("r").read() == (tmp_path / "main.py").read_text()
