"""Every exception of flyte, as one small hierarchy.

Each class is both an `Error` and the built-in exception that Python people expect, so
`except ValueError` works as well as `except flyte.errors.ConfigError`. The core raises them with
positional arguments, so the order of `Error.__init__` is contract. Facts stand in `message`,
advice in `hints`; scripts match on `code`, never on text.
"""

from __future__ import annotations

import builtins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Error(Exception):
    """Base of all exceptions of flyte.

    Args:
        message: what happened, without advice.
        code: stable name of the failure, such as `app.not_found`; each class has a default.
        hints: what to try next, one sentence each.
        causes: messages of the underlying failures, outermost first.
        retryable: whether the same call may succeed later.
        request_id: what the control plane calls the request, if it took part.
        log_tail: last lines of what a build or an app wrote, oldest first.

    Example:
        >>> str(Error("no app is called `a`", "app.not_found", ("run `flyte get app`",)))
        'no app is called `a`\\nhint: run `flyte get app`\\n`flyte explain app.not_found` tells more'
    """

    _default_code = "internal"

    code: str
    message: str
    hints: tuple[str, ...]
    causes: tuple[str, ...]
    retryable: bool
    request_id: str | None
    log_tail: tuple[str, ...]

    def __init__(
        self,
        message: str,
        code: str | None = None,
        hints: Iterable[str] = (),
        causes: Iterable[str] = (),
        retryable: bool = False,
        request_id: str | None = None,
        log_tail: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self._default_code
        # The default of a class says nothing that its name does not say.
        self._is_coded = code is not None
        self.hints = tuple(hints)
        self.causes = tuple(causes)
        self.retryable = retryable
        self.request_id = request_id
        self.log_tail = tuple(log_tail)

    def __str__(self) -> str:
        lines = [self.message, *(f"Caused by: {cause}" for cause in self.causes)]
        if self.log_tail:
            lines += ["last log lines:", *(f"  {line}" for line in self.log_tail)]
        lines += [f"hint: {hint}" for hint in self.hints]
        if self._is_coded:
            lines.append(f"`flyte explain {self.code}` tells more")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, code={self.code!r})"

    # OSError-based classes would otherwise pickle themselves by errno and file name.
    def __reduce__(self) -> tuple[Any, ...]:
        told = (
            self.message,
            self.code if self._is_coded else None,
            self.hints,
            self.causes,
            self.retryable,
            self.request_id,
            self.log_tail,
        )
        return type(self), told, dict(vars(self))


class ConfigError(Error, ValueError):
    """An argument, a setting or a declaration has a value that cannot be used."""

    _default_code = "config.invalid"


class ConfigTypeError(ConfigError, TypeError):
    """A declaration or an argument is of another type than it has to be."""


class ConfigPathError(ConfigError, FileNotFoundError):
    """A declaration names a file or a folder that is not there."""


class ConfigFolderError(ConfigError, NotADirectoryError):
    """A declaration names a file where a folder is wanted."""


class UnsupportedError(ConfigError, NotImplementedError):
    """What is asked for exists elsewhere in Flyte, but not here."""

    _default_code = "config.unsupported"


class NotFoundError(Error, LookupError):
    """A named thing, such as an app, does not exist."""

    _default_code = "app.not_found"


class ConflictError(Error):
    """The state of a thing does not permit the operation, such as a port that is taken."""

    _default_code = "client.conflict"


class AuthError(Error, PermissionError):
    """Credentials are missing, wrong or not sufficient."""

    _default_code = "client.unauthenticated"


class BuildError(Error):
    """An image or a code bundle could not be made; `log_tail` holds the end of the build's output."""

    _default_code = "image.build_failed"


class AppError(Error, RuntimeError):
    """The user's app did not come up, or stopped; `log_tail` holds the end of its output."""

    _default_code = "app.failed"


class UnavailableError(Error, ConnectionError):
    """The control plane cannot be reached."""

    _default_code = "client.unavailable"


class TimeoutError(Error, builtins.TimeoutError):
    """A bounded wait ended before what was waited for happened."""

    _default_code = "app.timeout"


class InternalError(Error):
    """A defect of flyte itself; please report it with the message."""

    _default_code = "internal"


# Names under which code written for the PyPI package catches the same failures.
CodeBundleError = BuildError
DeploymentError = AppError
ImageBuildError = BuildError
InitializationError = ConfigError
InvalidImageNameError = ConfigError
ModuleLoadError = AppError
ParameterMaterializationError = AppError

__all__ = [
    "AppError",
    "AuthError",
    "BuildError",
    "CodeBundleError",
    "ConfigError",
    "ConfigFolderError",
    "ConfigPathError",
    "ConfigTypeError",
    "ConflictError",
    "DeploymentError",
    "Error",
    "ImageBuildError",
    "InitializationError",
    "InternalError",
    "InvalidImageNameError",
    "ModuleLoadError",
    "NotFoundError",
    "ParameterMaterializationError",
    "TimeoutError",
    "UnavailableError",
    "UnsupportedError",
]
