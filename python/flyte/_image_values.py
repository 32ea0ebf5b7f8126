"""One form for what may be written in several: what the arguments of `Image` are checked against.

Each function takes what a user wrote and gives what an image holds, or says what is wrong with it.
The only look at the disk is whether a file that is named exists, and is what it should be; inside a
replica, where nothing is built, even that is left out.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from ._mistake import IMAGE, mistake, no_file, wrong_type
from ._replica import in_replica
from ._secret import Secret, as_secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._secret import SecretRequest

    PathLike = str | os.PathLike[str]

PLATFORMS = ("linux/amd64", "linux/arm64")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
# What registries take as a repository; several parts are separated by slashes.
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*")
# The block of PEP 723, which ends at the last mark of an unbroken comment.
_BLOCK = re.compile(r"^# /// script[ \t]*$\n(?P<content>(?:^#(?:| .*)$\n)*)^# ///[ \t]*$", re.MULTILINE)
_SPECIFIER = re.compile(r"\s*(?:~=|===?|!=|<=|>=|<|>)\s*[0-9A-Za-z.*+!\-_]+\s*")
_OLDEST_PYTHON = (3, 10)


def python_version(given: object) -> tuple[int, int]:
    parts: tuple[object, ...]
    if isinstance(given, str):
        words = given.split(".")
        if not all(word.isdecimal() for word in words):
            raise mistake(f"python_version must look like '3.12', got {given!r}", code=IMAGE)
        parts = tuple(int(word) for word in words)
    elif isinstance(given, (tuple, list)):
        parts = tuple(given)
    else:
        # A float cannot be told from another: 3.1 and 3.10 are the same number.
        raise wrong_type(
            f"python_version must be a tuple such as (3, 12) or a str, got {given!r}",
            "write `python_version=(3, 12)`",
            code=IMAGE,
        )
    if len(parts) != 2 or not all(isinstance(part, int) for part in parts):
        raise mistake(
            f"python_version must be major and minor version, such as (3, 12), got {given!r}", code=IMAGE
        )
    if parts[0] != 3 or parts < _OLDEST_PYTHON:
        raise mistake(
            f"python_version must be 3.10 or later, got {given!r}",
            "leave it out for the Python that runs this",
            code=IMAGE,
        )
    return parts  # type: ignore[return-value]


def platforms(given: object) -> tuple[str, ...]:
    platforms = (given,) if isinstance(given, str) else tuple(given)  # type: ignore[arg-type]
    for platform in platforms:
        if platform not in PLATFORMS:
            raise mistake(f"platform must be among {', '.join(PLATFORMS)}, got {platform!r}", code=IMAGE)
    return platforms


def secret(given: str | Secret | None) -> Secret | None:
    secrets = as_secrets(given or None, "registry_secret")
    if secrets:
        import warnings

        warnings.warn(
            f"registry_secret={given!r} is not used: images are pushed and pulled with the credentials "
            "of `docker login`",
            UserWarning,
            stacklevel=4,
        )
    return secrets[0] if secrets else None


def install_options(
    index_url: str | None = None,
    extra_index_urls: str | list[str] | tuple[str, ...] | None = None,
    pre: bool = False,
    extra_args: str | None = None,
    secret_mounts: SecretRequest | tuple[Secret, ...] | None = None,
) -> dict[str, Any]:
    urls = (extra_index_urls,) if isinstance(extra_index_urls, str) else tuple(extra_index_urls or ())
    mounts = list(secret_mounts) if isinstance(secret_mounts, tuple) else secret_mounts
    for name, text in {"index_url": index_url, "extra_args": extra_args}.items():
        if text is not None and not isinstance(text, str):
            raise wrong_type(f"{name} must be a str, got {text!r}", code=IMAGE)
    if not isinstance(pre, bool):
        raise wrong_type(f"pre must be a bool, got {pre!r}", code=IMAGE)
    _check_words(extra_args)
    return {
        "index_url": index_url,
        "extra_index_urls": urls,
        "pre": pre,
        "extra_args": extra_args,
        "secret_mounts": as_secrets(mounts, "secret_mounts"),
    }


def _check_words(extra_args: str | None) -> None:
    import shlex

    try:
        shlex.split(extra_args or "")
    except ValueError as error:
        raise mistake(f"extra_args has a quote that is not closed: {extra_args!r}", code=IMAGE) from error


def name(given: str | None) -> str | None:
    if given and not (isinstance(given, str) and _NAME.fullmatch(given)):
        raise mistake(
            f"the name of an image is lower case, without spaces and tag, got {given!r}",
            "write it like 'my-app'",
            code=IMAGE,
        )
    return given


def registry(given: str | None) -> str | None:
    if given and (not isinstance(given, str) or "://" in given or given.split() != [given]):
        raise mistake(f"a registry is written like 'ghcr.io/acme', got {given!r}", code=IMAGE)
    return given


def place(given: object, what: str) -> str:
    place = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(place, str):
        raise wrong_type(f"{what} must be a str, got {given!r}", code=IMAGE)
    if not place.strip() or set(place) & set("\n\r\0"):
        raise mistake(f"{what} must be the path of one place, got {given!r}", code=IMAGE)
    return place


def source_file(given: PathLike) -> Path:
    if not in_replica() and absolute(given).is_dir():
        raise IsADirectoryError(f"`{absolute(given)}` is a folder; use `with_source_folder`")
    return file(given, "source file")


def script(given: PathLike) -> Path:
    script = file(given, "script", ".py")
    if not in_replica():
        _check_header(script)
    return script


def _check_header(script: Path) -> None:
    blocks = list(_BLOCK.finditer(script.read_text(encoding="utf-8")))
    if len(blocks) != 1:
        found = "no" if not blocks else "more than one"
        raise mistake(f"`{script}` has {found} `# /// script` block", code=IMAGE)
    if sys.version_info < (3, 11):  # the core reads it when the image is built
        return
    import tomllib  # type: ignore[import-not-found, unused-ignore]  # mypy looks with the eyes of 3.10

    text = "\n".join(line[2:] for line in blocks[0]["content"].splitlines())
    try:
        header = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise mistake(f"the block of `{script}` is not valid TOML: {error}", code=IMAGE) from error
    wanted = header.get("requires-python", "")
    if not isinstance(wanted, str) or not all(_SPECIFIER.fullmatch(one) for one in wanted.split(",") if one):
        raise mistake(f"`{script}` has a `requires-python` that is not valid: {wanted!r}", code=IMAGE)


def install_mode(given: object) -> str:
    if given not in ("dependencies_only", "install_project"):
        raise mistake(
            f"project_install_mode must be 'dependencies_only' or 'install_project', got {given!r}",
            code=IMAGE,
        )
    return given


def absolute(path: PathLike) -> Path:
    # The working directory may be another one when the image is built.
    return Path(os.path.abspath(os.fspath(path)))


def file(path: PathLike, what: str, suffix: str | None = None) -> Path:
    file = absolute(path)
    if suffix is not None and file.suffix != suffix:
        raise mistake(
            f"the {what} must be a `{suffix}` file, got `{file}`",
            "rename the file, or name another one",
            code=IMAGE,
        )
    if not in_replica() and not file.is_file():
        raise no_file(
            f"no {what} at `{file}`",
            "paths are relative to the folder that the program was started from",
            code=IMAGE,
        )
    return file


def lock(given: PathLike | None, project: Path, name: str, required: bool = False) -> Path | None:
    lock = project.parent / name if given is None else absolute(given)
    if lock.is_file():
        return lock
    if given is None and not required:
        return None
    if in_replica():
        return lock
    raise mistake(
        f"no lock file at `{lock}`",
        "make it with the tool that the project uses, such as `uv lock`",
        code=IMAGE,
    )


def pixi_manifest(given: PathLike) -> Path:
    manifest = absolute(given)
    names = ("pixi.toml", "pyproject.toml")
    if not in_replica() and manifest.is_dir():
        inside = [manifest / name for name in names if (manifest / name).is_file()]
        if not inside:
            raise no_file(f"no {' or '.join(names)} in `{manifest}`", code=IMAGE)
        return inside[0]
    if manifest.name not in names and not in_replica():
        raise mistake(f"the manifest must be called {' or '.join(names)}, got `{manifest}`", code=IMAGE)
    return file(manifest, "pixi manifest")
