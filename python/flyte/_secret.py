"""Secrets by name. A value is never held here; the platform looks it up when the app starts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ._mistake import mistake, wrong_type

_MOUNT = "/etc/flyte/secrets"
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True)
class Secret:
    """A secret that an app, or the build of an image, may read.

    Args:
        key: name of the secret.
        group: namespace of the key, if the platform groups secrets.
        mount: folder to put the secret into as a file; only `/etc/flyte/secrets`.
        as_env_var: environment variable to put the value into. Without `mount` it defaults to
            `GROUP_KEY` or `KEY`, upper case, with `-` written as `_`.

    Raises:
        ValueError: another `mount`, or a variable name with characters other than `A-Z0-9_`.

    Example:
        >>> Secret("api-key").as_env_var
        'API_KEY'
    """

    key: str
    group: str | None = None
    mount: str | None = None
    as_env_var: str | None = None

    @property
    def path(self) -> str:
        """Where a secret with `mount` lies as a file, inside the app.

        On a cluster that is below `/etc/flyte/secrets`; on the local platform, which may not write
        there, in a folder in memory that only the app's user may enter.

        Example:
            >>> Secret("tls-key", mount="/etc/flyte/secrets").path
            '/etc/flyte/secrets/tls-key'
        """
        import os

        folder = os.environ.get("FLYTE_SECRETS_DEFAULT_DIR") or _MOUNT
        return os.path.join(folder, self.group or "", self.key)

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:
            raise mistake(
                f"the key of a secret must be a non-empty str, got {self.key!r}",
                "the key is the name that `flyte create secret NAME` was given",
            )
        if self.mount is not None:
            # A pathlib.Path is accepted, as it reads well; one spelling is kept for the core.
            object.__setattr__(self, "mount", str(self.mount))
            if self.mount != _MOUNT:
                raise mistake(
                    f"Only {_MOUNT} is supported as the mount of a secret, got {self.mount!r}",
                    "leave `mount` out, and the secret comes as an environment variable",
                )
        elif self.as_env_var is None:
            joined = f"{self.group}_{self.key}" if self.group else self.key
            object.__setattr__(self, "as_env_var", joined.replace("-", "_").upper())
        if self.as_env_var is not None and not _ENV_NAME.fullmatch(self.as_env_var):
            raise mistake(
                f"Invalid environment variable name: {self.as_env_var!r} for secret `{self.key}`, "
                "must match ^[A-Z_][A-Z0-9_]*$; pass `as_env_var` to choose one",
                'for instance `as_env_var="API_KEY"`',
            )


SecretRequest = str | Secret | list[str | Secret]
"""What is accepted wherever secrets are asked for: a key, a `Secret`, or a list of both."""


def as_secrets(request: object, field: str = "secrets") -> tuple[Secret, ...]:
    """Return `request` as `Secret`s.

    Args:
        request: `None`, a key, a `Secret`, or a list of both.
        field: name of the argument, for the message.

    Raises:
        TypeError: anything else.
    """
    if request is None:
        return ()
    if isinstance(request, (str, Secret)):
        return (_as_secret(request, field),)
    if isinstance(request, list):
        return tuple(_as_secret(item, field) for item in request)
    raise _wrong(request, field)


def _as_secret(item: object, field: str) -> Secret:
    if isinstance(item, Secret):
        return item
    if isinstance(item, str):
        return Secret(item)
    raise _wrong(item, field)


def _wrong(value: object, field: str) -> TypeError:
    return wrong_type(
        f"Expected {field} to be of type SecretRequest (a str, a Secret or a list of them), got {type(value)}"
    )
