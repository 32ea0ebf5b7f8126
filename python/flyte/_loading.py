"""What the command line needs beside importing files: several in one process, and what to say of one
that could not be imported: one line, and where in the user's own code.

Imported only for that; a file alone that is right needs none of it.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback

from ._environment import _REGISTRY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MOST_FRAMES = 8

_before: frozenset[str] | None = None


def begin() -> None:
    """Forget what the files before have imported of the user's own, as if this one were the first.

    Modules count for the bundle of whoever imports them, and files of one name may be several.
    """
    global _before
    if _before is None:
        _before = frozenset(sys.modules)
        return
    # Environments of modules that are run again are made again.
    _REGISTRY.clear()
    for name in set(sys.modules) - _before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and _is_own(file):
            del sys.modules[name]


def told(error: BaseException) -> tuple[str, list[str], list[str]]:
    """Return the summary of an exception, the frames of the user's code, and the whole traceback.

    Args:
        error: what importing a file raised.

    Example:
        >>> told(ValueError("no"))[0]
        'ValueError: no'
    """
    lines = "".join(traceback.format_exception_only(type(error), error)).rstrip().splitlines()
    if isinstance(error, SyntaxError) and error.filename:
        # Its place stands in the exception, and nothing of the file has run.
        summary, frames = lines[-1], lines[:-1]
    else:
        summary, frames = "\n".join(lines), _own_frames(error.__traceback__)
    cause = error.__cause__
    if cause is not None:
        summary += f"\nCaused by: {type(cause).__name__}: {cause}"
    whole = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return summary, frames, whole.rstrip().splitlines()


def place(error: BaseException) -> str | None:
    """Return the line of the user's code that led to an exception, such as "`app.py`, line 3".

    Args:
        error: an exception with its traceback.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    if not frames:
        return None
    last = frames[-1]
    code = f": {last.line}" if last.line else ""
    return f"`{os.path.relpath(last.filename)}`, line {last.lineno}{code}"


def _own_frames(found: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(found)
    own = [frame for frame in frames if _is_own(frame.filename)]
    # What a library did is of use where the user's code is not in sight.
    kept = own or frames[-1:]
    text = "".join(traceback.format_list(kept[-_MOST_FRAMES:]))
    return text.rstrip().splitlines()


def _is_own(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = os.path.abspath(filename)
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    outside = (_PACKAGE, *(f"{folder}{os.sep}" for folder in libraries if folder))
    inside_libraries = path.startswith(outside) or f"{os.sep}site-packages{os.sep}" in path
    return not inside_libraries or path == os.path.abspath(sys.argv[0] or ".")
