"""`Image`: what an app needs to be installed, declared layer by layer.

An image is a value: frozen, comparable, and every `with_*` returns a new one. Nothing is built,
hashed or fetched here. The layers are values as well (`_image_layers`), and what may be written in
several forms has one from `_image_values`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from . import _image_values as checked
from ._image_layers import (
    DIST_FOLDER,
    AptPackages,
    CodeBundleLayer,
    Commands,
    DockerIgnore,
    Env,
    Layer,
    PipPackages,
    PixiProject,
    PixiScript,
    PoetryProject,
    Requirements,
    SourceFile,
    SourceFolder,
    UVProject,
    UVScript,
    Wheels,
    WorkDir,
)
from ._image_layers import PythonWheels as PythonWheels
from ._mistake import IMAGE, mistake, no_file, no_folder, wrong_type
from ._replica import in_replica
from ._secret import Secret, as_secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from ._image_values import PathLike
    from ._secret import SecretRequest

    Architecture = Literal["linux/amd64", "linux/arm64"]
    Platform = Architecture | tuple[Architecture, ...]
    InstallMode = Literal["dependencies_only", "install_project"]
    PythonVersion = tuple[int, int] | str


@dataclass(frozen=True, init=False)
class Image:
    """What an app needs to be installed; made by one of the `from_*` methods.

    Args:
        base_image: URI of the image that the layers start from.
        dockerfile: a user's Dockerfile instead.
        registry: registry to push to.
        name: last part of the repository, without registry or tag.
        platform: `linux/amd64`, `linux/arm64` or both.
        python_version: such as `(3, 12)`.
        extendable: whether layers may be added.

    Example:
        >>> image = Image.from_debian_base(python_version="3.12").with_pip_packages("fastapi")
        >>> image.base_image, image.python_version
        ('python:3.12-slim-bookworm', (3, 12))
    """

    base_image: str | None
    dockerfile: Path | None
    registry: str | None
    name: str | None
    platform: tuple[str, ...]
    python_version: tuple[int, int]
    extendable: bool
    _is_cloned: bool
    _ref_name: str | None
    _layers: tuple[Layer, ...]
    _registry_secret: Secret | None
    _python_is_explicit: bool
    _platform_is_explicit: bool
    _install_flyte: bool
    _base_kind: str

    # Not part of the value: code that forces a tag sets this with `object.__setattr__`.
    _tag = None

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise wrong_type(
            "Direct instantiation of Image not allowed, "
            "please use one of the various from_...() methods instead",
            "for instance `Image.from_debian_base()`",
            code=IMAGE,
        )

    @classmethod
    def _make(cls, base_kind: str, **values: Any) -> Image:
        image = object.__new__(cls)
        given = {
            **dict.fromkeys(
                ("base_image", "dockerfile", "registry", "name", "_ref_name", "_registry_secret")
            ),
            "platform": ("linux/amd64",),
            "python_version": sys.version_info[:2],
            "extendable": False,
            "_is_cloned": True,
            "_layers": (),
            "_python_is_explicit": False,
            "_platform_is_explicit": False,
            "_install_flyte": False,
            "_base_kind": base_kind,
            **values,
        }
        for name, value in given.items():
            object.__setattr__(image, name, value)
        return image

    # -- where an image starts

    @classmethod
    def from_debian_base(
        cls,
        python_version: PythonVersion | None = None,
        flyte_version: str | None = None,
        install_flyte: bool = True,
        registry: str | None = None,
        registry_secret: str | Secret | None = None,
        name: str | None = None,
        platform: Platform | None = None,
    ) -> Image:
        """Return an image of Debian with Python and, unless told otherwise, this package.

        Args:
            python_version: `(3, 12)` or `"3.12"`; the running interpreter's by default.
            flyte_version: ignored with a warning; an image carries the version that declares it.
            install_flyte: whether this package is installed.
            registry: registry to push to.
            registry_secret: ignored with a warning; the cluster itself has to be given what it pulls with.
            name: last part of the repository; `flyte` by default.
            platform: one platform or several; both known ones by default.

        Raises:
            TypeError: a Python version that is neither a pair of ints nor text.
            ValueError: a Python version below 3.10, or an unknown platform.
        """
        if flyte_version is not None:
            import warnings

            warnings.warn(
                f"flyte_version={flyte_version!r} is ignored: an image carries the flyte that declares it",
                UserWarning,
                stacklevel=2,
            )
        return cls._recipe(
            python_version, install_flyte, registry, registry_secret, name or "flyte", platform
        )

    @classmethod
    def _recipe(
        cls,
        python_version: PythonVersion | None,
        install_flyte: bool,
        registry: str | None,
        registry_secret: str | Secret | None,
        name: str,
        platform: Platform | None,
    ) -> Image:
        version = sys.version_info[:2] if python_version is None else checked.python_version(python_version)
        return cls._make(
            "debian",
            base_image=_debian(version),
            name=checked.name(name),
            registry=checked.registry(registry),
            platform=checked.platforms(platform) if platform else checked.PLATFORMS,
            _platform_is_explicit=bool(platform),
            python_version=version,
            extendable=True,
            _registry_secret=checked.secret(registry_secret),
            _python_is_explicit=python_version is not None,
            _install_flyte=install_flyte,
        )

    @classmethod
    def from_base(cls, image_uri: str) -> Image:
        """Return an image that exists already; it is neither built nor checked.

        To add layers, first call `.clone(name=..., extendable=True)`.

        Raises:
            ValueError: no text.
        """
        if not isinstance(image_uri, str) or not image_uri:
            raise mistake(
                f"the URI of an image must be a non-empty str, got {image_uri!r}",
                "`Image.from_debian_base()` needs no URI",
                code=IMAGE,
            )
        return cls._make("uri", base_image=image_uri, _is_cloned=False)

    @classmethod
    def from_dockerfile(
        cls, file: PathLike, registry: str | None, name: str, platform: Platform | None = None
    ) -> Image:
        """Return an image that a Dockerfile builds, with the file's folder as context.

        Args:
            file: the Dockerfile.
            registry: registry to push to.
            name: last part of the repository.
            platform: one platform or several; `linux/amd64` by default.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: unknown platform.
        """
        return cls._make(
            "dockerfile",
            dockerfile=checked.file(file, "Dockerfile"),
            registry=checked.registry(registry),
            name=checked.name(name),
            platform=checked.platforms(platform or "linux/amd64"),
            _platform_is_explicit=bool(platform),
        )

    @classmethod
    def from_ref_name(cls, name: str = "default") -> Image:
        """Return a placeholder for the image that the configuration calls `name`.

        Raises:
            ValueError: no text.
        """
        if not isinstance(name, str) or not name:
            raise mistake(
                f"the name of an image must be a non-empty str, got {name!r}",
                "the name is what `flyte serve --image NAME=URI` and the configuration call it",
                code=IMAGE,
            )
        return cls._make("ref", _ref_name=name, _is_cloned=False)

    @classmethod
    def from_uv_script(
        cls,
        script: PathLike,
        *,
        name: str,
        registry: str | None = None,
        registry_secret: str | Secret | None = None,
        python_version: PythonVersion | None = None,
        index_url: str | None = None,
        extra_index_urls: str | list[str] | tuple[str, ...] | None = None,
        pre: bool = False,
        extra_args: str | None = None,
        platform: Platform | None = None,
        secret_mounts: SecretRequest | None = None,
    ) -> Image:
        """Return an image with what the PEP 723 block of a script lists.

        Args:
            script: a `.py` file, often `__file__`.
            name: last part of the repository.
            registry: registry to push to.
            registry_secret: ignored with a warning; the cluster itself has to be given what it pulls with.
            python_version: narrows the script's `requires-python`.
            index_url: index to use instead of PyPI.
            extra_index_urls: more indexes.
            pre: whether pre-releases are allowed.
            extra_args: raw text for the installer.
            platform: one platform or several; both known ones by default.
            secret_mounts: secrets that the installer may read.

        Raises:
            FileNotFoundError: there is no such script.
            ValueError: not a `.py` file, or one without a valid block.
        """
        layer = UVScript(
            script=checked.script(script),
            **checked.install_options(index_url, extra_index_urls, pre, extra_args, secret_mounts),
        )
        image = cls._recipe(python_version, False, registry, registry_secret, name, platform)
        return image.clone(addl_layer=layer)

    @classmethod
    def from_pixi_script(
        cls,
        script: PathLike,
        *,
        name: str,
        registry: str | None = None,
        registry_secret: str | Secret | None = None,
        environment: str = "default",
        extra_args: str | None = None,
        platform: Platform | None = None,
        secret_mounts: SecretRequest | None = None,
    ) -> Image:
        """Return an image with what the PEP 723 block of a script lists, installed by pixi.

        Args:
            script: a `.py` file, often `__file__`.
            name: last part of the repository.
            registry: registry to push to.
            registry_secret: ignored with a warning; the cluster itself has to be given what it pulls with.
            environment: environment of pixi.
            extra_args: raw text for pixi.
            platform: one platform or several; both known ones by default.
            secret_mounts: secrets that the installer may read.

        Raises:
            FileNotFoundError: there is no such script.
            ValueError: not a `.py` file, or one without a valid block.
        """
        layer = PixiScript(
            script=checked.script(script),
            environment=environment,
            **checked.install_options(extra_args=extra_args, secret_mounts=secret_mounts),
        )
        return cls._recipe(None, False, registry, registry_secret, name, platform).clone(addl_layer=layer)

    # -- changing an image

    def clone(
        self,
        registry: str | None = None,
        registry_secret: str | Secret | None = None,
        name: str | None = None,
        base_image: str | None = None,
        python_version: PythonVersion | None = None,
        addl_layer: Layer | None = None,
        extendable: bool | None = None,
        platform: Platform | None = None,
    ) -> Image:
        """Return an image like this one with some fields set anew; `None` keeps a field.

        Args:
            registry: registry to push to.
            registry_secret: ignored with a warning; the cluster itself has to be given what it pulls with.
            name: last part of the repository.
            base_image: URI to start from.
            python_version: `(3, 12)` or `"3.12"`.
            addl_layer: a layer to add at the end.
            extendable: whether layers may be added.
            platform: one platform or several.

        Raises:
            ValueError: a layer for an image that takes none: not extendable, made from a
                Dockerfile, or without a name.
        """
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        given = {
            "registry": checked.registry(registry),
            "name": checked.name(name),
            "_registry_secret": checked.secret(registry_secret),
        }
        values.update({field: value for field, value in given.items() if value})
        values["_is_cloned"] = True
        if extendable is not None:
            values["extendable"] = extendable
        if platform:
            values.update(platform=checked.platforms(platform), _platform_is_explicit=True)
        if python_version:
            version = checked.python_version(python_version)
            values.update(python_version=version, _python_is_explicit=True)
            if self._base_kind == "debian":
                values["base_image"] = _debian(version)
        if base_image:
            values.update(base_image=base_image, _base_kind="uri")
        if addl_layer is not None:
            _check_takes_layers(addl_layer, values)
            values["_layers"] = (*self._layers, addl_layer)
        return self._make(values.pop("_base_kind"), **values)

    def with_pip_packages(
        self,
        *packages: str,
        index_url: str | None = None,
        extra_index_urls: str | list[str] | tuple[str, ...] | None = None,
        pre: bool = False,
        extra_args: str | None = None,
        secret_mounts: SecretRequest | None = None,
    ) -> Image:
        """Return the image with packages from an index.

        Args:
            packages: requirements, such as `"fastapi"` or `"torch==2.4"`.
            index_url: index to use instead of PyPI.
            extra_index_urls: more indexes.
            pre: whether pre-releases are allowed.
            extra_args: raw text for the installer.
            secret_mounts: secrets that the installer may read.

        Raises:
            TypeError: a list among the packages.

        Example:
            >>> Image.from_debian_base().with_pip_packages("fastapi", "uvicorn")._layers[0].packages
            ('fastapi', 'uvicorn')
        """
        options = checked.install_options(index_url, extra_index_urls, pre, extra_args, secret_mounts)
        return self.clone(addl_layer=PipPackages(packages=packages, **options))

    def with_requirements(
        self,
        file: PathLike,
        index_url: str | None = None,
        extra_index_urls: str | list[str] | tuple[str, ...] | None = None,
        pre: bool = False,
        extra_args: str | None = None,
        secret_mounts: SecretRequest | None = None,
    ) -> Image:
        """Return the image with the packages of a requirements file.

        Args:
            file: a `.txt` file.
            index_url: index to use instead of PyPI.
            extra_index_urls: more indexes.
            pre: whether pre-releases are allowed.
            extra_args: raw text for the installer.
            secret_mounts: secrets that the installer may read.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not a `.txt` file.
        """
        options = checked.install_options(index_url, extra_index_urls, pre, extra_args, secret_mounts)
        layer = Requirements(file=checked.file(file, "requirements file", ".txt"), **options)
        return self.clone(addl_layer=layer)

    def with_uv_project(
        self,
        pyproject_file: PathLike,
        uvlock: PathLike | None = None,
        index_url: str | None = None,
        extra_index_urls: str | list[str] | tuple[str, ...] | None = None,
        pre: bool = False,
        extra_args: str | None = None,
        secret_mounts: SecretRequest | None = None,
        project_install_mode: InstallMode = "dependencies_only",
    ) -> Image:
        """Return the image with a uv project, or with what it depends on.

        Args:
            pyproject_file: its `pyproject.toml`.
            uvlock: its lock; by default the `uv.lock` beside it, if there is one.
            index_url: index to use instead of PyPI.
            extra_index_urls: more indexes.
            pre: whether pre-releases are allowed.
            extra_args: raw text for `uv sync`.
            secret_mounts: secrets that the installer may read.
            project_install_mode: `"install_project"` also installs the project itself.

        Raises:
            FileNotFoundError: there is no such project.
            ValueError: there is no such lock, or the mode is unknown.
        """
        pyproject = checked.file(pyproject_file, "pyproject file")
        layer = UVProject(
            pyproject=pyproject,
            uvlock=checked.lock(uvlock, pyproject, "uv.lock"),
            project_install_mode=checked.install_mode(project_install_mode),
            **checked.install_options(index_url, extra_index_urls, pre, extra_args, secret_mounts),
        )
        return self.clone(addl_layer=layer)

    def with_poetry_project(
        self,
        pyproject_file: PathLike,
        poetry_lock: PathLike | None = None,
        extra_args: str | None = None,
        secret_mounts: SecretRequest | None = None,
        project_install_mode: InstallMode = "dependencies_only",
    ) -> Image:
        """Return the image with a Poetry project, or with what it depends on.

        Args:
            pyproject_file: its `pyproject.toml`.
            poetry_lock: its lock; by default the `poetry.lock` beside it.
            extra_args: raw text for `poetry install`.
            secret_mounts: secrets that the installer may read.
            project_install_mode: `"install_project"` also installs the project itself.

        Raises:
            FileNotFoundError: there is no such project.
            ValueError: there is no lock, or the mode is unknown.
        """
        pyproject = checked.file(pyproject_file, "pyproject file")
        lock = checked.lock(poetry_lock, pyproject, "poetry.lock", required=True)
        assert lock is not None
        layer = PoetryProject(
            pyproject=pyproject,
            poetry_lock=lock,
            project_install_mode=checked.install_mode(project_install_mode),
            **checked.install_options(extra_args=extra_args, secret_mounts=secret_mounts),
        )
        return self.clone(addl_layer=layer)

    def with_pixi_project(
        self,
        manifest_file: PathLike,
        pixi_lock: PathLike | None = None,
        environment: str = "default",
        extra_args: str | None = None,
        secret_mounts: SecretRequest | None = None,
        project_install_mode: InstallMode = "dependencies_only",
    ) -> Image:
        """Return the image with a pixi project, or with what it depends on.

        Args:
            manifest_file: `pixi.toml` or `pyproject.toml`, or the folder of one.
            pixi_lock: its lock; by default the `pixi.lock` beside it, if there is one.
            environment: environment of pixi.
            extra_args: raw text for `pixi install`.
            secret_mounts: secrets that the installer may read.
            project_install_mode: `"install_project"` also installs the project itself.

        Raises:
            FileNotFoundError: there is no such manifest.
            ValueError: a manifest of another name, no such lock, or an unknown mode.
        """
        manifest = checked.pixi_manifest(manifest_file)
        layer = PixiProject(
            manifest=manifest,
            pixi_lock=checked.lock(pixi_lock, manifest, "pixi.lock"),
            environment=environment,
            project_install_mode=checked.install_mode(project_install_mode),
            **checked.install_options(extra_args=extra_args, secret_mounts=secret_mounts),
        )
        return self.clone(addl_layer=layer)

    def with_apt_packages(self, *packages: str, secret_mounts: SecretRequest | None = None) -> Image:
        """Return the image with Debian packages.

        Args:
            packages: names of packages.
            secret_mounts: secrets that the installer may read.

        Raises:
            TypeError: a list among the packages.
            ValueError: a name with a space.
        """
        secrets = as_secrets(secret_mounts, "secret_mounts")
        for package in packages:
            if isinstance(package, str) and (not package or package.split() != [package]):
                raise mistake(
                    f"the name of a Debian package holds no space, got {package!r}",
                    "pass several as separate arguments",
                    code=IMAGE,
                )
        return self.clone(addl_layer=AptPackages(packages=packages, secret_mounts=secrets))

    def with_commands(self, commands: list[str] | str, secret_mounts: SecretRequest | None = None) -> Image:
        """Return the image after running shell commands.

        Args:
            commands: commands in order; a text is one command.
            secret_mounts: secrets that the commands may read.

        Raises:
            TypeError: something that is no text among the commands.
        """
        lines = (commands,) if isinstance(commands, str) else tuple(commands)
        secrets = as_secrets(secret_mounts, "secret_mounts")
        return self.clone(addl_layer=Commands(commands=lines, secret_mounts=secrets))

    def with_env_vars(self, env_vars: dict[str, str]) -> Image:
        """Return the image with environment variables.

        Args:
            env_vars: values by name; `$NAME` in a value is an earlier variable.

        Raises:
            TypeError: no dict, or names that are no text.
            ValueError: a name that no shell knows as a variable, or a value of several lines.
        """
        if not isinstance(env_vars, dict):
            raise wrong_type(
                f"Expected env_vars to be of type Dict[str, str], got {type(env_vars)}",
                'write `with_env_vars({"MODE": "fast"})`',
                code=IMAGE,
            )
        for name in env_vars:
            if not isinstance(name, str):
                raise wrong_type(
                    f"Expected env_vars to be of type Dict[str, str], got the name {name!r}",
                    'write `with_env_vars({"MODE": "fast"})`',
                    code=IMAGE,
                )
            if not checked.VARIABLE.fullmatch(name):
                raise mistake(f"the name of a variable is letters, digits and `_`, got {name!r}", code=IMAGE)
            if set(str(env_vars[name])) & set("\n\r\0"):
                raise mistake(
                    f"the value of `{name}` has several lines, which no image can hold",
                    "put it into a file and add that with `with_source_file`",
                    code=IMAGE,
                )
        values = tuple((name, str(value)) for name, value in env_vars.items())
        return self.clone(addl_layer=Env(values=values))

    def with_source_file(self, src: PathLike | list[PathLike], dst: str = ".") -> Image:
        """Return the image with files copied in.

        Args:
            src: a file or several.
            dst: folder or file in the image, relative to its working directory.

        Raises:
            FileNotFoundError: there is no such file.
            IsADirectoryError: it is a folder.
            TypeError: a `dst` that is no text.
            ValueError: two files of one name, which would overwrite each other.
        """
        sources = [checked.source_file(one) for one in (src if isinstance(src, list) else [src])]
        names = [source.name for source in sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise mistake(
                f"Multiple files with the same name would overwrite each other: {twice}",
                "copy them into different folders: `dst=...`",
                code=IMAGE,
            )
        image = self
        for source in sources:
            image = image.clone(addl_layer=SourceFile(src=source, dst=checked.place(dst, "dst")))
        return image

    def with_source_folder(self, src: PathLike, dst: str = ".", copy_contents_only: bool = False) -> Image:
        """Return the image with a folder copied in.

        Args:
            src: the folder.
            dst: where its content goes; `"."` means a folder of the same name.
            copy_contents_only: with `dst="."`, put the content into the working directory itself.

        Raises:
            FileNotFoundError: there is no such folder.
            NotADirectoryError: it is a file.
        """
        folder = checked.absolute(src)
        if not in_replica():
            if not folder.exists():
                raise no_file(
                    f"no source folder at `{folder}`",
                    "paths are relative to the folder that the program was started from",
                    code=IMAGE,
                )
            if not folder.is_dir():
                raise no_folder(f"`{folder}` is not a folder; use `with_source_file`", code=IMAGE)
        if dst == "." and not copy_contents_only:
            dst = f"./{folder.name}"
        return self.clone(addl_layer=SourceFolder(src=folder, dst=checked.place(dst, "dst")))

    def with_code_bundle(
        self, copy_style: Literal["loaded_modules", "all"] = "loaded_modules", dst: str = "."
    ) -> Image:
        """Return the image with the user's code in it, whenever no code bundle is sent.

        Args:
            copy_style: which files; `"all"` is everything below the root folder.
            dst: folder in the image.

        Raises:
            ValueError: unknown `copy_style`.
        """
        if copy_style not in ("loaded_modules", "all"):
            raise mistake(f"copy_style must be 'loaded_modules' or 'all', got {copy_style!r}", code=IMAGE)
        return self.clone(addl_layer=CodeBundleLayer(copy_style=copy_style, dst=dst))

    def with_workdir(self, workdir: str) -> Image:
        """Return the image with another working directory.

        Raises:
            TypeError: no text.
            ValueError: empty, or of several lines.
        """
        return self.clone(addl_layer=WorkDir(path=checked.place(workdir, "workdir")))

    def with_dockerignore(self, path: PathLike) -> Image:
        """Return the image with an ignore file for what is copied in; the last one counts.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.clone(addl_layer=DockerIgnore(path=checked.file(path, "ignore file")))

    def with_local_v2(self) -> Image:
        """Return a clone: images carry the flyte that declares them, released or not."""
        return self.clone()

    def with_local_rs_controller(self) -> Image:
        """Return a clone: there is no separate controller to install."""
        return self.clone()

    def with_local_v2_plugins(self, plugins: str | list[str] | None = None) -> Image:
        """Return the image with plugin wheels of a checkout, from its `dist` folder.

        Args:
            plugins: names that start with `flyteplugins-`.

        Raises:
            ValueError: another name.
        """
        image = self
        for plugin in [plugins] if isinstance(plugins, str) else plugins or ():
            if not plugin.startswith("flyteplugins-"):
                raise mistake(
                    f"plugin names start with `flyteplugins-`, got {plugin!r}",
                    "other packages: `with_pip_packages(...)`",
                    code=IMAGE,
                )
            image = image.clone(addl_layer=Wheels(package=plugin, folder=DIST_FOLDER))
        return image

    # -- asking an image

    @property
    def uri(self) -> str:
        """Where the image is found: the base image, or name and content hash; computed once.

        Raises:
            flyte.errors.BuildError: the image is a name that only the configuration can resolve,
                has no name, or names a file that cannot be read.
        """
        known = self.__dict__.get("_uri")
        if known is None:
            known = self._compute_uri()
            object.__setattr__(self, "_uri", known)
        return known

    def _compute_uri(self) -> str:
        from .errors import BuildError

        if self._ref_name is not None and self.base_image is None:
            raise BuildError(
                f"image `{self._ref_name}` has no URI before it is deployed",
                "image.invalid",
                ("the configuration (`image.image_refs`, or `init(images=...)`) maps the name to an image",),
            )
        if not self._is_cloned and self.base_image is not None:
            return self.base_image
        if self.name is None:
            raise BuildError("the image has no name", "image.invalid", ("call `.clone(name=...)`",))
        repository = f"{self.registry}/{self.name}" if self.registry else self.name
        return f"{repository}:{self._final_tag}"

    @property
    def _final_tag(self) -> str:
        return self._tag or self._get_hash_digest()

    def _get_hash_digest(self) -> str:
        from flyte._native import image_tag

        return image_tag(self)

    def validate(self) -> None:
        """Check that every file and folder that the layers name is there.

        Raises:
            FileNotFoundError: one is not.
        """
        named = [path for layer in self._layers for path in layer._paths()]
        for path in [*named, *([self.dockerfile] if self.dockerfile else [])]:
            if not path.exists():
                raise no_file(
                    f"nothing at `{path}`",
                    "paths are relative to the folder that the program was started from",
                    code=IMAGE,
                )


def _check_takes_layers(layer: Layer, values: dict[str, Any]) -> None:
    if not values["extendable"]:
        raise mistake(
            "Cannot add additional layers to a non-extendable image. "
            "Please create the image with extendable=True in the clone() call",
            "`image.clone(extendable=True, name=...)`",
            code=IMAGE,
        )
    if values["dockerfile"] is not None:
        raise mistake(
            "Flyte current cannot add additional layers to a Dockerfile-based Image",
            "write the step into the Dockerfile",
            code=IMAGE,
        )
    if not values["name"]:
        raise mistake(
            f"Cannot add additional layer {type(layer).__name__} to an image without name. "
            "Please first clone() it with a name",
            "`image.clone(name=...)`",
            code=IMAGE,
        )


def _debian(version: tuple[int, ...]) -> str:
    return f"python:{version[0]}.{version[1]}-slim-bookworm"
