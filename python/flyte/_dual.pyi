"""Types of `_dual.py`, which itself imports no `typing` to stay quick to load."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

_Self = TypeVar("_Self")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_Pair = TypeVar("_Pair", bound=Dual[..., Any])

class Dual(Generic[_P, _R]):
    """A blocking callable whose `.aio` is a coroutine function with the same arguments.

    Example:
        >>> import flyte
        >>> app = flyte.serve(env)              # doctest: +SKIP
        >>> app = await flyte.serve.aio(env)    # doctest: +SKIP
    """

    def __init__(
        self, sync: Callable[_P, _R], start: Callable[..., Awaitable[_R]], path: str | None = None
    ) -> None: ...
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Do it and wait for the result; Ctrl-C interrupts the wait."""

    def aio(self, *args: _P.args, **kwargs: _P.kwargs) -> Coroutine[Any, Any, _R]:
        """Do the same without blocking the running event loop; cancelling drops the work."""

def fold(owner: type, *names: str) -> None:
    """Pair each `x` and `x_async` of a native class, and leave only `x` to be seen."""

class _DualMethod(Generic[_Self, _P, _R]):
    """In stubs, a decorator: the method is called directly, or awaited through `.aio`."""

    def __init__(self, method: Callable[Concatenate[_Self, _P], _R]) -> None: ...
    @overload
    def __get__(self, instance: None, owner: type) -> Dual[Concatenate[_Self, _P], _R]: ...
    @overload
    def __get__(self, instance: _Self, owner: type) -> Dual[_P, _R]: ...
    def __set__(self, instance: _Self, value: object) -> None: ...

def _dual_static(function: Callable[_P, _R]) -> Dual[_P, _R]:
    """In stubs, a decorator: as `_DualMethod`, for static methods."""
