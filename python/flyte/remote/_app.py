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


fold(App, "activate", "deactivate", "watch", "delete", "get", "listall")
App.is_active = Dual(_is_active, _is_active_async)  # type: ignore[assignment]
App.is_deactivated = Dual(_is_deactivated, _is_deactivated_async)  # type: ignore[assignment]
App.ephemeral_ctx_sync = _ephemeral_ctx_sync  # type: ignore[method-assign]
App.ephemeral_ctx = _ephemeral_ctx  # type: ignore[method-assign]
