"""What machines do to a platform: full and read-only disks, damage, leftovers, stopped processes.

Whatever befell, a command ends within its limit and says what to do, apps that run go on running,
and what is whole comes back at its endpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import WEB, Home, Project, get, is_alive, until

APP = """
import sys
import flyte, flyte.app
import web

def app(name, before="pass"):
    program = f"import signal, web; {before}; web.serve(lambda path: {name!r})"
    return flyte.app.AppEnvironment(name=name, args=["python", "-c", program])

STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"

if __name__ == "__main__":
    name = sys.argv[1]
    print('"' + flyte.serve(app(name, STUBBORN if name == "stubborn" else "pass")).endpoint + '"')
"""

mounts = pytest.mark.skipif(
    os.geteuid() != 0 or (shutil.which("mount") is None and "CI" not in os.environ),
    reason="only root mounts file systems, with `mount`",
)


def files(home: Home, folder: Path) -> Project:
    project = Project(folder, home)
    project.write("web.py", WEB)
    project.write("main.py", APP)
    return project


@pytest.fixture
def served(fresh_home: Home, tmp_path: Path) -> tuple[Project, str]:
    """A home with an app that runs."""
    project = files(fresh_home, tmp_path)
    return project, project.result("main.py", "lasting")


def answers(endpoint: str, name: str = "lasting") -> bool:
    return get(endpoint) == (200, json.dumps(name))


def stop(home: Home) -> None:
    done = home.flyte("local", "stop")
    assert done.returncode == 0, done.stderr


def start(home: Home, seconds: float = 60) -> Any:
    done = home.flyte("local", "start", "--output", "json", timeout=seconds)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def small_home() -> Iterator[Home]:
    """A home on a disk of its own."""
    disk = Path(tempfile.mkdtemp(prefix="fd-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500m,mode=700", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        disk.rmdir()
        pytest.skip("this root may not mount")
    path = disk / "home"
    path.mkdir()
    home = Home(path)
    try:
        yield home
        home.end()
    finally:
        # What still compiles modules there must not keep it.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()


def fill(folder: Path) -> Path:
    """Take all the room that there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return ballast


@mounts
def test_a_full_disk_is_said_and_costs_nothing_that_was_there(small_home: Home, tmp_path: Path) -> None:
    home = small_home
    project = files(home, tmp_path)
    endpoint = project.result("main.py", "lasting")
    project.result("main.py", "second")
    # Modules that are still compiled take room too, or give it back.
    time.sleep(3)
    ballast = fill(home.path.parent)
    failed = project.run("main.py", "third", timeout=60)
    assert failed.returncode != 0
    assert "No space left" in failed.stderr or "full" in failed.stderr, failed.stderr
    assert "free some" in failed.stderr, failed.stderr
    assert answers(endpoint)
    assert home.app("lasting")["status"] == "ACTIVE"
    # A replica that dies meanwhile comes back, and whoever asks sees that it did.
    pid = home.pid("lasting")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid) and answers(endpoint), 20)
    # Forgetting either works or changes nothing.
    deleted = home.flyte("delete", "app", "second")
    names = [app["name"] for app in home.status()["apps"]]
    assert ("second" in names) == (deleted.returncode != 0), deleted.stderr
    assert home.path.joinpath("run/console.port").read_text().strip().isdigit()
    ballast.unlink()
    assert project.result("main.py", "third")
    stop(home)
    start(home)
    until(lambda: answers(endpoint), 20)


@mounts
def test_a_platform_starts_on_a_full_disk(small_home: Home, tmp_path: Path) -> None:
    home = small_home
    project = files(home, tmp_path)
    endpoint = project.result("main.py", "lasting")
    time.sleep(3)
    stop(home)
    ballast = fill(home.path.parent)
    begun = home.flyte("local", "start")
    if begun.returncode != 0:
        assert "may be full" in begun.stderr or "free some" in begun.stderr, begun.stderr
    ballast.unlink()
    start(home)
    until(lambda: answers(endpoint), 20)


@mounts
def test_a_read_only_home_is_said(small_home: Home, tmp_path: Path) -> None:
    home = small_home
    project = files(home, tmp_path)
    endpoint = project.result("main.py", "lasting")
    time.sleep(3)
    stop(home)
    # Compilers of modules write there; a disk that is written to stays writable.
    remount = ["mount", "-o", "remount,ro", str(home.path.parent)]
    until(lambda: subprocess.run(remount, capture_output=True).returncode == 0, 60)
    begun = home.flyte("local", "start")
    assert begun.returncode == 1, begun.stdout
    assert "Read-only" in begun.stderr and "FLYTE_HOME" in begun.stderr, begun.stderr
    failed = project.run("main.py", "second", timeout=60)
    assert failed.returncode != 0 and "FLYTE_HOME" in failed.stderr, failed.stderr
    subprocess.run(["mount", "-o", "remount,rw", str(home.path.parent)], check=True)
    start(home)
    until(lambda: answers(endpoint), 20)


