"""Examples of docstrings, which the reference shows too: run where they need nothing, else checked.

What needs a platform or a cluster is marked `+SKIP` for doctest. Its calls are looked up all the
same: every name has to be there, and every argument has to fit.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import flyte
import flyte.app
import flyte.app.extras
import flyte.errors
import flyte.io
import flyte.remote

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "api.md"
# What examples take for granted, as their readers do.
KNOWN = {
    **{name: getattr(flyte, name) for name in flyte.__all__},
    **{name: getattr(flyte.app, name) for name in flyte.app.__all__},
    **{name: getattr(flyte.io, name) for name in flyte.io.__all__},
    **{name: getattr(flyte.remote, name) for name in flyte.remote.__all__},
    "flyte": flyte,
}
# What a name stands for in examples that cannot be run.
INSTANCES = {**KNOWN, "app": flyte.remote.App}


def modules() -> list[str]:
    names = [one.name for one in pkgutil.walk_packages(flyte.__path__, "flyte.")]
    # Of what replicas run, examples only show how it is used by the rest.
    return ["flyte", *(name for name in names if name != "flyte._lifecycle")]


def examples() -> list[tuple[str, doctest.DocTest]]:
    found: dict[str, doctest.DocTest] = {}
    for name in modules():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            # Extras of packages that are not installed here.
            assert not str(error.name).startswith("flyte"), error
            continue
        for test in doctest.DocTestFinder().find(module, extraglobs=dict(KNOWN)):
            if test.examples:
                found[test.name] = test
    return sorted(found.items())


EXAMPLES = examples()


@pytest.mark.parametrize("test", [test for _, test in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_an_example_does_what_it_says(test: doctest.DocTest, capsys: pytest.CaptureFixture[str]) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    runner.run(test, clear_globs=False)
    told = capsys.readouterr().out
    assert runner.failures == 0, told
    for example in test.examples:
        if example.options.get(doctest.SKIP):
            check(example.source)


def check(source: str) -> None:
    """Names and arguments of code that cannot be run here."""
    tree = ast.parse(source, mode="exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and rooted(node):
            lookup(node)
        if isinstance(node, ast.Call) and rooted(node.func):
            fits(node)


def rooted(node: ast.AST) -> bool:
    """Whether it is a path that begins with something of ours."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in INSTANCES


def lookup(node: ast.AST) -> Any:
    if isinstance(node, ast.Name):
        return INSTANCES[node.id]
    assert isinstance(node, ast.Attribute)
    return getattr(lookup(node.value), node.attr)


def fits(call: ast.Call) -> None:
    try:
        signature = inspect.signature(lookup(call.func))
    except ValueError:
        return
    named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return
    # A method that was looked up on its class has its object in front.
    is_method = ast.unparse(call.func).startswith("app.")
    given = len(call.args) + (is_method and "self" in signature.parameters)
    try:
        signature.bind(*[None] * given, **named)
    except TypeError as error:
        raise AssertionError(f"{ast.unparse(call)}: {error}") from None


def test_the_reference_shows_nothing_else() -> None:
    """Every example of the reference is one of those that are looked at here."""
    looked_at = {
        line.strip() for _, test in EXAMPLES for one in test.examples for line in one.source.splitlines()
    }
    blocks = re.findall(r"^```pycon\n(.*?)^```$", REFERENCE.read_text(), re.M | re.S)
    assert blocks
    shown = [
        line[4:].strip()
        for block in blocks
        for line in block.splitlines()
        if line.startswith((">>> ", "... "))
    ]
    missing = [
        line for line in shown if line and line not in looked_at and not any(line in one for one in looked_at)
    ]
    assert not missing, missing


def test_a_wrong_argument_would_be_found() -> None:
    with pytest.raises(AssertionError, match="unexpected"):
        check("flyte.with_servecontext(modus='local')")
    with pytest.raises(AttributeError):
        check("flyte.app.Nothing()")
