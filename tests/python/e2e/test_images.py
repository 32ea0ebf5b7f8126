"""Images without a container: `flyte build`, `flyte.build`, code inside images, builds that are killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support import get_json

import flyte
import flyte.app
from flyte.errors import BuildError

APPS = """
import flyte, flyte.app

shared = flyte.Image.from_debian_base().with_pip_packages("six")
back = flyte.app.AppEnvironment(name="back", args="python -m http.server 8080", image=shared)
front = flyte.app.AppEnvironment(
    name="front", args="python -m http.server 8080", image=shared, depends_on=[back]
)
other = flyte.app.AppEnvironment(
    name="other",
    args="python -m http.server 8080",
    image=flyte.Image.from_debian_base(name="other").with_env_vars({"A": "a b"}),
)
ready = flyte.app.AppEnvironment(name="ready", args="x", image="registry.example/app:1")
"""


@pytest.fixture
def apps(project):
    project.write("apps.py", APPS)
    return project


def built(project, *words):
    done = project.home.flyte("build", "apps.py", *words, "--output", "json", cwd=project.folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_files_images_are_built_once_and_told(apps):
    planned = built(apps, "--dry-run")
    assert {name: one["state"] for name, one in planned.items()} == {
        "back": "missing",
        "front": "missing",
        "other": "missing",
        "ready": "as it is",
    }
    first = built(apps)
    assert [first[name]["state"] for name in ("back", "front", "other")] == ["built"] * 3
    assert first["back"]["uri"] == first["front"]["uri"] != first["other"]["uri"]
    assert {name: one["uri"] for name, one in first.items()} == {
        name: one["uri"] for name, one in planned.items()
    }
    assert first["other"]["uri"].startswith("env.flyte.local/other:")
    assert first["ready"] == {
        "uri": "registry.example/app:1",
        "builder": None,
        "state": "as it is",
        "why": None,
        "sent": None,
        "notes": [],
    }
    assert {one["state"] for one in built(apps).values()} == {"reused", "as it is"}


def test_one_environment_is_built_with_what_it_depends_on(apps):
    assert set(built(apps, "front")) == {"front", "back"}
    assert set(built(apps, "ready")) == {"ready"}
    done = apps.home.flyte("build", "apps.py", "frunt", cwd=apps.folder)
    assert done.returncode == 2
    assert "did you mean `front`?" in done.stderr


def test_force_builds_again(apps):
    built(apps, "other")
    assert built(apps, "other", "--force")["other"]["state"] == "built"


def test_python_builds_as_the_command_does(apps, home, call):
    uri = built(apps, "other")["other"]["uri"]
    image = flyte.Image.from_debian_base(name="other").with_env_vars({"A": "a b"})
    assert call(flyte.build, image) == flyte.ImageBuild(uri=uri)
    assert call(flyte.build, "registry.example/app:1").uri == "registry.example/app:1"
    env = flyte.app.AppEnvironment(name="env", args="x", image=image)
    assert call(flyte.build_images, env).image_lookup == {"env": uri}
    assert call(flyte.build_images).image_lookup == {}


def test_what_cannot_be_built_is_an_error_with_the_installers_words(home, call):
    image = flyte.Image.from_debian_base().with_pip_packages("no-such-package-of-flyte-rs")
    with pytest.raises(BuildError) as raised:
        call(flyte.build, image)
    assert raised.value.code == "image.build_failed"
    assert "no-such-package-of-flyte-rs" in str(raised.value)
    with pytest.raises(TypeError, match="build takes a flyte.Image, not int"):
        call(flyte.build, 1)
    with pytest.raises(TypeError, match="AppEnvironment"):
        call(flyte.build_images, image)


@pytest.mark.parametrize("style", ["loaded_modules", "all"])
def test_without_a_bundle_the_image_holds_the_code(project, style):
    project.write("helper.py", "WORD = 'baked'\n")
    project.write("data/extra.txt", "extra")
    project.write("data/left.log", "out")
    project.write(".dockerignore", "**/*.log\n")
    project.write(
        "baked.py",
        f"""
        import os, sys
        import flyte, flyte.app
        import helper, web

        image = flyte.Image.from_debian_base(name="baked-{style.replace("_", "-")}")
        env = flyte.app.AppEnvironment(
            name="baked-{style.replace("_", "-")}",
            image=image.with_code_bundle(copy_style="{style}"),
        )

        @env.server
        def serve():
            files = sorted(os.path.relpath(os.path.join(at, name), ".")
                           for at, _, names in os.walk(".", followlinks=True) for name in names)
            web.serve(lambda path: {{"word": helper.WORD, "files": files}})

        if __name__ == "__main__":
            print(flyte.with_servecontext(copy_style="none").serve(env).endpoint)
        """,
    )
    done = project.run("baked.py")
    assert done.returncode == 0, done.stderr
    answer = get_json(done.stdout.strip())
    assert answer["word"] == "baked"
    files = [name for name in answer["files"] if "__pycache__" not in name]
    assert "helper.py" in files
    assert "web.py" in files
    assert ("data/extra.txt" in files) == (style == "all")
    assert "data/left.log" not in files


def test_a_killed_build_leaves_nothing_that_counts(project, home):
    """At ten random moments; the next build makes the environment whole."""
    project.write(
        "killed.py",
        """
        import flyte, flyte.app
        packages = ["six", "idna", "certifi", "urllib3", "packaging", "click", "attrs", "markupsafe"]
        image = flyte.Image.from_debian_base(name="killed").with_pip_packages(*packages)
        env = flyte.app.AppEnvironment(name="killed", args="x", image=image)
        """,
    )
    program = os.path.join(os.path.dirname(sys.executable), "flyte")
    command = [program, "build", "killed.py", "--output", "json"]
    where = {"cwd": project.folder, "env": {**os.environ, "FLYTE_HOME": str(home.path)}}
    began = time.monotonic()
    whole = subprocess.run([*command, "--force"], **where, capture_output=True, text=True, check=True)
    took = time.monotonic() - began
    tag = json.loads(whole.stdout)["killed"]["uri"].rpartition(":")[2]
    folder = home.path / "envs" / tag
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for number in range(10):
        # Not deleted: modules are still being compiled in it.
        folder.rename(home.path / f"gone-{number}")
        process = subprocess.Popen(
            command, **where, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0, took))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = subprocess.run(command, **where, capture_output=True, text=True)
        assert done.returncode == 0, (seed, done.stdout, done.stderr)
        assert json.loads(done.stdout)["killed"]["state"] in ("built", "reused"), seed
        check = "import six, idna, certifi, urllib3, packaging, click, attrs, markupsafe, flyte"
        subprocess.run([folder / "bin" / "python", "-c", check], check=True, cwd="/")


@pytest.fixture(scope="session")
def poetry(tmp_path_factory):
    """The folder of a real Poetry with its export command."""
    folder = tmp_path_factory.mktemp("poetry")
    uv = shutil.which("uv", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    assert uv, "uv is a dependency of the package"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python"]
    subprocess.run([*install, "poetry", "poetry-plugin-export"], check=True)
    return folder / "bin"


@pytest.mark.parametrize("mode", ["dependencies_only", "install_project"])
def test_a_poetry_project_is_installed_by_poetry(project, home, poetry, mode):
    project.write(
        "lib/pyproject.toml",
        """
        [project]
        name = "poetic"
        version = "1"
        requires-python = ">=3.10"
        dependencies = ["six (>=1.16,<1.17)"]
        [build-system]
        requires = ["poetry-core"]
        build-backend = "poetry.core.masonry.api"
        # The simple index, which mirrors have as well; by default Poetry asks PyPI's own JSON.
        [[tool.poetry.source]]
        name = "index"
        url = "https://pypi.org/simple/"
        """,
    )
    project.write("lib/poetic/__init__.py", "VALUE = 1\n")
    subprocess.run([poetry / "poetry", "lock"], cwd=project.folder / "lib", check=True)
    project.write(
        "apps.py",
        f"""
        import flyte, flyte.app
        image = flyte.Image.from_debian_base(name="poetic").with_poetry_project(
            "lib/pyproject.toml", project_install_mode="{mode}"
        )
        env = flyte.app.AppEnvironment(name="env", args="x", image=image)
        """,
    )
    path = f"{poetry}:{os.environ['PATH']}"
    done = home.flyte("build", "apps.py", "--output", "json", cwd=project.folder, PATH=path)
    assert done.returncode == 0, done.stderr
    tag = json.loads(done.stdout)["env"]["uri"].rpartition(":")[2]
    code = "import six, importlib.util as u; print(six.__version__, u.find_spec('poetic') is not None)"
    python = home.path / "envs" / tag / "bin" / "python"
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout
    assert printed.split() == ["1.16.0", str(mode == "install_project")]
