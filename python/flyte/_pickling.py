"""Environments that no file declares, as bytes for a replica, and what stands in the way of that.

What was typed travels by value, modules by name: their files are bundled beside the pickle. Equal
code gives equal bytes, in any process, so that serving it again changes nothing. Where the bytes
go is not known here.
"""

from __future__ import annotations

import dis
import io
import pickle
import re
import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import cloudpickle  # type: ignore[import-untyped]

from flyte import _notebook

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flyte.app import AppEnvironment

_LARGE_BYTES = 10_000_000
"""What a variable may add to a pickle without a word about it."""

_PLAIN = (str, bytes, int, float, type(None))


class Packed(NamedTuple):
    """A pickled environment and what was learned on the way."""

    data: bytes
    imports: list[str]
    """Files of modules that typed functions import once they run."""
    notes: list[str]
    """What the user should know, a sentence each."""


class Assigned(NamedTuple):
    """Variables that the startup hook sets without a look at what they are here.

    A model or a connection that the user has tried out in the notebook stays there.
    """

    names: frozenset[str] = frozenset()
    namespace: Mapping[str, Any] | None = None


def pack(env: AppEnvironment, by_value: Iterable[types.ModuleType] = ()) -> Packed:
    """Pickle an environment.

    Args:
        env: the environment, with its functions.
        by_value: modules that are neither bundled nor installed in the image.

    Raises:
        flyte.errors.ConfigError: something in it cannot be pickled; names the variable.

    Example:
        >>> pack(env).imports       # doctest: +SKIP
        ['/home/ann/shop/helper.py']
    """
    own = [one for one in by_value if one.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        buffer = io.BytesIO()
        assigned = _assigned_by(getattr(env, "_on_startup", None))
        pickler = _Pickler(buffer, assigned)
        try:
            pickler.dump(env)
        except Exception as error:
            from flyte._unpicklable import explain

            raise explain(env, error, assigned) from None
        large = _large(pickler) if buffer.tell() > _LARGE_BYTES else []
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)
    imports = {file for name in pickler.imported for file in _files_of(name)}
    data = _without_addresses(buffer.getvalue(), pickler.classes)
    return Packed(data, sorted(imports), large)


def _without_addresses(data: bytes, classes: set[int]) -> bytes:
    """Number the labels of schemas, for which pydantic takes the addresses of classes."""
    numbers: dict[bytes, int] = {}

    def numbered(match: re.Match[bytes]) -> bytes:
        address = match[1]
        if int(address) not in classes:
            return match[0]
        # As long as before, because the length of each text stands before it.
        return b":%0*d" % (len(address), numbers.setdefault(address, len(numbers)))

    return re.sub(rb":(\d{9,19})(?!\d)", numbered, data) if classes else data


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves out of the bytes all that differs between two runs of the same code."""

    def __init__(self, file: Any, assigned: Assigned = Assigned()) -> None:  # noqa: B008 - immutable
        super().__init__(file)
        self._assigned = assigned
        self._ordered: dict[int, _Ordered] = {}
        self.imported: dict[str, None] = {}
        self.classes: set[int] = set()
        """Addresses of the classes that travel."""
        self.captured: list[tuple[str, str, Any]] = []
        """Owner, name and value of each variable that a function brings along."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.CodeType):
            return self._code(obj)
        if isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdout, sys.stderr, sys.stdin):
            # The base class would send what is left to read, which is no file any more.
            raise pickle.PicklingError("an open file cannot be pickled")
        if isinstance(obj, (types.CellType, TypeVar)):
            reduced = self.dispatch_table[type(obj)](obj)
        elif _holds_set(obj):
            reduced = self._reduced(obj)
        else:
            reduced = super().reducer_override(obj)
        if not isinstance(reduced, tuple):
            return reduced
        return self._repeatable(obj, *reduced)

    def _reduced(self, obj: Any) -> Any:
        """What the base class makes of an object, also where it leaves that to others."""
        reduced = super().reducer_override(obj)
        if reduced is not NotImplemented or isinstance(obj, (type, types.FunctionType)):
            return reduced
        reduce = self.dispatch_table.get(type(obj))
        return reduce(obj) if reduce else obj.__reduce_ex__(self.proto)

    def _repeatable(self, obj: Any, make: Any, arguments: Any, *rest: Any) -> Any:
        """The same parts of an object in any process."""
        if isinstance(obj, types.FunctionType):
            self._function(obj, rest[0][1])
        elif isinstance(obj, types.CellType):
            arguments = tuple(self._in_order(one) for one in arguments)
        elif isinstance(obj, TypeVar):
            if make.__name__ == "_make_typevar":
                arguments = (*arguments[:-1], None)
        elif isinstance(obj, type):
            if make.__name__ in ("_make_skeleton_class", "_make_skeleton_enum"):
                self.classes.add(id(obj))
                # A random id, by which one process would know a class again that comes twice.
                arguments = (*arguments[:-2], None, arguments[-1])
        elif rest and isinstance(rest[0], dict):
            rest = ({name: self._in_order(one) for name, one in rest[0].items()}, *rest[1:])
        return (make, arguments, *rest)

    def _code(self, code: types.CodeType) -> Any:
        for name in _imports(code):
            self.imported[name] = None
        renamed = code.replace(co_filename=_notebook.lasting_name(code))
        make, arguments = self.dispatch_table[types.CodeType](renamed)
        constants = tuple(self._in_order(one) for one in renamed.co_consts)
        return make, tuple(constants if one is renamed.co_consts else one for one in arguments)

    def _function(self, function: types.FunctionType, state: dict[str, Any]) -> None:
        variables = state["__globals__"]
        if function.__globals__ is self._assigned.namespace:
            for name in self._assigned.names.intersection(variables):
                del variables[name]
        closed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        known = {**variables, **{name: cell.cell_contents for name, cell in closed if _is_filled(cell)}}
        self.captured.extend((function.__name__, name, value) for name, value in known.items())
        # The base class does not look for them in functions inside of this one.
        state["_cloudpickle_submodules"] = _submodules(known.values(), set(_names(function.__code__)))
        for name, value in variables.items():
            variables[name] = self._in_order(value)

    def _in_order(self, value: Any) -> Any:
        """A stand-in for a set of words, whose order is another one in each process."""
        if type(value) in (set, frozenset) and all(isinstance(one, _PLAIN) for one in value):
            return self._ordered.setdefault(id(value), _Ordered(value))
        return value


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a variable that was not assigned yet
        return False
    return True


