"""Why an environment cannot be pickled, in the words of the code that was typed.

Follows what fails from the environment to the innermost thing that fails by itself, and names it
as its function does. Runs only after a failure, so it may pickle parts again and again.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyte import _native, _notebook
from flyte._environment import Environment
from flyte._pickling import Assigned, failure, kind, parts_of
from flyte.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte.app import AppEnvironment

_CODE = "bundle.unpicklable"


@dataclass(frozen=True)
class _Step:
    """From a thing to one that it holds."""

    value: Any
    label: str
    """How the path goes on: a variable's name, `.attribute` or `[item]`."""
    starts_path: bool = False
    """A variable: what was before it needs not be told."""
    is_inner: bool = False
    """Inside an object that is no work of the user's."""
    is_item: bool = False
    """In a list or a dict, which is as much the user's as what holds that."""


def explain(env: AppEnvironment, error: Exception, assigned: Assigned) -> ConfigError:
    """Return what to raise because `env` cannot be pickled.

    Args:
        env: the environment.
        error: what pickling it raised.
        assigned: variables that are left out of the pickle.

    Example:
        >>> raise explain(env, error, Assigned())       # doctest: +SKIP
        Traceback (most recent call last):
        flyte.errors.ConfigError: app `web` cannot be sent: `server` uses `conn` (a `sqlite3.Connection`), ...
    """
    steps = _told(_Search(assigned).trail(env, {id(env)}) or [])
    functions = [index for index, step in enumerate(steps) if isinstance(step.value, types.FunctionType)]
    after = functions[-1] + 1 if functions else 0
    starts = [index for index, step in enumerate(steps) if index >= after and step.starts_path]
    path = "".join(step.label for step in steps[starts[-1] if starts else after :])
    if not path:
        return ConfigError(f"app `{env.name}` cannot be pickled: {error}", _CODE)
    owner = f"`{steps[after - 1].value.__name__}`" if functions else f"environment `{env.name}`"
    if len(functions) > 1:
        owner += f", which `{steps[functions[0]].value.__name__}` leads to,"
    culprit = steps[-1].value
    what = kind(culprit)
    article = "an" if what.lstrip("_")[:1].lower() in "aeio" else "a"
    reason = str(failure(culprit, assigned) or "")
    return ConfigError(
        f"app `{env.name}` cannot be sent: {owner} uses `{path}` ({article} `{what}`), "
        "which cannot be pickled",
        _CODE,
        [_hint(culprit, path)],
        [reason] if reason else [],
    )


def _told(steps: list[_Step]) -> list[_Step]:
    """The steps without those that lead on inside of what is no work of the user's."""
    inner = False
    end = 0
    for index, step in enumerate(steps):
        inner = step.is_inner or (inner and step.is_item)
        if not inner:
            end = index + 1
    return steps[:end]


def _hint(culprit: Any, path: str) -> str:
    if isinstance(culprit, _native.App):
        return f"use the environment instead: its `endpoint` is the address of `{path}` inside the app too"
    return (
        "create it where the app runs: in the function that uses it, or in one decorated with "
        "`@env.on_startup`, which assigns it with `global`"
    )


class _Search:
    """Tries parts of an environment as the pickler that failed would."""

    def __init__(self, assigned: Assigned) -> None:
        self._assigned = assigned

    def trail(self, value: Any, seen: set[int]) -> list[_Step] | None:
        """Steps to what fails by itself; `None` where all that fails was seen on another way."""
        fails = False
        for step in self._steps(value):
            if failure(step.value, self._assigned) is None:
                continue
            fails = True
            if id(step.value) in seen:
                continue
            seen.add(id(step.value))
            rest = self.trail(step.value, seen)
            if rest is not None:
                return [step, *rest]
        return None if fails else []

    def _steps(self, value: Any) -> Iterator[_Step]:
        if isinstance(value, types.FunctionType):
            yield from self._variables(value)
        elif isinstance(value, (types.MethodType, staticmethod, classmethod)):
            held = getattr(value, "__self__", None)
            yield _Step(value.__func__, "")
            yield _Step(held, ".__self__", is_inner=not _is_own(type(held)))
        elif isinstance(value, functools.partial):
            for name in ("func", "args", "keywords"):
                yield _Step(getattr(value, name), f".{name}")
        elif isinstance(value, dict):
            for key, one in value.items():
                yield _Step(one, f"[{key!r}]", is_item=True)
        elif isinstance(value, (list, tuple, set, frozenset)):
            for index, one in enumerate(value):
                yield _Step(one, f"[{index}]", is_item=True)
        elif isinstance(value, type):
            for name, one in vars(value).items():
                yield _Step(one, f".{name}")
        else:
            yield from self._attributes(value)

    def _variables(self, function: types.FunctionType) -> Iterator[_Step]:
        parts = parts_of(function, self._assigned) or {}
        variables: dict[str, Any] = parts["state"][1]["__globals__"] if "state" in parts else {}
        for name, one in variables.items():
            yield _Step(one, name, starts_path=True)
        names = function.__code__.co_freevars
        for name, cell in zip(names, function.__closure__ or (), strict=True):
            if failure(cell, self._assigned) is not None:
                yield _Step(cell.cell_contents, name, starts_path=True)
        for name, one in _defaults(function):
            yield _Step(one, name, starts_path=True)
        for name, one in vars(function).items():
            yield _Step(one, f".{name}")

    def _attributes(self, value: Any) -> Iterator[_Step]:
        parts = parts_of(value, self._assigned)
        if parts is None:
            return
        is_env = isinstance(value, Environment)
        inner = not is_env and not _is_own(type(value))
        named = _named(parts.get("state"))
        first = [name for name in _notebook.FUNCTIONS if is_env and name in named]
        for name in [*first, *(name for name in named if name not in first)]:
            label = name.removeprefix("_") if is_env else f".{name}"
            yield _Step(named[name], label, starts_path=is_env, is_inner=inner)
        for name in ("arguments", "items", "entries"):
            for one in parts.get(name, ()):
                yield _Step(one, "", is_inner=True)
        if not named and "state" in parts:
            yield _Step(parts["state"], "", is_inner=True)


def _named(state: Any) -> dict[str, Any]:
    """Attributes in what an object is pickled as: its `__dict__`, its slots, or both."""
    named: dict[str, Any] = {}
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            named.update(part)
    return named


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    values = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    yield from zip(names, values, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


def _is_own(kind: type) -> bool:
    """Whether a class is the user's: typed, or of a module that is not installed."""
    if kind.__module__ == "__main__":
        return True
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is not None and not file.startswith(tuple(sysconfig.get_paths().values()))
