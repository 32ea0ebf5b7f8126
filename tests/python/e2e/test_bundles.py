"""Which files reach the app, and how rarely they are sent."""

from __future__ import annotations

import os
import re

import pytest
from support import get, get_json

APP = """
import json, os
import flyte, flyte.app
import web
import helper.words

env = flyte.app.AppEnvironment(name="bundled", include=INCLUDE)

def files():
    found = []
    for folder, _, names in os.walk("."):
        found += [os.path.normpath(os.path.join(folder, name)) for name in names]
    return sorted(name for name in found if "__pycache__" not in name)

@env.server
def server():
    web.serve(lambda path: files())

if __name__ == "__main__":
    import sys
    context = flyte.with_servecontext(copy_style=sys.argv[1])
    print(json.dumps(context.serve(env).endpoint))
"""


@pytest.fixture
def tree(project):
    def make(include: list[str]):
        project.write("main.py", APP.replace("INCLUDE", repr(include)))
        project.write("helper/__init__.py", "")
        project.write("helper/words.py", "WORD = 'x'\n")
        project.write("helper/unused.py", "")
        project.write("data/one.csv", "1")
        project.write("data/two.csv", "2")
        project.write("data/two.txt", "2")
        project.write("notes.md", "n")
        project.write("secret.env", "s")
        project.write("ignored/big.bin", "b")
        project.write(".gitignore", "*.env\n")
        project.write(".flyteignore", "ignored/\n")
        return project

    return make


CODE = ["helper/__init__.py", "helper/words.py", "main.py", "web.py"]


@pytest.mark.parametrize(
    ("style", "include", "expected"),
    [
        ("loaded_modules", [], CODE),
        ("loaded_modules", ["data/*.csv"], [*CODE, "data/one.csv", "data/two.csv"]),
        ("loaded_modules", ["data"], [*CODE, "data/one.csv", "data/two.csv", "data/two.txt"]),
        # Named in full: taken although an ignore rule fits.
        ("loaded_modules", ["secret.env"], [*CODE, "secret.env"]),
        (
            "all",
            [],
            [*CODE, "data/one.csv", "data/two.csv", "data/two.txt", "helper/unused.py", "notes.md"],
        ),
        ("none", ["main.py", "web.py", "helper"], [*CODE, "helper/unused.py"]),
    ],
)
def test_what_the_bundle_holds(tree, style, include, expected):
    answer = get_json(tree(include).result("main.py", style))
    # Ignore files may or may not come along; the parameters are put beside the code.
    seen = [name for name in answer if not name.startswith(".") and name != "flyte-parameters.json"]
    assert seen == sorted(expected)


def test_nothing_is_sent_a_second_time(tree, home):
    project = tree(["data"])
    project.write("data/one.csv", "of this test alone")

    def sent() -> str:
        done = home.flyte("serve", "main.py", cwd=project.folder)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("Bundle")]
        return line

    assert re.search(r"7 files, .* [1-9][\d.]* k?B sent", sent())
    assert "reused, 0 B sent" in sent()
    for path in project.folder.rglob("*.csv"):
        os.utime(path, (1, 1))
    assert "reused, 0 B sent" in sent(), "times are not content"
    project.write("data/one.csv", "changed")
    assert "reused" not in sent()


def test_an_include_that_names_nothing(tree):
    failure = tree(["dta/*.csv"]).failure()
    assert (failure["class"], failure["code"]) == ("ConfigError", "bundle.include_missing")
    assert "`dta/*.csv`" in failure["message"]
    assert any("data" in hint for hint in failure["hints"])


def test_an_include_outside_the_project(tree):
    project = tree(["../outside.txt"])
    (project.folder.parent / "outside.txt").write_text("x")
    failure = project.failure()
    assert (failure["class"], failure["code"]) == ("ConfigError", "bundle.outside_root")
    assert failure["hints"]


def test_modules_of_a_source_folder_are_importable_as_at_home(project):
    project.write("src/package/__init__.py", "")
    project.write("src/package/part.py", "WORD = 'found'\n")
    project.write(
        "src/package/main.py",
        """
        import json
        import flyte, flyte.app
        import web
        from package.part import WORD

        env = flyte.app.AppEnvironment(name="layout")

        @env.server
        def server():
            web.serve(lambda path: WORD)
        """,
    )
    project.write(
        "run.py",
        """
        import sys
        sys.path.insert(0, "src")
        import flyte
        from package.main import env
        print('"' + flyte.serve(env).endpoint + '"')
        """,
    )
    assert get(project.result("run.py")) == (200, '"found"')


def test_the_bundle_is_written_out_on_request(tree, tmp_path_factory):
    project = tree([])
    target = tmp_path_factory.mktemp("bundle") / "code.tar.zst"
    project.write(
        "save.py",
        f"""
        import flyte, main
        flyte.with_servecontext(copy_bundle_to={str(target)!r}).serve(main.env)
        """,
    )
    assert project.run("save.py").returncode == 0
    assert target.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


@pytest.mark.parametrize("form", ["flyte.deploy(top, alone)", "asyncio.run(flyte.deploy.aio(top, alone))"])
def test_deploy_returns_what_was_deployed(project, form):
    project.write(
        "main.py",
        f"""
        import asyncio, json
        import flyte, flyte.app

        args = ["python", "-m", "http.server", "8080"]
        base = flyte.app.AppEnvironment(name="deploy-base", args=args)
        top = flyte.app.AppEnvironment(name="deploy-top", args=args, depends_on=[base])
        alone = flyte.app.AppEnvironment(name="deploy-alone", args=args)

        if __name__ == "__main__":
            deployments = {form}
            assert all(type(one).__name__ == "Deployment" for one in deployments)
            print(json.dumps([
                [list(one.envs), one.url, one.endpoint, one.summary_repr(), one.table_repr()]
                for one in deployments
            ]))
        """,
    )
    told = project.result()
    assert [list(entry[0]) for entry in told] == [["deploy-top", "deploy-base"], ["deploy-alone"]]
    for (name, *_), url, endpoint, summary, table in told:
        assert get(url)[0] == 200
        assert get(endpoint)[0] == 200
        assert summary.startswith(f"{name} revision ")
        assert summary.splitlines()[0].endswith(f" is ACTIVE at {endpoint}")
        assert ["endpoint", endpoint] in table[0]
