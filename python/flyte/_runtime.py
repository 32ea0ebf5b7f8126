"""The command `fserve`: what a replica starts with.

Kept small, because every start of every app pays for what is imported here. A command replaces
this process before anything else is loaded; `_lifecycle` is for server functions.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_EXIT_CONFIG = 78
"""Exit status for a declaration that cannot be run (``EX_CONFIG``)."""


def main() -> NoReturn:
    """Run a replica: the entry point of the ``fserve`` command.

    Does not return: a command replaces the process, and a server function ends with
    ``SystemExit`` 0 when it returns or was told to stop by SIGTERM or SIGINT, and 78 when there is
    nothing to run. An exception of user code leaves with its traceback and status 1.

    Example:
        ``fserve --version v1 --resolver-args web:env --``
    """
    if os.getpid() == 1:
        from flyte._init_process import continue_in_child

        continue_in_child()

    from flyte import _native

    start = _native.fserve_prepare(sys.argv[1:])

    from flyte._lifecycle import RuntimeConfigError, serve

    try:
        status = serve(start)
    except RuntimeConfigError as error:
        print(f"fserve: {error}", file=sys.stderr)
        status = _EXIT_CONFIG
    except Exception as error:
        _tell(error)
        status = 1
    sys.exit(status)


def _tell(error: Exception) -> None:
    """Print the traceback from the first frame of user code, as `python app.py` would."""
    import traceback

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (file.startswith("<frozen") or _is_ours(file)):
            break
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def _is_ours(file: str) -> bool:
    import asyncio
    import importlib

    folders = [os.path.dirname(module.__file__ or "") for module in (asyncio, importlib)]
    return any(file.startswith(folder + os.sep) for folder in [*folders, os.path.dirname(__file__)])
