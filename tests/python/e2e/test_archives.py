"""The archive of a bundle as others read it, and what happens to it on its way."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support import Home, Project, get_json

# A ready image may hold the runtime of the PyPI SDK, so its bundle has to be a `.tar.gz`.
APP = """
import sys
import flyte, flyte.app

env = flyte.app.AppEnvironment(name="archived", args=["true"], IMAGE)

if __name__ == "__main__":
    context = flyte.with_servecontext(copy_style="all", dry_run=True, copy_bundle_to=sys.argv[1])
    context.serve(env)
"""


@pytest.fixture
def tree(project: Project) -> Project:
    for name, content in {
        "pkg/__init__.py": "",
        "pkg/größe.py": "WORD = 'ü'\n",
        "deep/" + "folder/" * 30 + "leaf.txt": "leaf",
        "n" * 180 + ".txt": "long",
        "empty.txt": "",
    }.items():
        project.write(name, content)
    # Two pieces, and nothing that a compressor could use.
    (project.folder / "blob.bin").write_bytes(os.urandom(3_000_000))
    (project.folder / "run.sh").write_text("#!/bin/sh\n")
    (project.folder / "run.sh").chmod(0o755)
    return project


def archive(project: Project, kind: str) -> Path:
    """What `flyte.serve` would send, written to a file."""
    image = 'image="ghcr.io/flyteorg/flyte:py3.12-v2.12.1"' if kind == "tar.gz" else ""
    project.write("main.py", APP.replace("IMAGE", image))
    target = project.folder.parent / f"{project.folder.name}.{kind}"
    done = project.run("main.py", str(target))
    assert done.returncode == 0, done.stderr
    assert f"bundle written to `{target}`" in done.stderr
    return target


def contents(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Every file below the folder: what it holds, and whether it can be executed."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(("kind", "option"), [("tar.zst", "--zstd"), ("tar.gz", "--gzip")])
def test_gnu_tar_unpacks_it(tree: Project, tmp_path_factory, kind, option):
    target = tmp_path_factory.mktemp("unpacked")
    file = archive(tree, kind)
    subprocess.run(["tar", option, "-xf", str(file), "-C", str(target)], check=True)
    assert contents(target) == contents(tree.folder)


def test_tarfile_unpacks_it(tree: Project, tmp_path_factory):
    target = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive(tree, "tar.gz"), "r:gz") as opened:
        assert {(member.uid, member.gid, member.mtime) for member in opened} == {(0, 0, 0)}
        opened.extractall(target)
    assert contents(target) == contents(tree.folder)


PYPI_DOWNLOAD = """
import asyncio, sys
from flyte._code_bundle.bundle import download_bundle
from flyte.models import CodeBundle
bundle = CodeBundle(computed_version="1", tgz=sys.argv[1], destination=sys.argv[2])
asyncio.run(download_bundle(bundle))
"""


def test_the_download_code_of_the_pypi_sdk_unpacks_it(tree: Project, tmp_path_factory, pypi_python):
    target = tmp_path_factory.mktemp("unpacked")
    file = archive(tree, "tar.gz")
    done = subprocess.run(
        [pypi_python, "-c", PYPI_DOWNLOAD, str(file), str(target)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    unpacked = {name: found for name, found in contents(target).items() if not name.startswith(".")}
    unpacked.pop(file.name, None)  # it leaves the archive beside what was in it
    assert unpacked == contents(tree.folder)


def test_equal_trees_make_equal_archives(tree: Project, tmp_path_factory, home: Home):
    other = Project(tmp_path_factory.mktemp("other") / "place", home)
    for name, (content, executable) in sorted(contents(tree.folder).items(), reverse=True):
        path = other.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o711 if executable else 0o600)
    for kind in ("tar.zst", "tar.gz"):
        assert archive(tree, kind).read_bytes() == archive(other, kind).read_bytes(), kind
    other.close()


SERVED = """
import json
import flyte, flyte.app
import web, value

env = flyte.app.AppEnvironment(name="resent", include=["blob.bin"])

@env.server
def server():
    web.serve(lambda path: value.VALUE)

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def test_pieces_that_were_damaged_are_made_again(project: Project, home: Home):
    project.write("main.py", SERVED)
    project.write("value.py", "VALUE = 1\n")
    (project.folder / "blob.bin").write_bytes(os.urandom(3_000_000))
    assert get_json(project.result("main.py")) == 1
    kept = [path for path in (home.path / "cache" / "bundles").rglob("frames/*") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(bytes(path.stat().st_size))
    # Only what changed is made now; the rest is taken from what was kept, and refused.
    project.write("value.py", "VALUE = 22\n")
    assert get_json(project.result("main.py")) == 22


def test_a_large_bundle_names_its_largest_files_and_how_to_leave_them_out(tree: Project):
    tree.write("main.py", APP.replace("IMAGE", ""))
    for number, name in enumerate(["a", "b [1]", "c", "d", "e", "f"], start=6):
        with (tree.folder / f"{name}.bin").open("wb") as file:
            file.truncate(number << 20)
    done = tree.run("main.py", str(tree.folder.parent / "large.tar.zst"))
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("flyte: ") for line in done.stderr.splitlines()]
    start = next(index for index, line in enumerate(lines) if "the bundle is large" in line)
    listed = [line.split(maxsplit=2)[2] for line in lines[start + 1 : start + 6]]
    assert listed == ["/f.bin", "/e.bin", "/d.bin", "/c.bin", r"/b \[1].bin"]
    (tree.folder / ".flyteignore").write_text("\n".join(listed))
    done = tree.run("main.py", str(tree.folder.parent / "small.tar.zst"))
    assert "the bundle is large" not in done.stderr


def test_the_python_of_the_tests_is_the_one_that_serves(pypi_python):
    """The peer has its own package named `flyte`; neither may see the other's."""
    code = "import flyte; print(flyte.__file__)"
    theirs = subprocess.run([pypi_python, "-c", code], capture_output=True, text=True, check=True)
    ours = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert theirs.stdout != ours.stdout
