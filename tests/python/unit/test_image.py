"""Image: a value whose layers are what the core reads."""

from __future__ import annotations

import copy
import pickle
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from flyte import Image, Secret
from flyte.errors import BuildError

OPTIONS = {"index_url": None, "extra_index_urls": (), "pre": False, "extra_args": None, "secret_mounts": ()}


def shape(image):
    """The layers as plain data: (kind, fields)."""
    return [(one.kind, {f.name: getattr(one, f.name) for f in fields(one)}) for one in image._layers]


@pytest.fixture
def project(tmp_path):
    for name in (
        "pyproject.toml",
        "uv.lock",
        "poetry.lock",
        "pixi.toml",
        "pixi.lock",
        "requirements.txt",
        "s.py",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / "s.py").write_text("# /// script\n# dependencies = []\n# ///\n")
    (tmp_path / "Dockerfile").write_text("FROM x")
    (tmp_path / "src").mkdir()
    return tmp_path


def test_no_direct_instantiation():
    with pytest.raises(TypeError, match="Direct instantiation of Image not allowed"):
        Image()


def test_debian_base():
    image = Image.from_debian_base()
    version = sys.version_info[:2]
    assert image.base_image == f"python:{version[0]}.{version[1]}-slim-bookworm"
    assert (image.name, image.registry, image.dockerfile) == ("flyte", None, None)
    assert image.python_version == version and image._python_is_explicit is False
    assert image.platform == ("linux/amd64", "linux/arm64") and image.extendable is True
    assert image._is_cloned is True and image._install_flyte is True and image._base_kind == "debian"
    assert Image.from_debian_base(install_flyte=False)._install_flyte is False


def test_debian_base_options():
    image = Image.from_debian_base(
        "3.12", registry="r", registry_secret="my-key", name="n", platform="linux/arm64"
    )
    assert image.base_image == "python:3.12-slim-bookworm" and image._python_is_explicit is True
    assert image == Image.from_debian_base(
        (3, 12), registry="r", registry_secret=Secret("my-key"), name="n", platform=("linux/arm64",)
    )
    assert Image.from_debian_base(registry_secret="k")._registry_secret == Secret("k")
    with pytest.warns(UserWarning, match="flyte_version='2.0' is ignored"):
        Image.from_debian_base(flyte_version="2.0")


@pytest.mark.parametrize(
    ("version", "kind"),
    [((3, 9), ValueError), ((2, 7), ValueError), ("3", ValueError), ("3.x", ValueError), ((3, 12, 1), ValueError),
     (("3", "12"), ValueError), (3.12, TypeError)],
)  # fmt: skip
def test_bad_python_versions(version, kind):
    with pytest.raises(kind, match="python_version"):
        Image.from_debian_base(version)


@pytest.mark.parametrize("platform", ["linux/mips", ("linux/amd64", "windows")])
def test_bad_platforms(platform):
    with pytest.raises(ValueError, match="platform must be among"):
        Image.from_debian_base(platform=platform)


def test_from_base_is_a_pointer_until_it_is_cloned():
    image = Image.from_base("r/x:1")
    assert image.uri == "r/x:1" and image._is_cloned is False and image.extendable is False
    assert image.platform == ("linux/amd64",)
    with pytest.raises(ValueError, match=r"non-extendable image.*extendable=True in the clone\(\) call"):
        image.with_pip_packages("a")
    with pytest.raises(ValueError, match=r"to an image without name. Please first clone\(\)"):
        image.clone(extendable=True).with_pip_packages("a")
    extended = image.clone(extendable=True, name="n").with_pip_packages("a")
    assert extended._is_cloned and extended.base_image == "r/x:1" and len(extended._layers) == 1
    for empty in (None, "", 3):
        with pytest.raises(ValueError, match="non-empty str"):
            Image.from_base(empty)


def test_from_dockerfile(project):
    image = Image.from_dockerfile(str(project / "Dockerfile"), "r", "n", platform="linux/arm64")
    assert (
        image.dockerfile == project / "Dockerfile" and image._is_cloned and image.platform == ("linux/arm64",)
    )
    with pytest.raises(ValueError, match="non-extendable"):
        image.with_workdir("/x")
    with pytest.raises(ValueError, match="cannot add additional layers to a Dockerfile-based Image"):
        image.clone(extendable=True).with_workdir("/x")
    with pytest.raises(FileNotFoundError, match="no Dockerfile"):
        Image.from_dockerfile(project / "nope", "r", "n")


def test_from_ref_name():
    image = Image.from_ref_name()
    assert image._ref_name == "default" and image.base_image is None and image._is_cloned is False
    with pytest.raises(BuildError, match="`default` has no URI"):
        image.uri


