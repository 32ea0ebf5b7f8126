"""FastAPI apps: the app object is declared, flyte runs uvicorn around it.

Neither fastapi nor uvicorn is imported before an environment is made or served, so that projects
without them can import this package.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..._mistake import wrong_type
from .._environment import AppEnvironment
from .._types import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import fastapi
    import uvicorn

# What uvicorn uses when nobody says anything; the config does not tell "default" from "given".
_UVICORN_HOST = "127.0.0.1"
_UVICORN_PORT = 8000
_ANY_HOST = "0.0.0.0"
# An event stream never ends by itself, and the lifespan and `on_shutdown` wait for it. Less than what
# platforms allow before they kill.
_STOP_SECONDS = 5
_DOCS = Link(path="/docs", title="FastAPI OpenAPI Docs", is_relative=True)


@dataclass(repr=False)
class FastAPIAppEnvironment(AppEnvironment):
    """A FastAPI app, served by uvicorn on the port of the environment.

    A function decorated with `server` replaces uvicorn. The other fields are those of
    `AppEnvironment`.

    Args:
        app: the FastAPI app; left as it is, `app.state` included.
        uvicorn_config: how to run uvicorn; its host and port count when they differ from uvicorn's
            defaults and the platform has not chosen a port itself. Without a
            `timeout_graceful_shutdown`, requests get 5 s when the app is stopped.

    Raises:
        ModuleNotFoundError: fastapi is not installed, or, when served, uvicorn.
        TypeError: `app` is no FastAPI app.

    Example:
        >>> from fastapi import FastAPI
        >>> env = FastAPIAppEnvironment(name="api", app=FastAPI())
        >>> env.links[0].path
        '/docs'
    """

    type: str | None = field(default="FastAPI", kw_only=True)
    app: fastapi.FastAPI = field(kw_only=True)
    uvicorn_config: uvicorn.Config | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        fastapi = _import("fastapi")
        if not isinstance(self.app, fastapi.FastAPI):
            raise wrong_type(
                f"Expected app to be of type FastAPI, got {type(self.app)}",
                "write `FastAPIAppEnvironment(name=..., app=FastAPI())`",
            )
        # A clone brings the link along already.
        if isinstance(self.links, list) and _DOCS not in self.links:
            self.links = [_DOCS, *self.links]
        _make_state_picklable(_import("starlette").datastructures.State)
        super().__post_init__()
        self._server = self._default_server = self._serve_with_uvicorn

    async def _serve_with_uvicorn(self) -> None:
        await _import("uvicorn").Server(self._config()).serve()

    def _config(self) -> uvicorn.Config:
        """What uvicorn is started with; a copy, because a clone may hold the same config."""
        port = self.get_port()
        config: uvicorn.Config
        if self.uvicorn_config is None:
            config = _import("uvicorn").Config(self.app, host=_ANY_HOST, port=port.port)
            config.timeout_graceful_shutdown = _STOP_SECONDS
            return config
        import copy

        config = copy.copy(self.uvicorn_config)
        if config.timeout_graceful_shutdown is None:
            config.timeout_graceful_shutdown = _STOP_SECONDS
        if config.host == _UVICORN_HOST:
            config.host = _ANY_HOST
        if config.port == _UVICORN_PORT or port != self.port:
            config.port = port.port
        return config


def _make_state_picklable(state: Any) -> None:
    """Let an app that was made in a notebook travel.

    Unpickling looks for methods on an object that is still empty, and `State` answers every look-up
    from a dictionary that it does not have yet.
    """
    import copyreg

    copyreg.pickle(state, lambda found: (state, (dict(found._state),)))


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"FastAPI apps need the package `{name}`: run `pip install fastapi uvicorn`, and add it to the "
            'image with `.with_pip_packages("fastapi", "uvicorn")`',
            name=name,
        ) from None
