"""What a notebook or a REPL lacks: a file that declares an app, and the folder where it lies.

Cheap, since every call of `serve` asks; what is pickled, and how, is the matter of `_pickling`.
"""

from __future__ import annotations

import os
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

    from flyte.app import AppEnvironment

FUNCTIONS = ("_server", "_on_startup", "_on_shutdown")
"""Attributes of an environment that hold its functions."""

_CELL = re.compile(r"ipykernel_\d+|ipython-input|python-input")
"""In names that IPython, Colab and the prompt of Python 3.13 make up for what was typed."""


def is_cell(code: CodeType) -> bool:
    """Whether code was typed into a cell or at a prompt; a debugger may keep a file of it."""
    return _CELL.search(code.co_filename) is not None or not os.path.isfile(code.co_filename)


def lasting_name(code: CodeType) -> str:
    """The name of the file that code is from; that of a cell counts what was executed before it."""
    return "<cell>" if _CELL.search(code.co_filename) else code.co_filename


def needs_pickle(env: AppEnvironment) -> bool:
    """Whether no file holds all of an environment, so that a replica could not import it.

    Args:
        env: the environment; its server and its hooks count too.

    Example:
        >>> needs_pickle(env)       # doctest: +SKIP
        True
    """
    if env._declaring_file is None:
        return True
    return any(_was_typed(one) for name in FUNCTIONS for one in _layers(getattr(env, name, None)))


def folder() -> str:
    """Return the notebook's folder, to which `include` is relative; the current one in a REPL.

    Example:
        >>> folder()                # doctest: +SKIP
        '/home/ann/shop/notebooks'
    """
    main = vars(sys.modules["__main__"])
    notebook = main.get("__vsc_ipynb_file__")
    if not notebook and "get_ipython" in main:
        # Jupyter's name for the session is the notebook's path; other servers put an id there.
        notebook = os.environ.get("JPY_SESSION_NAME")
    if isinstance(notebook, str) and os.path.isabs(notebook) and os.path.isdir(os.path.dirname(notebook)):
        return os.path.dirname(notebook)
    return os.getcwd()


def _was_typed(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    # A script that `python -i` has run to its end has lost `__file__`, but is there.
    return code is not None and "__file__" not in function.__globals__ and is_cell(code)


def _layers(function: Any) -> Iterator[Any]:
    """A function and what its decorators hide."""
    while function is not None:
        yield function
        function = getattr(function, "__func__", None) or getattr(function, "__wrapped__", None)