def test_uri_holds_the_content_hash_once(native):
    asked = []
    native.image_tag = lambda image: asked.append(image) or "abc"
    image = Image.from_debian_base(registry="ghcr.io/me", name="n")
    assert image.uri == image.uri == "ghcr.io/me/n:abc" and len(asked) == 1
    assert Image.from_debian_base().uri == "flyte:abc"
    forced = Image.from_debian_base()
    object.__setattr__(forced, "_tag", "mine")
    assert forced.uri == "flyte:mine"
    with pytest.raises(BuildError, match="no name"):
        Image.from_base("x").clone(extendable=True).uri


def test_images_are_values():
    first, second = (
        Image.from_debian_base().with_pip_packages("a").with_env_vars({"A": "b"}) for _ in range(2)
    )
    assert first == second and hash(first) == hash(second)
    assert first != first.with_workdir("/x") and len(first._layers) == 2
    assert pickle.loads(pickle.dumps(first)) == copy.deepcopy(first) == first
    with pytest.raises(AttributeError):
        first.name = "x"


def test_clone():
    image = Image.from_debian_base("3.11", name="n")
    clone = image.clone(registry="r", registry_secret="k", platform="linux/arm64", python_version=(3, 13))
    assert (clone.registry, clone.name, clone._registry_secret) == ("r", "n", Secret("k"))
    assert clone.platform == ("linux/arm64",) and clone.base_image == "python:3.13-slim-bookworm"
    assert clone.extendable is True and image.clone(extendable=False).extendable is False
    rebased = image.clone(base_image="x:1", python_version="3.12")
    assert rebased.clone(python_version="3.13").base_image == "x:1" and rebased._base_kind == "uri"
    assert image.clone() == image
    with pytest.raises(ValueError, match="python_version"):
        image.clone(python_version="3.9")


def test_package_layers(project):
    options = {
        "index_url": "https://i",
        "extra_index_urls": "https://e",
        "pre": True,
        "extra_args": "--x",
        "secret_mounts": "tok",
    }
    stored = {**options, "extra_index_urls": ("https://e",), "secret_mounts": (Secret("tok"),)}
    base = Image.from_debian_base()
    pyproject, lock = project / "pyproject.toml", project / "uv.lock"
    image = (
        base.with_pip_packages("a", "b==1", **options)
        .with_requirements(project / "requirements.txt", **options)
        .with_uv_project(str(pyproject), **options)
        .with_uv_project(
            pyproject, uvlock=lock, extra_index_urls=["u", "v"], project_install_mode="install_project"
        )
    )
    assert shape(image) == [
        ("pip", {**stored, "packages": ("a", "b==1")}),
        ("requirements", {**stored, "file": project / "requirements.txt"}),
        ("uv_project", {**stored, "pyproject": pyproject, "uvlock": lock, "project_install_mode": "dependencies_only"}),
        ("uv_project", {**OPTIONS, "extra_index_urls": ("u", "v"), "pyproject": pyproject, "uvlock": lock,
                        "project_install_mode": "install_project"}),
    ]  # fmt: skip
    assert base._layers == ()


def test_project_layers_of_other_tools(project):
    image = (
        Image.from_debian_base()
        .with_poetry_project(project / "pyproject.toml", extra_args="--x")
        .with_pixi_project(project)
        .with_pixi_project(project / "pyproject.toml", environment="gpu")
    )
    mode = {"project_install_mode": "dependencies_only"}
    pixi = {**OPTIONS, **mode, "pixi_lock": project / "pixi.lock"}
    assert shape(image) == [
        ("poetry_project", {**OPTIONS, **mode, "extra_args": "--x", "pyproject": project / "pyproject.toml",
                            "poetry_lock": project / "poetry.lock"}),
        ("pixi_project", {**pixi, "manifest": project / "pixi.toml", "environment": "default"}),
        ("pixi_project", {**pixi, "manifest": project / "pyproject.toml", "environment": "gpu"}),
    ]  # fmt: skip


def test_script_images(project):
    image = Image.from_uv_script(
        project / "s.py", name="n", python_version="3.12", pre=True, registry_secret="k"
    )
    assert shape(image) == [("uv_script", {**OPTIONS, "pre": True, "script": project / "s.py"})]
    assert image._install_flyte is False and image.name == "n" and image._python_is_explicit
    pixi = Image.from_pixi_script(str(project / "s.py"), name="n", environment="e")
    assert shape(pixi) == [("pixi_script", {**OPTIONS, "script": project / "s.py", "environment": "e"})]