@pytest.mark.parametrize("years", [-30, 30], ids=["past", "future"])
def test_files_of_another_time_cost_nothing(served: tuple[Project, str], years: int) -> None:
    project, endpoint = served
    home = project.home
    stop(home)
    then = time.time() + years * 365 * 24 * 3600
    for path in [home.path, *home.path.rglob("*")]:
        if path.exists():
            os.utime(path, (then, then), follow_symlinks=False)
    with closing(sqlite3.connect(home.path / "platform.db")) as database, database:
        database.execute("UPDATE apps SET created_at = ?1, updated_at = ?1", [int(then * 1000)])
        database.execute("UPDATE revisions SET created_at = ?1", [int(then * 1000)])
    start(home)
    until(lambda: answers(endpoint), 20)
    assert home.flyte("local", "prune", "--all").returncode == 0
    stop(home)
    start(home)
    until(lambda: answers(endpoint), 20)
    assert project.result("main.py", "lasting") == endpoint


def test_ten_thousand_leftovers_keep_nobody_waiting(served: tuple[Project, str]) -> None:
    project, endpoint = served
    home = project.home
    stop(home)
    left = []
    apps = home.path / "apps/local/development"
    uploads = home.path / "uploads/local/development/0"
    uploads.mkdir(parents=True)
    for number in range(2500):
        ghost = apps / f"ghost-{number}"
        (ghost / "logs").mkdir(parents=True)
        (ghost / "logs/app.log").write_text("said by nobody\n")
        replica = apps / f"lasting/1-{number}"
        replica.mkdir()
        (replica / "data").write_text("x")
        upload = uploads / f".flyte-upload-{number}"
        upload.write_text("x")
        trash = home.path / f"trash/{number}"
        trash.mkdir(parents=True)
        (trash / "it").write_text("x")
        left += [ghost, replica, upload, trash]
    begun = time.monotonic()
    start(home, 20)
    until(lambda: answers(endpoint), 20)
    print(f"started in {time.monotonic() - begun:.2f} s over {len(left)} leftovers")
    until(lambda: not any(path.exists() for path in left), 60, "all is removed")
    # A new app of such a name begins with nothing.
    project.result("main.py", "ghost-7")
    logs = home.flyte("get", "logs", "ghost-7")
    assert "said by nobody" not in logs.stdout, logs.stdout


def damage(home: Home, table: str) -> None:
    """Overwrite the first page of a table; of the database, where none is named."""
    path = home.path / "platform.db"
    page = 1
    with closing(sqlite3.connect(path)) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        if table:
            query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
            (page,) = database.execute(query, [table]).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


