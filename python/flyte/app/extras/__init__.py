"""App environments for particular frameworks; each framework is imported only when it is used.

One of your own is a subclass of `flyte.app.AppEnvironment` with fields and a server function, as
`examples/custom_environment.py` shows; those here are made in the same way.

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
    from ._flask import FlaskAppEnvironment as FlaskAppEnvironment
    from ._gradio import GradioAppEnvironment as GradioAppEnvironment
    from ._streamlit import StreamlitAppEnvironment as StreamlitAppEnvironment
    from ._webhook import FlyteWebhookAppEnvironment as FlyteWebhookAppEnvironment

_NAMES = {
    "FastAPIAppEnvironment": "flyte.app.extras._fastapi",
    "FastAPIPassthroughAuthMiddleware": "flyte.app.extras._auth",
    "FlaskAppEnvironment": "flyte.app.extras._flask",
    "FlyteWebhookAppEnvironment": "flyte.app.extras._webhook",
    "GradioAppEnvironment": "flyte.app.extras._gradio",
    "StreamlitAppEnvironment": "flyte.app.extras._streamlit",
}

# Hidden from type checkers, which would take every misspelled name for one that exists.
if not TYPE_CHECKING:
    __getattr__, __dir__ = _hooks("flyte.app.extras", _NAMES)

__all__ = [
    "FastAPIAppEnvironment",
    "FastAPIPassthroughAuthMiddleware",
    "FlaskAppEnvironment",
    "FlyteWebhookAppEnvironment",
    "GradioAppEnvironment",
    "StreamlitAppEnvironment",
]
