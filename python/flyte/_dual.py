"""Callables that block, with a twin to await.

The native module has pairs `x` and `x_async` that run the same Rust function. This module pairs
them: `x(...)` blocks, `await x.aio(...)` does not. It knows nothing of what the pairs do.
"""

from __future__ import annotations

import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any


class Dual:
    """A blocking callable whose `.aio` is a coroutine function with the same arguments.

    Example:
        >>> import flyte
        >>> app = flyte.serve(env)              # doctest: +SKIP
        >>> app = await flyte.serve.aio(env)    # doctest: +SKIP
    """

    def __init__(
        self, sync: Callable[..., Any], start: Callable[..., Awaitable[Any]], path: str | None = None
    ) -> None:
        functools.update_wrapper(self, sync)
        self._sync = sync
        self._start = start
        self._path = path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._sync(*args, **kwargs)

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        """Do the same without blocking the running event loop."""
        return await self._start(*args, **kwargs)

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return Dual(
            functools.partial(self._sync, instance),
            functools.partial(self._start, instance),
        )

    def __reduce__(self) -> Any:
        # Functions of users close over `flyte.serve` and are pickled with it: by name.
        if self._path is None:
            raise TypeError("a method bound to an app cannot be pickled")
        module, _, name = self._path.partition(":")
        return _named, (module, name)


def _named(module: str, name: str) -> Any:
    import importlib

    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


def fold(owner: type, *names: str) -> None:
    """Pair each `x` and `x_async` of a native class, and leave only `x` to be seen."""
    for name in names:
        sync = owner.__dict__[name]
        start = owner.__dict__[f"{name}_async"]
        path = f"{owner.__module__}:{owner.__name__}.{name}"
        if isinstance(sync, staticmethod):
            pair: Any = staticmethod(Dual(sync.__func__, start.__func__, path))
        else:
            pair = Dual(sync, start, path)
        setattr(owner, name, pair)
        delattr(owner, f"{name}_async")
