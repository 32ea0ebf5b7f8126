"""`flyte.ctx`, for code that is shared between tasks and apps."""

from __future__ import annotations


def ctx() -> None:
    """Return `None`: there is no task context, because flyte-rs runs no tasks.

    Shared code asks `if flyte.ctx() is None` to learn that it does not run inside a task. What an
    app can know about where it runs is `flyte.app.ctx()`.

    Example:
        >>> import flyte
        >>> flyte.ctx() is None
        True
    """
    return None
