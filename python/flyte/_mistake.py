"""Exceptions for declarations that cannot be used, each with a code and advice.

They are made here and not where they are raised, so that declaring an app that is right imports no
exceptions.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .errors import ConfigError, ConfigFolderError, ConfigPathError, ConfigTypeError

INVALID, IMAGE = "config.invalid", "image.invalid"


def mistake(message: str, *hints: str, code: str = INVALID) -> ConfigError:
    """A value that cannot be used: a `ConfigError`, which is a `ValueError`.

    Example:
        >>> mistake("port 0 is out of range", "leave it out").hints
        ('leave it out',)
    """
    from .errors import ConfigError

    return ConfigError(message, code, hints)


def wrong_type(message: str, *hints: str, code: str = INVALID) -> ConfigTypeError:
    """A value of another type: a `ConfigError` that is a `TypeError` as well."""
    from .errors import ConfigTypeError

    return ConfigTypeError(message, code, hints)


def no_file(message: str, *hints: str, code: str = INVALID) -> ConfigPathError:
    """A file or folder that is not there: a `ConfigError` that is a `FileNotFoundError` as well."""
    from .errors import ConfigPathError

    return ConfigPathError(message, code, hints)


def no_folder(message: str, *hints: str, code: str = INVALID) -> ConfigFolderError:
    """A file where a folder is wanted: a `ConfigError` that is a `NotADirectoryError` as well."""
    from .errors import ConfigFolderError

    return ConfigFolderError(message, code, hints)
