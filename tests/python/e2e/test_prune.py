"""`flyte local prune`: what nobody uses goes, and what is used stays, while apps are served."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from support import WEB, Home, Project, get

APP = """
import flyte, flyte.app
import web, text

env = flyte.app.AppEnvironment(name="pruned")

@env.server
def server():
    web.serve(lambda path: text.SAID)

if __name__ == "__main__":
    print('"' + flyte.serve(env).endpoint + '"')
"""


def make_old(folder: Path, days: float = 60) -> None:
    """Have everything in it look as if nobody had used it for so long."""
    then = time.time() - days * 24 * 3600
    for path in [folder, *folder.rglob("*")]:
        if path.exists():
            os.utime(path, (then, then), follow_symlinks=False)


def bundles(home: Home) -> list[Path]:
    return list((home.path / "uploads").glob("*/*/*"))


def test_what_is_in_use_stays_and_the_rest_goes(fresh_home: Home, tmp_path: Path) -> None:
    home = fresh_home
    project = Project(tmp_path, home)
    project.write("web.py", WEB)
    project.write("text.py", "SAID = 'first'")
    project.write("main.py", APP)
    endpoint = project.result()
    (used,) = bundles(home)
    (environment,) = [path for path in (home.path / "envs").iterdir() if path.is_dir()]
    unused = home.path / "uploads/local/development" / ("0" * 32)
    unused.mkdir()
    (unused / "code.tar.zst").write_bytes(b"x" * 5000)
    left = home.path / "apps/local/development/gone/logs"
    left.mkdir(parents=True)
    (left / "app.log").write_text("said by nobody")
    results = home.path / "raw-data/p"
    results.mkdir(parents=True)
    for name in ("uploads", "envs", "apps", "raw-data"):
        make_old(home.path / name)

    told = home.json("local", "prune", "--dry-run")
    assert told["dry_run"] and unused.exists() and left.exists()
    done = home.json("local", "prune")
    assert [one["name"] for one in done["removed"]] == [one["name"] for one in told["removed"]]
    assert done["freed_bytes"] == told["freed_bytes"] >= 5000
    assert {one["kind"] for one in done["removed"]} == {"bundle", "run"}
    assert not unused.exists() and not left.exists()
    assert used.exists() and environment.exists() and results.exists()
    assert get(endpoint) == (200, json.dumps("first"))

    # The same without a platform, and with everything that is not in use.
    assert home.flyte("delete", "app", "pruned").returncode == 0
    assert home.flyte("local", "stop").returncode == 0
    make_old(home.path / "uploads")
    make_old(home.path / "envs")
    shown = home.flyte("local", "prune", "--all")
    assert shown.returncode == 0, shown.stderr
    assert "environment" in shown.stdout and "was removed" in shown.stdout, shown.stdout
    assert not used.exists() and not environment.exists()
    # What went is made again.
    assert get(project.result()) == (200, json.dumps("first"))


def test_pruning_all_the_time_disturbs_nobody_who_serves(fresh_home: Home, tmp_path: Path) -> None:
    home = fresh_home
    project = Project(tmp_path, home)
    project.write("web.py", WEB)
    project.write("main.py", APP)
    project.write("text.py", "SAID = 'begun'")
    assert get(project.result())[0] == 200
    over = threading.Event()
    failures: list[str] = []

    def prune() -> None:
        while not over.is_set():
            # Bundles of before look old each time, those in use and those that come back included.
            for path in bundles(home):
                make_old(path)
            done = home.flyte("local", "prune", "--all", "--output", "json")
            if done.returncode != 0:
                failures.append(done.stdout + done.stderr)

    pruning = threading.Thread(target=prune)
    pruning.start()
    try:
        # There and back again: a bundle that nobody kept is asked for when it may just be going.
        for number in range(6):
            said = f"text {number % 2}"
            project.write("text.py", f"SAID = {said!r}")
            assert get(project.result()) == (200, json.dumps(said))
    finally:
        over.set()
        pruning.join()
    assert not failures, failures
