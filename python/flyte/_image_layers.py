"""The steps that an image is made of, as values: what `Image.with_*` makes of its arguments.

Nothing here looks at the disk. The core reads these classes by their attributes (`src/py/convert.rs`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from ._image_values import install_options
from ._mistake import IMAGE, wrong_type
from ._secret import Secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._image_values import PathLike

DIST_FOLDER = Path(os.path.abspath(__file__)).parents[2] / "dist"
"""Where a checkout of this project puts the wheels that it builds."""


@dataclass(frozen=True)
class Layer:
    """One step of an image; made by the `with_*` methods of `Image`."""

    kind = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "values" and isinstance(value, (tuple, list)):
                _refuse_nested(type(self).__name__, one.name, value)

    def _paths(self) -> tuple[Path, ...]:
        """The files and folders that must exist for the layer to be built."""
        values = (getattr(self, one.name) for one in fields(self))
        return tuple(value for value in values if isinstance(value, Path))


def _refuse_nested(layer: str, field: str, items: object) -> None:
    if isinstance(items, list):
        raise wrong_type(f"{layer} field '{field}' must be a tuple, got a list", code=IMAGE)
    for index, item in enumerate(items):  # type: ignore[arg-type, var-annotated]
        if isinstance(item, (list, tuple)):
            raise wrong_type(
                f"{layer} field '{field}' contains a {type(item).__name__} at index {index}: {item!r}. "
                "Hint: Pass items as separate arguments, e.g., 'vim', 'git' instead of ['vim', 'git']",
                code=IMAGE,
            )
        if not isinstance(item, (str, Secret)):
            raise wrong_type(
                f"{layer} field '{field}' must hold str, got {type(item)} at index {index}", code=IMAGE
            )


@dataclass(frozen=True, kw_only=True)
class InstallLayer(Layer):
    """What layers that install packages have in common."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    pre: bool = False
    extra_args: str | None = None
    secret_mounts: tuple[Secret, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PipPackages(InstallLayer):
    """Packages by requirement."""

    kind = "pip"
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Requirements(InstallLayer):
    """Packages listed in a requirements file."""

    kind = "requirements"
    file: Path


@dataclass(frozen=True, kw_only=True)
class UVProject(InstallLayer):
    """A project with a `uv.lock`."""

    kind = "uv_project"
    pyproject: Path
    uvlock: Path | None
    project_install_mode: str


@dataclass(frozen=True, kw_only=True)
class PoetryProject(InstallLayer):
    """A project with a `poetry.lock`."""

    kind = "poetry_project"
    pyproject: Path
    poetry_lock: Path
    project_install_mode: str


@dataclass(frozen=True, kw_only=True)
class PixiProject(InstallLayer):
    """A project that pixi manages."""

    kind = "pixi_project"
    manifest: Path
    pixi_lock: Path | None
    environment: str
    project_install_mode: str


@dataclass(frozen=True, kw_only=True)
class UVScript(InstallLayer):
    """A script with a PEP 723 block."""

    kind = "uv_script"
    script: Path


@dataclass(frozen=True, kw_only=True)
class PixiScript(InstallLayer):
    """A script with a PEP 723 block, installed by pixi."""

    kind = "pixi_script"
    script: Path
    environment: str


@dataclass(frozen=True, kw_only=True)
class Wheels(InstallLayer):
    """A wheel of one package, found in a folder."""

    kind = "wheels"
    package: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class AptPackages(Layer):
    """Debian packages."""

    kind = "apt"
    packages: tuple[str, ...]
    secret_mounts: tuple[Secret, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Commands(Layer):
    """Shell commands, run one after the other."""

    kind = "commands"
    commands: tuple[str, ...]
    secret_mounts: tuple[Secret, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Env(Layer):
    """Environment variables, in order."""

    kind = "env_vars"
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class WorkDir(Layer):
    """The working directory."""

    kind = "workdir"
    path: str


@dataclass(frozen=True, kw_only=True)
class SourceFile(Layer):
    """A file that is copied in."""

    kind = "source_file"
    src: Path
    dst: str


@dataclass(frozen=True, kw_only=True)
class SourceFolder(Layer):
    """A folder whose content is copied to `dst`."""

    kind = "source_folder"
    src: Path
    dst: str


@dataclass(frozen=True, kw_only=True)
class CodeBundleLayer(Layer):
    """The user's code, when no bundle is sent."""

    kind = "code_bundle"
    copy_style: str
    dst: str


@dataclass(frozen=True, kw_only=True)
class DockerIgnore(Layer):
    """The ignore file for what is copied in."""

    kind = "dockerignore"
    path: Path


def PythonWheels(
    *, wheel_dir: PathLike, package_name: str, wheel_dir_name: str = "", **options: Any
) -> Wheels:
    """Return the layer for a wheel in a folder, under the name that existing plugins use.

    Args:
        wheel_dir: folder that holds the wheel.
        package_name: name of the package.
        wheel_dir_name: ignored; there for code that passes it.
        options: `index_url`, `extra_index_urls`, `pre`, `extra_args`, `secret_mounts`.
    """
    return Wheels(package=package_name, folder=Path(wheel_dir), **install_options(**options))