def _names(code: types.CodeType) -> Iterator[str]:
    """Variables and attributes that code names, functions inside of it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _submodules(values: Iterable[Any], names: set[str]) -> list[types.ModuleType]:
    """Modules that are reached as attributes of a package, such as `urllib.request`."""
    packages = tuple(f"{one.__name__}." for one in values if isinstance(one, types.ModuleType))
    found = [
        name
        for name in sys.modules
        for package in packages
        if name.startswith(package) and names.issuperset(name.removeprefix(package).split("."))
    ]
    return [sys.modules[name] for name in sorted(set(found)) if sys.modules[name] is not None]


def _holds_set(obj: Any) -> bool:
    attributes = getattr(obj, "__dict__", None)
    return isinstance(attributes, dict) and any(type(one) in (set, frozenset) for one in attributes.values())


class _Ordered:
    """Pickled as the set that it holds, with its elements in an order of their own."""

    def __init__(self, elements: set[Any] | frozenset[Any]) -> None:
        self._elements = elements

    def __reduce__(self) -> Any:
        ordered = sorted(self._elements, key=lambda one: (type(one).__name__, repr(one)))
        return type(self._elements), (ordered,)


def _assigned_by(startup: Any) -> Assigned:
    code = getattr(startup, "__code__", None)
    if code is None:
        return Assigned()
    named: dict[str, set[str]] = {"STORE_GLOBAL": set(), "LOAD_GLOBAL": set()}
    for instruction in dis.get_instructions(code):
        if instruction.opname in named:
            named[instruction.opname].add(instruction.argval)
    return Assigned(frozenset(named["STORE_GLOBAL"] - named["LOAD_GLOBAL"]), startup.__globals__)


# --- imports ------------------------------------------------------------------------------------


def _imports(code: types.CodeType) -> Iterator[str]:
    """Modules that code imports when it runs, and what it imports from them, which may be modules."""
    module = ""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            module = instruction.argval
            yield module
        elif instruction.opname == "IMPORT_FROM":
            yield f"{module}.{instruction.argval}"


def _files_of(name: str) -> Iterator[str]:
    """Files of a module and of the packages around it, without importing any of them."""
    path: Any = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = _find(".".join(parts[:count]), path)
        if spec is None:
            return
        if spec.has_location and spec.origin:
            yield spec.origin
        path = spec.submodule_search_locations
        if path is None:
            return


def _find(name: str, path: Any) -> Any:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path) if hasattr(finder, "find_spec") else None
        if spec is not None:
            return spec
    return None


# --- size ---------------------------------------------------------------------------------------


class _Counter(io.RawIOBase):
    """Takes bytes and keeps their number."""

    total = 0

    def write(self, data: Any) -> int:
        self.total += memoryview(data).nbytes
        return memoryview(data).nbytes


def _large(pickler: _Pickler) -> list[str]:
    told: dict[int, str] = {}
    for owner, name, value in pickler.captured:
        if isinstance(value, (types.FunctionType, type, types.ModuleType)) or id(value) in told:
            continue
        counter = _Counter()
        _Pickler(counter).dump(value)
        if counter.total > _LARGE_BYTES:
            told[id(value)] = (
                f"`{owner}` takes `{name}` along (a `{kind(value)}`, {counter.total / 1e6:.1f} MB); "
                "load it in `on_startup`, or pass it as a `flyte.app.Parameter`"
            )
    return list(told.values())


def kind(value: object) -> str:
    """The name of an object's type, as one would write it.

    Example:
        >>> kind(1), kind(__import__("threading").Event())
        ('int', 'threading.Event')
    """
    module, name = type(value).__module__.replace("_io", "io"), type(value).__qualname__
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def parts_of(value: object, assigned: Assigned) -> Mapping[str, Any] | None:
    """What the pickler makes of an object: `arguments`, `state`, `items`; `None` where it refuses.

    Empty for what is pickled by name.
    """
    pickler = _Pickler(io.BytesIO(), assigned)
    try:
        reduced = pickler.reducer_override(value)
        if reduced is NotImplemented:
            reduced = pickler._reduced(value)
        if not isinstance(reduced, tuple):
            return {}
        parts = dict(zip(("arguments", "state", "items", "entries"), reduced[1:], strict=False))
        return {
            name: list(part) if name in ("items", "entries") else part for name, part in parts.items() if part
        }
    except Exception:
        return None


def failure(value: object, assigned: Assigned) -> Exception | None:
    """Why an object, with all that it holds, cannot be sent; `None` where it can."""
    try:
        _Pickler(_Counter(), assigned).dump(value)
    except Exception as error:
        return error
    return None
