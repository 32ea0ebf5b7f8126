"""File and Dir of this machine; those of stores are in `e2e/test_io_stores.py`."""

from __future__ import annotations

import asyncio
import os

import pytest

from flyte.errors import UnsupportedError
from flyte.io import Dir, File


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "b.txt").write_text("b")
    (tmp_path / "d" / "a.txt").write_text("a\nsecond")
    (tmp_path / "d" / "sub" / "c.txt").write_text("c")
    return tmp_path / "d"


def test_fields_and_equality():
    file = File("s3://b/x/m.bin")
    assert (file.name, file.format, file.hash) == ("m.bin", "", None) and file == File(path="s3://b/x/m.bin")
    assert Dir("s3://b/d/").name == "d" and File("x", name="y").name == "y"
    assert File.from_existing_remote("s3://b/f", file_cache_key="k").hash == "k"
    assert Dir.from_existing_remote("s3://b/f", dir_cache_key="k").hash == "k"
    assert File[bytes] is not None and Dir[str] is not None
    with pytest.raises(ValueError, match="empty"):
        File("")


def test_local_paths_are_path_like(tree):
    path = str(tree / "a.txt")
    for file in (File(path), File(f"file://{path}")):
        assert str(file) == os.fspath(file) == path
    assert str(File("gs://b/x")) == "gs://b/x"


def test_remote_paths_are_no_paths_of_this_machine():
    with pytest.raises(UnsupportedError, match="no path here: it lies behind `s3://`") as refused:
        os.fspath(File("s3://b/f"))
    assert "download_sync()" in refused.value.hints[0]


def test_from_local(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert File.from_local_sync("a.txt").path == f"file://{tree}/a.txt"
    assert asyncio.run(File.from_local(tree / "a.txt")) == File.from_local_sync("a.txt")
    assert asyncio.run(Dir.from_local(tree)) == Dir.from_local_sync(".") == Dir(f"file://{tree}")
    for kind, path in ((File, "nope"), (File, "sub"), (Dir, "a.txt")):
        with pytest.raises(FileNotFoundError, match="at `"):
            kind.from_local_sync(path)
        with pytest.raises(FileNotFoundError, match="at `"):
            kind.from_local_sync(path, "s3://b/x")
    # A replica reads the declaration again, where the file is not.
    monkeypatch.setenv("_FLYTE_IN_REPLICA", "1")
    assert File.from_local_sync("nope").name == "nope"
    assert File.from_local_sync("nope", "s3://b/x") == File("s3://b/x")


def test_exists(tree):
    assert File(str(tree / "a.txt")).exists_sync() and not File(str(tree)).exists_sync()
    assert Dir(str(tree)).exists_sync() and not Dir(str(tree / "a.txt")).exists_sync()
    assert asyncio.run(Dir(str(tree)).exists())


def test_open(tree):
    file = File(str(tree / "a.txt"))
    with file.open("r") as stream:
        assert stream.readline() == "a\n"
    assert stream.closed
    with file.open_sync() as stream:
        assert stream.read(1) == b"a"

    async def use():
        async with File(str(tree / "new")).open("w+") as stream:
            await stream.write("one\ntwo")
            await stream.seek(0)
            return await stream.readline(), await stream.read()

    assert asyncio.run(use()) == ("one\n", "two")


def test_download_file(tree, tmp_path):
    file = File(f"file://{tree}/a.txt")
    assert file.download_sync() == str(tree / "a.txt")
    assert file.download_sync(tmp_path / "deep" / "copy") == str(tmp_path / "deep" / "copy")
    assert file.download_sync(f"{tmp_path}/into/") == f"{tmp_path}/into/a.txt"
    assert file.download_sync(tmp_path / "into") == str(tmp_path / "into" / "a.txt")
    assert asyncio.run(file.download(tree / "a.txt")) == str(tree / "a.txt")
    assert (tmp_path / "into" / "a.txt").read_text() == (tree / "a.txt").read_text() == "a\nsecond"
    with pytest.raises(FileNotFoundError):
        File(str(tree / "nope")).download_sync()


def test_download_dir(tree, tmp_path):
    folder = Dir(str(tree))
    target = tmp_path / "copy"
    for _ in range(2):  # a second time merges, and does not nest
        assert folder.download_sync(target) == str(target)
    assert sorted(os.listdir(target)) == ["a.txt", "b.txt", "sub"]
    assert asyncio.run(folder.download(f"{tmp_path}/into/")) == f"{tmp_path}/into/d"


def test_listing(tree):
    folder = Dir(f"file://{tree}")
    assert [file.name for file in folder.list_files_sync()] == ["a.txt", "b.txt"]
    assert [file.name for file in folder.walk_sync()] == ["a.txt", "b.txt", "c.txt"]
    assert [file.name for file in folder.walk_sync(max_depth=1)] == ["a.txt", "b.txt"]
    assert [file.name for file in folder.walk_sync(max_depth=2)] == ["a.txt", "b.txt", "c.txt"]
    assert (
        folder.get_file_sync("a.txt").open_sync().read() == b"a\nsecond" and folder.get_file_sync("x") is None
    )

    async def use():
        return (
            [file.name async for file in folder.walk()],
            await folder.list_files(),
            await folder.get_file("b.txt"),
        )

    names, files, file = asyncio.run(use())
    assert names == ["a.txt", "b.txt", "c.txt"] and len(files) == 2 and file.name == "b.txt"