def test_other_layers(project):
    image = (
        Image.from_debian_base()
        .with_apt_packages("git", "vim", secret_mounts=["a"])
        .with_commands("echo one command")
        .with_commands(["a", "b"])
        .with_env_vars({"A": "b c", "N": 1})
        .with_workdir("/app")
        .with_source_file([project / "s.py", project / "uv.lock"], "/x")
        .with_source_folder(str(project / "src"))
        .with_source_folder(project / "src", copy_contents_only=True)
        .with_source_folder(project / "src", "/opt")
        .with_code_bundle("all", "/code")
        .with_dockerignore(project / "uv.lock")
    )
    assert shape(image) == [
        ("apt", {"packages": ("git", "vim"), "secret_mounts": (Secret("a"),)}),
        ("commands", {"commands": ("echo one command",), "secret_mounts": ()}),
        ("commands", {"commands": ("a", "b"), "secret_mounts": ()}),
        ("env_vars", {"values": (("A", "b c"), ("N", "1"))}),
        ("workdir", {"path": "/app"}),
        ("source_file", {"src": project / "s.py", "dst": "/x"}),
        ("source_file", {"src": project / "uv.lock", "dst": "/x"}),
        ("source_folder", {"src": project / "src", "dst": "./src"}),
        ("source_folder", {"src": project / "src", "dst": "."}),
        ("source_folder", {"src": project / "src", "dst": "/opt"}),
        ("code_bundle", {"copy_style": "all", "dst": "/code"}),
        ("dockerignore", {"path": project / "uv.lock"}),
    ]


def test_local_wheels():
    from flyte._image import DIST_FOLDER, PythonWheels

    base = Image.from_debian_base()
    assert base.with_local_v2() == base.with_local_rs_controller() == base.with_local_v2_plugins() == base
    layer = {**OPTIONS, "package": "flyteplugins-x", "folder": DIST_FOLDER}
    assert shape(base.with_local_v2_plugins("flyteplugins-x")) == [("wheels", layer)]
    assert len(base.with_local_v2_plugins(["flyteplugins-x", "flyteplugins-y"])._layers) == 2
    assert base.clone(addl_layer=PythonWheels(wheel_dir=DIST_FOLDER, package_name="flyteplugins-x")) == (
        base.with_local_v2_plugins("flyteplugins-x")
    )
    with pytest.raises(ValueError, match="flyteplugins-"):
        base.with_local_v2_plugins("other")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda i: i.with_pip_packages(["a"]), "PipPackages field 'packages' contains a list at index 0.*Hint: Pass"),
        (lambda i: i.with_pip_packages("x", ("a",)), "PipPackages field 'packages' contains a tuple at index 1"),
        (lambda i: i.with_apt_packages(["git"]), "AptPackages field 'packages' contains a list at index 0"),
        (lambda i: i.with_commands([["a"]]), "Commands field 'commands' contains a list at index 0"),
        (lambda i: i.with_commands([1]), "must hold str"),
        (lambda i: i.with_pip_packages("a", extra_index_urls=[["u"]]), "extra_index_urls' contains a list"),
        (lambda i: i.with_env_vars([("A", "b")]), "Expected env_vars"),
        (lambda i: i.with_env_vars({1: "b"}), "Expected env_vars"),
        (lambda i: i.with_pip_packages("a", secret_mounts=1), "SecretRequest"),
        (lambda i: i.with_pip_packages("a", extra_args=("--pre",)), "extra_args must be a str"),
        (lambda i: i.with_pip_packages("a", index_url=1), "index_url must be a str"),
        (lambda i: i.with_pip_packages("a", pre="yes"), "pre must be a bool"),
        (lambda i: i.with_workdir(1), "workdir must be a str"),
    ],
)  # fmt: skip
def test_lists_and_other_types_in_layers(add, message):
    with pytest.raises(TypeError, match=message):
        add(Image.from_debian_base())


MISSING = [
    (lambda i, p: i.with_requirements(p / "no.txt"), FileNotFoundError),
    (lambda i, p: i.with_uv_project(p / "no.toml"), FileNotFoundError),
    (lambda i, p: i.with_uv_project(p / "pyproject.toml", uvlock=p / "no.lock"), ValueError),
    (lambda i, p: i.with_poetry_project(p / "src" / "pyproject.toml"), FileNotFoundError),
    (lambda i, p: i.with_pixi_project(p / "src" / "pixi.toml"), FileNotFoundError),
    (lambda i, p: i.with_source_file(p / "no"), FileNotFoundError),
    (lambda i, p: i.with_source_folder(p / "no"), FileNotFoundError),
    (lambda i, p: i.with_source_folder(p / "s.py"), NotADirectoryError),
    (lambda i, p: i.with_dockerignore(p / "no"), FileNotFoundError),
    (lambda i, p: Image.from_uv_script(p / "no.py", name="n"), FileNotFoundError),
    (lambda i, p: Image.from_pixi_script(p / "no.py", name="n"), FileNotFoundError),
    (lambda i, p: Image.from_dockerfile(p / "no", "r", "n"), FileNotFoundError),
]


