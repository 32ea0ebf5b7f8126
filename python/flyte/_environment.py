"""What every environment declares: a name, what it needs installed, and what it depends on.

Checks what can be checked without opening a file, and remembers which file declared it, because
`include` is relative to that file and the replica imports it again. It knows nothing of platforms.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field, fields

from ._mistake import mistake, wrong_type
from ._secret import Secret, as_secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any, Literal, TypeVar

    from ._image import Image
    from ._pod import PodTemplate
    from ._resources import Resources
    from ._secret import SecretRequest

    _Self = TypeVar("_Self", bound="Environment")

_NAME = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
_DESCRIPTION_CHARS = 255
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep

_REGISTRY: list[Environment] = []
"""Every environment of this process, in the order of creation."""


@dataclass(repr=False)
class Environment:
    """What all environments have in common.

    Args:
        name: lower-case name in snake_case or kebab-case.
        depends_on: environments that must be there before this one.
        pod_template: Kubernetes pod to run in; clusters only.
        description: one line for people; cut at 255 characters.
        secrets: secrets that the environment may read.
        env_vars: environment variables; numbers are turned into text.
        resources: processors, memory and accelerators of one replica.
        interruptible: whether the platform may move it to machines that can be taken away.
        image: an `Image`, the URI of a ready image, or `"auto"` for the default one.
        include: more files to ship: paths and globs, relative to the file that declares this.
        service_account: Kubernetes service account to run as; clusters only.

    Raises:
        TypeError: a field of another type.
        ValueError: a name of another form.
    """

    name: str
    depends_on: list[Environment] = field(default_factory=list)
    pod_template: str | PodTemplate | None = None
    description: str | None = None
    secrets: SecretRequest | None = None
    env_vars: dict[str, str] | None = None
    resources: Resources | None = None
    interruptible: bool = False
    image: str | Image | Literal["auto"] | None = "auto"
    include: Sequence[str] = ()
    service_account: str | None = None

    def __post_init__(self) -> None:
        self._check_name()
        if not isinstance(self.depends_on, list):
            raise _wrong("depends_on", "List[Environment]", self.depends_on)
        for environment in self.depends_on:
            if not isinstance(environment, Environment):
                raise _wrong("depends_on", "List[Environment]", environment)
        if self.description is not None and len(self.description) > _DESCRIPTION_CHARS:
            self.description = self.description[: _DESCRIPTION_CHARS - 5] + "(tr.)"
        as_secrets(self.secrets)
        self._check_types()
        self.env_vars = _env_vars(self.env_vars)
        self.include = _include(self.include)
        self._declaring_file: str | None = _declaring_file(self)
        _REGISTRY.append(self)

    def __repr__(self) -> str:
        # Only the name: variables may hold what must not end up in a log.
        return f"{type(self).__name__}(name={self.name!r})"

    def _check_name(self) -> None:
        if not isinstance(self.name, str):
            raise _wrong("name", "str", self.name)
        if not _NAME.fullmatch(self.name):
            raise mistake(
                f"Environment name {self.name!r} must be in snake_case or kebab-case format",
                "for instance `my-app` or `my_app`",
            )

    def _check_types(self) -> None:
        if self.pod_template is not None and not isinstance(self.pod_template, str):
            from ._pod import PodTemplate

            if not isinstance(self.pod_template, PodTemplate):
                raise _wrong("pod_template", "str or PodTemplate", self.pod_template)
        if self.resources is not None:
            from ._resources import Resources

            if not isinstance(self.resources, Resources):
                raise _wrong("resources", "Resources", self.resources)
        if self.image is not None and not isinstance(self.image, str):
            from ._image import Image

            if not isinstance(self.image, Image):
                raise _wrong("image", "str or Image", self.image)
        if self.service_account is not None and not isinstance(self.service_account, str):
            raise _wrong("service_account", "str", self.service_account)

    def _secrets(self) -> tuple[Secret, ...]:
        """The secrets in one form, for the core."""
        return as_secrets(self.secrets)

    def add_dependency(self, *envs: Environment) -> None:
        """Add environments that must be there before this one.

        Naming one a second time changes nothing.

        Raises:
            TypeError: something that is no environment.
            ValueError: this environment itself, or another one of the same name.

        Example:
            >>> database, web = Environment("database"), Environment("web")
            >>> web.add_dependency(database, database)
            >>> web.depends_on
            [Environment(name='database')]
        """
        for env in envs:
            if not isinstance(env, Environment):
                raise _wrong("depends_on", "List[Environment]", env)
            if env is self or env.name == self.name:
                raise mistake(
                    f"Cannot add self as a dependency: both are named `{self.name}`",
                    "give the two environments different names",
                )
            if not any(known is env for known in self.depends_on):
                # A new list, because the declared one may be shared with other environments.
                self.depends_on = [*self.depends_on, env]

    def clone_with(self: _Self, name: str, **changes: Any) -> _Self:
        """Return a new environment like this one, under another name.

        Args:
            name: name of the new environment.
            changes: fields to set anew; `None` keeps what this environment has.

        Raises:
            TypeError: a field that does not exist.

        Example:
            >>> Environment("web", interruptible=True).clone_with("web-2").interruptible
            True
        """
        known = [one.name for one in fields(self) if one.init and one.name != "name"]
        unknown = [change for change in changes if change not in known]
        if unknown:
            from ._lazy import suggestion

            hints = "".join(suggestion(one, known) for one in unknown)
            raise wrong_type(f"Unexpected keyword arguments: {unknown}{hints}")
        values = {field: _own_copy(getattr(self, field)) for field in known}
        values.update({field: value for field, value in changes.items() if value is not None})
        return type(self)(name=name, **values)


def _own_copy(value: Any) -> Any:
    """A list or dict of its own for the clone, so that changing one does not change the other."""
    return value.copy() if type(value) in (list, dict) else value


def _wrong(field: str, expected: str, value: object) -> TypeError:
    return wrong_type(f"Expected {field} to be of type {expected}, got {type(value)}")


def _env_vars(values: object) -> dict[str, str] | None:
    if values is None:
        return None
    if not isinstance(values, dict):
        raise _wrong("env_vars", "Dict[str, str]", values)
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, (str, int, float)):
            raise wrong_type(
                f"Expected env_vars to be of type Dict[str, str], got {name!r}: {type(value)}",
                "values are texts: `str(value)`",
            )
    if all(isinstance(value, str) for value in values.values()):
        return values
    return {name: str(value) for name, value in values.items()}


def _include(paths: object) -> tuple[str, ...]:
    if isinstance(paths, str):
        # The empty string is what an unset setting looks like; it means "nothing".
        if not paths:
            return ()
        raise wrong_type(
            f"Expected include to be a sequence of str paths, got a bare str: write [{paths!r}]",
            "a list of one entry is a list too",
        )
    try:
        entries: tuple[object, ...] = tuple(paths)  # type: ignore[arg-type]
    except TypeError:
        raise _wrong("include", "a sequence of str paths", paths) from None
    texts = []
    for entry in entries:
        if not isinstance(entry, (str, os.PathLike)):
            raise _wrong("include", "a sequence of str paths", entry)
        texts.append(os.fspath(entry))
    return tuple(texts)


def _declaring_file(environment: object) -> str | None:
    """The file whose code makes `environment`: the closest frame that is not part of making it.

    `None` in notebooks and REPLs, where there is no file to import again.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if _declares(frame, environment):
            if frame.f_globals.get("__name__") == "__main__" and "__file__" not in frame.f_globals:
                return None
            if not frame.f_code.co_filename.startswith("<"):
                return os.path.abspath(frame.f_code.co_filename)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _declares(frame: FrameType, environment: object) -> bool:
    code = frame.f_code
    if code.co_filename.startswith(_PACKAGE) or frame.f_globals.get("__name__") == "dataclasses":
        return False
    # The constructor of a user's subclass is part of making the object, wherever it is written.
    if code.co_name in ("__init__", "__post_init__") and code.co_argcount:
        return frame.f_locals.get(code.co_varnames[0]) is not environment
    return True
