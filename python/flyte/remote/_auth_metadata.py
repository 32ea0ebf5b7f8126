"""Headers of the caller's own, for `flyte.init_passthrough`.

They hold for the code inside of a `with`, in its thread or task alone, and are read when a call or a
handle begins; a handle keeps what it began with.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar

from .._mistake import mistake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PAIRS: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("flyte_auth_metadata", default=())


@contextmanager
def auth_metadata(*pairs: tuple[str, str]) -> Iterator[None]:
    """Send these headers with each call that begins inside.

    Args:
        pairs: names and values; they replace those of an outer `with`.

    Raises:
        ValueError: there are no pairs, or one is no pair of texts.

    Example:
        >>> with auth_metadata(("authorization", "Bearer abc")):
        ...     current()
        [('authorization', 'Bearer abc')]
    """
    if not pairs:
        raise mistake("auth_metadata takes one pair or more: auth_metadata((name, value))")
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise mistake("auth_metadata takes pairs of texts: auth_metadata((name, value))")
    token = _PAIRS.set(pairs)
    try:
        yield
    finally:
        _PAIRS.reset(token)


def current() -> list[tuple[str, str]]:
    """Return the pairs that hold here and now."""
    return list(_PAIRS.get())