@pytest.mark.parametrize(("declare", "kind"), MISSING)
def test_missing_files_are_told_at_declaration_but_not_in_a_replica(project, monkeypatch, declare, kind):
    with pytest.raises(kind):
        declare(Image.from_debian_base(), project)
    monkeypatch.setenv("_FLYTE_IN_REPLICA", "1")
    assert isinstance(declare(Image.from_debian_base(), project), Image)


def test_locks_without_a_file(project):
    (project / "uv.lock").unlink()
    (project / "poetry.lock").unlink()
    base = Image.from_debian_base()
    assert base.with_uv_project(project / "pyproject.toml")._layers[0].uvlock is None
    with pytest.raises(ValueError, match="no lock file"):
        base.with_poetry_project(project / "pyproject.toml")


BLOCK = "# /// script\n# {}\n# ///\n"


def header(folder, text):
    (folder / "header.py").write_text(text)
    return folder / "header.py"


def test_a_header_that_is_right_is_taken(project):
    text = '#!/usr/bin/env python\n# /// script\n# requires-python = ">=3.11,<4"\n#\n# dependencies = ["a"]\n# ///\nx = 1\n'
    assert Image.from_uv_script(header(project, text), name="n")._layers[0].script == project / "header.py"


def test_a_folder_is_no_file(project):
    with pytest.raises(IsADirectoryError, match="with_source_folder"):
        Image.from_debian_base().with_source_file(project / "src")


def test_a_registrys_secret_that_nobody_uses_is_told():
    with pytest.warns(UserWarning, match="docker login"):
        Image.from_debian_base(registry_secret="k")


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda i, p: i.with_requirements(p / "s.py"), r"must be a `\.txt` file"),
        (lambda i, p: Image.from_uv_script(p / "uv.lock", name="n"), r"must be a `\.py` file"),
        (
            lambda i, p: i.with_source_file([p / "s.py", p / "src" / ".." / "s.py"]),
            "would overwrite each other",
        ),
        (lambda i, p: i.with_pixi_project(p / "uv.lock"), "must be called pixi.toml"),
        (
            lambda i, p: i.with_uv_project(p / "pyproject.toml", project_install_mode="x"),
            "project_install_mode",
        ),
        (lambda i, p: i.with_code_bundle("none"), "copy_style must be"),
        (lambda i, p: i.with_env_vars({"A B": "x"}), "letters, digits"),
        (lambda i, p: i.with_env_vars({"A=B": "x"}), "letters, digits"),
        (lambda i, p: i.with_env_vars({"A\nRUN rm": "x"}), "letters, digits"),
        (lambda i, p: i.with_env_vars({"A": "x\nUSER 0"}), "`A` has several lines"),
        (lambda i, p: i.with_workdir("/app\nUSER 0"), "workdir must be the path"),
        (lambda i, p: i.with_workdir(" "), "workdir must be the path"),
        (lambda i, p: i.with_source_file(p / "s.py", "/x\n"), "dst must be the path"),
        (lambda i, p: i.with_apt_packages("git curl"), "separate arguments"),
        (lambda i, p: i.with_pip_packages("a", extra_args="--x 'a"), "quote that is not closed"),
        (lambda i, p: Image.from_debian_base(name="My App"), "is lower case"),
        (lambda i, p: i.clone(name="app:1"), "is lower case"),
        (lambda i, p: i.clone(registry="https://ghcr.io"), "written like"),
        (lambda i, p: Image.from_uv_script(header(p, "x = 1\n"), name="n"), "no `# /// script` block"),
        (lambda i, p: Image.from_uv_script(header(p, BLOCK.format("x =")), name="n"), "not valid TOML"),
        (
            lambda i, p: Image.from_uv_script(header(p, BLOCK.format("requires-python = 'soon'")), name="n"),
            "'soon'",
        ),
    ],
)
def test_bad_values(project, declare, message):
    with pytest.raises(ValueError, match=message):
        declare(Image.from_debian_base(), project)


def test_paths_do_not_follow_the_working_directory(project, monkeypatch):
    monkeypatch.chdir(project)
    image = Image.from_debian_base().with_requirements("requirements.txt")
    assert image._layers[0].file == project / "requirements.txt"


def test_validate_looks_again(project):
    image = Image.from_debian_base().with_requirements(project / "requirements.txt")
    image.validate()
    Path(project / "requirements.txt").unlink()
    with pytest.raises(FileNotFoundError):
        image.validate()
