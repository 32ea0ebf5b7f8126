"""`_native.pyi` says what the native module is: names and arguments, and the same words as `help`.

`mypy.stubtest` cannot look through the pairs that Python makes of native methods, hence the look at
their signatures here.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flyte
import flyte.app
import flyte.remote
from flyte import _native, _serving
from flyte._dual import Dual

Function = ast.FunctionDef | ast.AsyncFunctionDef

STUB = ast.parse(Path(_native.__file__).with_name("_native.pyi").read_text())
ALLOWED = Path(__file__).with_name("stubtest.allow")


def declared() -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions, classes and methods of the stub, by dotted name."""
    for node in STUB.body:
        if isinstance(node, Function):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield node.name, node
            for member in node.body:
                if isinstance(member, Function) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member


def found(name: str) -> object:
    owner, _, member = name.rpartition(".")
    holder = getattr(_native, owner) if owner else _native
    return getattr(holder, member)


DECLARED = dict(declared())
PAIRS = [name for name in DECLARED if isinstance(found(name), Dual)]


def parameters(function: Function) -> list[tuple[str, bool, object]]:
    """Name, keyword-only or not, and default of each parameter but `self`."""
    arguments = function.args
    positional = [argument for argument in arguments.args if argument.arg != "self"]
    none: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    first = zip(positional, none + arguments.defaults, strict=True)
    rest = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    pairs = [(argument, False, default) for argument, default in first]
    pairs += [(argument, True, default) for argument, default in rest]
    empty = inspect.Parameter.empty
    return [
        (argument.arg, keyword, empty if default is None else ast.literal_eval(default))
        for argument, keyword, default in pairs
    ]


def test_stubtest_finds_nothing(tmp_path: Path) -> None:
    # The first two complete the native classes, as everything does that hands out an app.
    modules = ["flyte._init", "flyte._serving", "flyte.remote._app", "flyte._native"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--concise", "--allowlist", str(ALLOWED), *modules],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pairs_are_there() -> None:
    assert {"App.activate", "App.get", "App.is_active", "ServeContext.serve"} <= set(PAIRS)


@pytest.mark.parametrize("name", PAIRS)
def test_both_forms_of_a_pair_take_what_the_stub_says(name: str) -> None:
    stub = DECLARED[name]
    pair = found(name)
    assert isinstance(stub, Function) and isinstance(pair, Dual)
    for form in (pair._sync, pair._start):
        real = [
            (parameter.name, parameter.kind is parameter.KEYWORD_ONLY, parameter.default)
            for parameter in inspect.signature(form).parameters.values()
            if parameter.name != "self"
        ]
        assert real == parameters(stub), form


@pytest.mark.parametrize("name", DECLARED)
def test_help_says_what_the_stub_says(name: str) -> None:
    written = ast.get_docstring(DECLARED[name])
    assert written
    assert inspect.getdoc(found(name)) == written


def public() -> Iterator[tuple[str, object]]:
    for module in (flyte, flyte.app, flyte.remote):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield f"{module.__name__}.{name}", value
    for name in _serving.ServeContext.__dict__:
        if not name.startswith("_"):
            yield f"flyte.ServeContext.{name}", getattr(_serving.ServeContext, name)


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_help_of_each_public_name_is_of_use(name: str, value: object) -> None:
    text = inspect.getdoc(value) or ""
    assert text.partition("\n")[0].endswith((".", ":")), f"{name}: {text[:80]!r}"
    # A constructor that a dataclass made has a docstring, but one that helps nobody.
    assert not text.startswith(f"{name.rpartition('.')[2]}("), f"{name}: {text[:80]!r}"