def test_a_damaged_database_is_set_aside_and_rebuilt(served: tuple[Project, str]) -> None:
    project, endpoint = served
    home = project.home
    stop(home)
    damage(home, "conditions")
    status = start(home)
    (aside,) = status["set_aside"]
    assert Path(aside).exists() and "damaged" in aside
    until(lambda: answers(endpoint), 20)
    assert home.app("lasting")["endpoint"] == endpoint
    told = home.flyte("local", "status")
    assert aside in told.stdout + told.stderr, told.stdout + told.stderr
    assert aside in home.flyte("doctor").stdout
    with closing(sqlite3.connect(home.path / "platform.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_is_no_database_at_all_keeps_nobody_from_serving(served: tuple[Project, str]) -> None:
    project, _ = served
    home = project.home
    stop(home)
    damage(home, "")
    status = start(home)
    assert status["apps"] == [] and len(status["set_aside"]) == 1
    # What the app had written may be all that is left of it.
    assert (home.path / "apps/local/development/lasting").exists()
    assert answers(project.result("main.py", "lasting"))


def test_a_revision_that_cannot_be_read_costs_its_app_only(served: tuple[Project, str]) -> None:
    project, endpoint = served
    home = project.home
    other = project.result("main.py", "second")
    stop(home)
    with closing(sqlite3.connect(home.path / "platform.db")) as database, database:
        database.execute("UPDATE revisions SET app = x'ff' WHERE key LIKE '%/lasting'")
    start(home)
    until(lambda: answers(other, "second"), 20)
    until(lambda: home.app("lasting")["status"] == "FAILED", 20)
    assert get(endpoint)[0] == 503
    assert project.result("main.py", "lasting") == endpoint
    assert answers(endpoint)


def test_a_damaged_bundle_is_set_aside_and_sent_anew(served: tuple[Project, str]) -> None:
    project, endpoint = served
    home = project.home
    stop(home)
    (bundle,) = (home.path / "uploads").rglob("*.tar.*")
    content = bytearray(bundle.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = b"\xa5" * 16
    bundle.write_bytes(content)
    # What was unpacked of it is lost as well.
    shutil.rmtree(home.path / "apps/local/development/lasting/1")
    start(home)
    until(lambda: list(bundle.parent.glob(".damaged-*")), 20, "it is set aside")
    assert not bundle.exists()
    until(lambda: "is damaged" in home.flyte("get", "logs", "lasting").stdout, 20)
    assert project.result("main.py", "lasting") == endpoint
    assert answers(endpoint)


def test_a_database_of_a_newer_build_is_refused_and_left_alone(served: tuple[Project, str]) -> None:
    project, endpoint = served
    home = project.home
    stop(home)
    path = home.path / "platform.db"
    with closing(sqlite3.connect(path)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    refused = home.flyte("local", "start")
    assert refused.returncode == 1
    assert "layout 99" in refused.stderr and "upgrade flyte-rs" in refused.stderr, refused.stderr
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    start(home)
    until(lambda: answers(endpoint), 20)


def test_of_two_platforms_that_race_to_start_one_runs(fresh_home: Home) -> None:
    racing = [
        subprocess.Popen(
            [sys.executable, "-m", "flyte._platform"],
            env=fresh_home.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        until(lambda: sum(process.poll() is not None for process in racing) == 2, 30)
        (winner,) = [process for process in racing if process.poll() is None]
        for loser in racing:
            if loser is not winner:
                assert loser.returncode != 0
                assert "another platform runs" in loser.communicate()[1]
        until(lambda: fresh_home.flyte("local", "status").returncode == 0, 20)
        assert fresh_home.status()["pid"] == winner.pid
        stop(fresh_home)
        assert winner.wait(20) == 0
    finally:
        for process in racing:
            if process.poll() is None:
                process.kill()
            process.wait()


def test_a_platform_that_is_ending_is_waited_for(fresh_home: Home, tmp_path: Path) -> None:
    project = files(fresh_home, tmp_path)
    endpoint = project.result("main.py", "stubborn")
    before = fresh_home.status()["pid"]
    stopping = subprocess.Popen(
        [Path(sys.executable).with_name("flyte"), "local", "stop"], env=fresh_home.environment()
    )
    # The app holds out against SIGTERM for its ten seconds.
    until(lambda: fresh_home.flyte("local", "status").returncode != 0, 10)
    assert is_alive(before)
    begun = fresh_home.flyte("local", "start", "--output", "json", timeout=60)
    assert begun.returncode == 0, begun.stderr
    assert json.loads(begun.stdout)["pid"] != before
    assert stopping.wait(60) == 0
    until(lambda: answers(endpoint, "stubborn"), 20)


COMMANDS = [
    ("get", "app"),
    ("delete", "app", "lasting"),
    ("local", "status"),
    ("local", "start"),
    ("local", "stop"),
    ("local", "prune"),
    ("local", "reset", "--yes"),
]


def test_no_command_hangs_on_a_platform_that_was_stopped(served: tuple[Project, str]) -> None:
    project, endpoint = served
    home = project.home
    platform = home.status()["pid"]
    os.kill(platform, signal.SIGSTOP)
    try:
        for words in COMMANDS:
            done = home.flyte(*words, timeout=25)
            assert done.returncode == 1, (words, done.stdout)
            assert f"process {platform}" in done.stderr, (words, done.stderr)
            assert f"kill -CONT {platform}" in done.stderr, (words, done.stderr)
        doctor = home.flyte("doctor", timeout=40)
        assert f"process {platform}" in doctor.stdout, doctor.stdout
        served_again = project.run("main.py", "lasting", timeout=25)
        assert f"process {platform}" in served_again.stderr, served_again.stderr
    finally:
        os.kill(platform, signal.SIGCONT)
    assert answers(endpoint)
    assert home.app("lasting")["status"] == "ACTIVE"


def test_a_replica_whose_platform_is_gone_ends_itself(fresh_home: Home) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    ours, theirs = socket.socketpair()
    words = ["-I", "-c", "from flyte._runtime import main; main()", "--version", "", "--", "sleep", "60"]
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, *words],
            env=fresh_home.environment(_FLYTE_CHANNEL="1", _FLYTE_PLATFORM=str(gone.pid)),
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert done.returncode == 1, done.stderr
