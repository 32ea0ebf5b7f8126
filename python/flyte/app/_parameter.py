"""The values an app is given when it starts, as they are declared.

Shapes and checks only: fetching a file or asking for another app's URL is the work of the core.
The JSON forms are read by the core and by clusters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

from .._mistake import mistake, wrong_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypeVar

    from ..io import Dir, File

    Kind = Literal["string", "file", "directory", "app_endpoint"]
    _Model = TypeVar("_Model", bound="_JsonModel")

_ENV_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_KINDS = ("string", "file", "directory", "app_endpoint")


def _kind(given: object) -> str:
    """The name of a type that is written as a name or as a class."""
    if isinstance(given, type):
        from ..io import Dir, File

        for known, kind in (
            (str, "string"),
            (File, "file"),
            (Dir, "directory"),
            (AppEndpoint, "app_endpoint"),
        ):
            if issubclass(given, known):
                return kind
    # `File[...]` is no class, but has the class as its origin.
    origin = getattr(given, "__origin__", None)
    if origin is not None:
        return _kind(origin)
    if given not in _KINDS:
        raise mistake(f"type must be one of {', '.join(_KINDS)}, got {given!r}")
    return given


class _JsonModel:
    """JSON in and out, with the field names as keys."""

    def model_dump_json(self) -> str:
        """Return the fields as a JSON object."""
        import json

        told = {one.name: getattr(self, one.name) for one in fields(self) if one.init}  # type: ignore[arg-type]
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def model_validate_json(cls: type[_Model], text: str | bytes) -> _Model:
        """Return the object that `model_dump_json` wrote.

        Raises:
            ValueError: no JSON, no object, or values that the constructor refuses.
            TypeError: unknown or missing fields.
        """
        import json

        told = json.loads(text)
        if not isinstance(told, dict):
            raise mistake(f"expected a JSON object for {cls.__name__}, got {type(told).__name__}")
        return cls(**told)


@dataclass(frozen=True, kw_only=True)
class RunOutput(_JsonModel):
    """An output of a run of a task, looked up on the cluster when the app is deployed.

    Args:
        type: `"string"`, `"file"`, `"directory"`, or the classes `str`, `File`, `Dir`.
        run_name: the run; or else a task:
        task_name: the newest run of this task that succeeded.
        task_version: only runs of this version.
        task_auto_version: `"latest"` or `"current"`, instead of a version.
        getter: index into the outputs, then into what is found there, and so on.

    Raises:
        ValueError: unknown `type` or `task_auto_version`.
    """

    type: Any
    run_name: str | None = None
    task_name: str | None = None
    task_version: str | None = None
    task_auto_version: Literal["latest", "current"] | None = None
    getter: tuple[Any, ...] = (0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", _kind(self.type))
        if self.task_auto_version not in (None, "latest", "current"):
            raise mistake(f"task_auto_version must be 'latest' or 'current', got {self.task_auto_version!r}")
        # JSON has lists only.
        object.__setattr__(self, "getter", tuple(self.getter))


@dataclass(kw_only=True)
class ArtifactValue(_JsonModel):
    """A stored file or folder, looked up on the cluster when the app is deployed.

    Args:
        name: name of the artifact.
        version: version, or `None` for the latest.
        project: project of the artifact, or `None` for the app's.
        domain: domain of the artifact, or `None` for the app's.
        type: `"file"` or `"directory"` (or `File`, `Dir`), if it is known beforehand.

    Raises:
        ValueError: unknown `type`, or one that is neither file nor directory.
    """

    name: str
    version: str | None = None
    project: str | None = None
    domain: str | None = None
    type: Any = None
    resolved_version_id: Any = field(default=None, init=False, compare=False)
    """Which version was found; `None` until the app is deployed."""

    def __post_init__(self) -> None:
        if self.type is None:
            return
        self.type = _kind(self.type)
        if self.type not in ("file", "directory"):
            raise mistake(f"the type of an artifact must be file or directory, got {self.type!r}")


@dataclass(frozen=True, kw_only=True)
class AppEndpoint(_JsonModel):
    """The URL of another app, looked up inside the replica when the app starts.

    Args:
        app_name: name of the other app.
        public: whether to use the address for the outside instead of the one inside the platform.

    Raises:
        ValueError: a `type` other than `"string"`.
    """

    type: Literal["string"] = "string"
    app_name: str
    public: bool = False

    def __post_init__(self) -> None:
        if self.type != "string":
            raise mistake(f"the type of an AppEndpoint is always string, got {self.type!r}")


@dataclass
class Parameter:
    """A value that an app is given when it starts.

    Args:
        name: name for `get_parameter` and for the arguments of server functions.
        value: text, a number, a boolean, a `File`, a `Dir`, or one of `RunOutput`,
            `ArtifactValue`, `AppEndpoint`; `None` must be given when the app is served.
        type: `"string"`, `"file"`, `"directory"` or `"app_endpoint"`, to treat the value as such.
        env_var: environment variable that also gets the value.
        download: whether files and folders are fetched before the app starts.
        mount: where they are put; a trailing `/` means "into this folder".
        ignore_patterns: names inside a folder that are not fetched.

    Raises:
        TypeError: a field of another type.
        ValueError: `env_var` is no name that shells know, or `type` does not fit the value.

    Example:
        >>> Parameter("threshold", 0.5, env_var="THRESHOLD").value
        0.5
    """

    name: str
    value: str | int | float | bool | File | Dir | RunOutput | ArtifactValue | AppEndpoint | None = None
    type: Kind | None = None
    env_var: str | None = None
    download: bool = True
    mount: str | None = None
    ignore_patterns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.name is None:
            self.name = "i0"
        if not isinstance(self.name, str) or not self.name:
            raise wrong_type(
                f"Expected the name of a parameter to be a non-empty str, got {self.name!r}",
                'the name comes first: `Parameter("model", "large")`',
            )
        if self.env_var is not None and not (
            isinstance(self.env_var, str) and _ENV_NAME.fullmatch(self.env_var)
        ):
            raise mistake(
                f"env_var ({self.env_var}) is not a valid environment name for shells",
                "variables have letters, digits and `_`, and begin with no digit: `MODEL_PATH`",
            )
        if self.mount is not None and not isinstance(self.mount, str):
            raise wrong_type(f"Expected mount to be of type str, got {type(self.mount)}")
        self._check_value()
        if self.type is not None:
            self.type = _kind(self.type)  # type: ignore[assignment]
            self._check_kind()

    def _check_value(self) -> None:
        if self.value is None or isinstance(
            self.value, (str, int, float, RunOutput, ArtifactValue, AppEndpoint)
        ):
            if isinstance(self.value, float) and self.value - self.value != 0:
                raise mistake(
                    f"parameter `{self.name}` must be a finite number, got {self.value}",
                    "pass it as text where the app understands it",
                )
            return
        from ..io import Dir, File

        if not isinstance(self.value, (File, Dir)):
            raise wrong_type(
                "Expected value to be of type str, int, float, bool, File, Dir, RunOutput, "
                f"ArtifactValue or AppEndpoint, got {type(self.value)}",
                "other values can be passed as JSON: `json.dumps(value)`",
            )

    def _check_kind(self) -> None:
        from ..io import Dir, File

        # Combinations that could be declared, but could never start.
        if isinstance(self.value, (File, Dir)):
            fits = self.type in ("file", "directory")
        elif isinstance(self.value, (str, int, float)):
            fits = self.type != "app_endpoint"
        else:
            fits = True
        if not fits:
            raise mistake(
                f"type {self.type!r} of parameter `{self.name}` does not fit a value of {type(self.value)}",
                "leave `type` out: the value tells it",
            )
