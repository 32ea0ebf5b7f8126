"""App environments for particular frameworks.

Example:
    >>> from fastapi import FastAPI
    >>> from flyte.app.extras import FastAPIAppEnvironment
    >>> env = FastAPIAppEnvironment(name="api", app=FastAPI())
"""

from __future__ import annotations

from ..._lazy import hooks as _hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._auth import FastAPIPassthroughAuthMiddleware as FastAPIPassthroughAuthMiddleware
    from ._fastapi import FastAPIAppEnvironment as FastAPIAppEnvironment

_NAMES = {
    "FastAPIAppEnvironment": "flyte.app.extras._fastapi",
    "FastAPIPassthroughAuthMiddleware": "flyte.app.extras._auth",
}


def _refuse(name: str) -> BaseException | None:
    if name != "FlyteWebhookAppEnvironment":
        return None
    from ...errors import UnsupportedError

    return UnsupportedError(
        f"`flyte.app.extras.{name}` drives tasks and runs, and flyte-rs serves apps only; "
        "the PyPI package `flyte` has it"
    )


# Hidden from type checkers, which would take every misspelled name for one that exists.
if not TYPE_CHECKING:
    __getattr__, __dir__ = _hooks("flyte.app.extras", _NAMES, refuse=_refuse)

__all__ = ["FastAPIAppEnvironment", "FastAPIPassthroughAuthMiddleware"]
