"""`App`: the native class with what is nicer said in Python.

The methods are Rust; here blocking and awaiting forms are paired and the context managers stand.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager

from flyte._dual import Dual, fold
from flyte._native import App as App

from ._status import DeploymentStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

_ACTIVE = (DeploymentStatus.ACTIVE, DeploymentStatus.STARTED)
_AT_REST = (DeploymentStatus.STOPPED, DeploymentStatus.UNASSIGNED)


def _is_active(self: App) -> bool:
    """Ask the platform whether the app answers requests.

    Takes 5 seconds at most; after that the last known state counts.

    Raises:
        flyte.errors.NotFoundError: the app was deleted.
        flyte.errors.UnavailableError: the platform cannot be reached.

    Example:
        >>> app.is_active()     # doctest: +SKIP
        True
    """
    return self._probe() in _ACTIVE


async def _is_active_async(self: App) -> bool:
    return await self._probe_async() in _ACTIVE


def _is_deactivated(self: App) -> bool:
    """Ask the platform whether the app was put to rest.

    Takes 5 seconds at most; after that the last known state counts.

    Raises:
        flyte.errors.NotFoundError: the app was deleted.
        flyte.errors.UnavailableError: the platform cannot be reached.

    Example:
        >>> app.is_deactivated()    # doctest: +SKIP
        False
    """
    return self._probe() in _AT_REST


async def _is_deactivated_async(self: App) -> bool:
    return await self._probe_async() in _AT_REST


def _delete_app(self: App | str, project: str | None = None, domain: str | None = None) -> None:
    """End the app and forget it, its endpoint and its logs.

    Called on the class it takes the name of an app: `App.delete("hello")`.

    Args:
        self: the app, or its name.
        project: with a name: where it is; the configured project when left out.
        domain: with a name: where it is; the configured domain when left out.

    Raises:
        flyte.errors.NotFoundError: there is no such app, or it was deleted before.

    Example:
        >>> app.delete()    # doctest: +SKIP
    """
    app = App.get(self, project=project, domain=domain) if isinstance(self, str) else self
    app._delete()


async def _delete_app_async(self: App | str, project: str | None = None, domain: str | None = None) -> None:
    app = await App.get.aio(self, project=project, domain=domain) if isinstance(self, str) else self
    await app._delete_async()


def _to_dict(self: App) -> dict[str, Any]:
    """Return the app as last seen, in the protocol's JSON form, as a dict.

    Example:
        >>> app.to_dict()["metadata"]["id"]["name"]     # doctest: +SKIP
        'hello'
    """
    import json

    found: dict[str, Any] = json.loads(self.to_json())
    return found


@contextmanager
def _ephemeral_ctx_sync(self: App) -> Iterator[App]:
    """Keep the app active inside a `with` block and deactivate it at the end.

    Example:
        >>> with app.ephemeral_ctx_sync():      # doctest: +SKIP
        ...     print(app.endpoint)
    """
    self.activate(wait=True)
    try:
        yield self
    finally:
        self.deactivate(wait=True)


@asynccontextmanager
async def _ephemeral_ctx(self: App) -> AsyncIterator[App]:
    """Keep the app active inside an `async with` block and deactivate it at the end.

    Example:
        >>> async with app.ephemeral_ctx():     # doctest: +SKIP
        ...     print(app.endpoint)
    """
    await self.activate.aio(wait=True)
    try:
        yield self
    finally:
        await self.deactivate.aio(wait=True)


def _repr_html_(self: App) -> str:
    """Return the app as a notebook shows it, with what the platform says of it now.

    Takes 5 seconds at most; after that the last known state counts.

    Example:
        >>> app._repr_html_()       # doctest: +SKIP
        '<div ...'
    """
    from flyte._card import app_html

    return app_html(self)


fold(App, "activate", "deactivate", "watch", "get", "listall", "replace")
App.is_active = Dual(_is_active, _is_active_async)  # type: ignore[assignment]
App.is_deactivated = Dual(_is_deactivated, _is_deactivated_async)  # type: ignore[assignment]
App.delete = Dual(_delete_app, _delete_app_async)  # type: ignore[assignment]
App.to_dict = _to_dict  # type: ignore[method-assign]
App._repr_html_ = _repr_html_  # type: ignore[method-assign]
App.ephemeral_ctx_sync = _ephemeral_ctx_sync  # type: ignore[method-assign]
App.ephemeral_ctx = _ephemeral_ctx  # type: ignore[method-assign]
