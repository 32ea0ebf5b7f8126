"""`flyte bundle`: what would go into a bundle, and why, for people and for programs."""

from __future__ import annotations

import json
import subprocess

import pytest

APP = """
import flyte.app
import helper

env = flyte.app.AppEnvironment(name="told", include=["static/"], args=["true"])
other = flyte.app.AppEnvironment(name="bare", args=["true"])
"""


@pytest.fixture
def flyte(project, home):
    project.write("app.py", APP)
    project.write("helper.py", "def f():\n    import lazy\n")
    project.write("lazy.py", "")
    project.write("unused.py", "")
    project.write("static/x.css", "body {}")
    project.write("static/x.map", "")
    project.write("data/a.csv", "1,2,3")
    project.write("data/.gitignore", "# large\n*.csv\n")
    project.write(".gitignore", "*.map\n")
    return lambda *words, **env: home.flyte(*words, cwd=project.folder, **env)


def listed(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [file["name"] for file in json.loads(done.stdout)["files"]]


def test_ls_shows_names_sizes_and_the_sum(flyte, project):
    done = flyte("bundle", "ls", "app.py", "env")
    assert done.returncode == 0, done.stderr
    heading, *rows, total = done.stdout.splitlines()
    assert heading.split() == ["SIZE", "NAME"]
    assert [row.split()[-1] for row in rows] == ["app.py", "helper.py", "lazy.py", "static/x.css"]
    assert rows[-1].startswith("7 B ")
    size = sum((project.folder / row.split()[-1]).stat().st_size for row in rows)
    assert total == f"4 files, {size} B, from `{project.folder.resolve()}`"


def test_ls_follows_environment_style_and_root(flyte, project):
    assert listed(flyte("bundle", "ls", "app.py", "other", "-o", "json")) == [
        "app.py",
        "helper.py",
        "lazy.py",
    ]
    style = listed(flyte("bundle", "ls", "app.py", "env", "--copy-style", "none", "-o", "json"))
    assert style == ["static/x.css"]
    above = str(project.folder.parent)
    below = listed(flyte("bundle", "ls", "app.py", "env", "--root-dir", above, "-o", "json"))
    assert f"{project.folder.name}/app.py" in below
    document = json.loads(flyte("bundle", "ls", "app.py", "env", "-o", "json").stdout)
    assert document["count"] == 4
    assert document["bytes"] == sum(file["bytes"] for file in document["files"])
    assert document["warnings"] == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["data/a.csv"], "left out: `*.csv` in `data/.gitignore`, line 2"),
        (["unused.py"], "taken: no rule leaves it out"),
        (
            ["unused.py", "app.py", "env"],
            "left out: no module of the bundle imports it, and no `include` entry names it",
        ),
        (["lazy.py", "app.py", "env"], "taken: imported by `helper.py`, line 2"),
        (["app.py", "app.py", "env"], "taken: Python has loaded it"),
        (["static/x.css", "app.py", "env"], "taken: `include` entry `static/`"),
        (
            ["static/x.map", "app.py", "env"],
            "left out: `*.map` in `.gitignore`, line 1 (though `include` entry `static/` is around it)",
        ),
        (["static", "app.py", "env"], "taken: 1 file in it"),
    ],
)
def test_why_names_the_rule(flyte, words, answer):
    done = flyte("bundle", "why", *words)
    assert (done.returncode, done.stdout.strip()) == (0, answer), done.stderr


def test_why_for_programs_and_for_slips(flyte):
    document = json.loads(flyte("bundle", "why", "data/a.csv", "-o", "json").stdout)
    assert document == {
        "name": "data/a.csv",
        "taken": False,
        "reason": "`*.csv` in `data/.gitignore`, line 2",
        "files": 0,
        "bytes": 0,
    }
    done = flyte("bundle", "why", "dta/a.csv")
    assert done.returncode == 2
    assert "/dta/a.csv`" in done.stderr
    assert "did you mean" in done.stderr and "/data`" in done.stderr
    done = flyte("bundle", "why", "app.py", "--copy-style", "none")
    assert done.returncode == 2
    done = flyte("bundle", "why", "/etc/hosts")
    assert done.stdout.startswith("left out: it lies outside the root folder")


def test_what_the_user_hides_from_git_is_not_shipped(flyte, project, tmp_path_factory):
    def answer() -> str:
        return flyte("bundle", "why", "unused.py", GIT_CONFIG_GLOBAL=str(config)).stdout.strip()

    config = tmp_path_factory.mktemp("git") / "config"
    excludes = config.with_name("excludes")
    config.write_text(f"[core]\n\texcludesFile = {excludes}\n")
    excludes.write_text("\nunused.*\n")
    assert answer() == "taken: no rule leaves it out", "there is no repository"
    subprocess.run(["git", "init", "-q"], cwd=project.folder, check=True)
    assert answer() == f"left out: `unused.*` in `{excludes}`, line 2"
    subprocess.run(["git", "add", "-f", "unused.py"], cwd=project.folder, check=True)
    assert answer() == f"taken: tracked by git although `unused.*` in `{excludes}`, line 2 matches"
