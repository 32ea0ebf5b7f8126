"""Inside a replica: find the app's environment and run its functions.

Everything that needs no Python (the command line, the code bundle, parameters, commands) is done
by the native core before anything here starts; what is left is importing user code, calling its
functions and ending well when told to.
"""

from __future__ import annotations

import _thread
import importlib
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import FrameType

# `asyncio` takes longer to import than all else here, and not every app needs it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any

__all__ = ["Lifecycle", "RuntimeConfigError", "bind", "load_environment", "serve"]

_STRAGGLERS_SECONDS = 2.0
"""How long threads of a stopped app may delay the end of its process."""

_REMINDER_SECONDS = 0.5
"""How often a sync function that goes on after it was told to stop is told again."""


class RuntimeConfigError(Exception):
    """The declaration cannot be run; the message is all that the user needs to see.

    Example:
        >>> raise RuntimeConfigError("app `web` has nothing to run")
    """


def serve(start: Mapping[str, Any]) -> int:
    """Load the app and run its functions until they end or are told to.

    Args:
        start: what `fserve_prepare` returned.

    Returns:
        The exit status.

    Raises:
        RuntimeConfigError: the declaration cannot be run.
    """
    life = Lifecycle()
    with life:
        env = life.guarded(lambda: load_environment(start))
        if env is None:  # told to stop while user code was imported
            return 0
        if getattr(env, "_server", None) is None:
            raise RuntimeConfigError(
                f"app `{env.name}` has nothing to run: set args, command or a server function"
            )
        return life.run(env, as_objects(start.get("parameters") or {}, start.get("kinds") or {}))


# --- user code ----------------------------------------------------------------------------------


def _module(name: str) -> Any:
    """Import a module, or run a file whose name no import statement could spell (`app.v2.py`)."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    from importlib.util import module_from_spec, spec_from_file_location

    found = next(
        (path for path in (os.path.join(entry, name) for entry in sys.path) if os.path.isfile(path)), name
    )
    spec = spec_from_file_location(os.path.basename(name)[:-3].replace(".", "_"), found)
    if spec is None or spec.loader is None:
        raise RuntimeConfigError(f"`{name}` is not a Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load_environment(start: Mapping[str, Any]) -> Any:
    """Import or unpickle the app's environment.

    Args:
        start: What the native core prepared: ``loader`` (``module:variable`` or
            ``module:@app-name``), ``pkl`` (path), ``app`` (the platform's name for it) and
            ``sys_path``.

    Returns:
        The environment object.

    Raises:
        RuntimeConfigError: When there is no environment of that name; says which there are.
        ImportError: When the module, or one that it imports, is not there.

    Example:
        >>> load_environment({"loader": "web:env", "sys_path": ["/app"]})
    """
    folders = [str(folder) for folder in start.get("sys_path") or [os.getcwd()]]
    sys.path[:] = folders + [entry for entry in sys.path if entry not in folders]
    if start.get("pkl"):
        return _unpickled(str(start["pkl"]))
    served_as = start.get("app") or os.environ.get("_FLYTE_APP_NAME") or None
    # An app may be served under another name than it declares, which may be that of its neighbour.
    app = os.environ.get("_FLYTE_DECLARED_NAME") or served_as
    module_name, separator, variable = (start.get("loader") or "").partition(":")
    if not separator or not module_name or not variable or module_name == "__main__":
        raise RuntimeConfigError(f"`{start.get('loader')}` names no app: `module:variable` is expected")
    importlib.invalidate_caches()  # the bundle may have been unpacked a moment ago
    module = _module(module_name)
    wanted = variable.removeprefix("@") if variable.startswith("@") else app
    held = getattr(module, variable, None)
    held = held if _is_environment(held) else None
    if held is not None and wanted in (None, held.name):
        return held
    # The platform's name is certain; the variable may be a guess of the client that sent it.
    found = _registered(wanted) or held
    if found is None:
        names = ", ".join(f"`{env.name}`" for env in _environments()) or "none"
        raise RuntimeConfigError(
            f"module `{module_name}` has no app `{variable}`; apps found: {names}. A replica imports the "
            "file and runs no `main`, so the environment has to be made at module level"
        )
    return found


def _unpickled(path: str) -> Any:
    import gzip
    import pickle

    import cloudpickle  # type: ignore[import-untyped]

    if int(cloudpickle.__version__.split(".")[0]) < 3:
        raise RuntimeConfigError(
            f"the image has cloudpickle {cloudpickle.__version__}, but an app that was made without a file "
            "needs version 3 or later"
        )
    with gzip.open(path, "rb") as file:
        try:
            return pickle.load(file)
        except (ModuleNotFoundError, AttributeError) as error:
            if not _is_of_another_sdk(error):
                raise
            raise RuntimeConfigError(
                f"the app was pickled by another SDK than the one that is here ({error}): the PyPI package "
                "`flyte` and flyte-rs do not read each other's pickles; put the app into a file, or make the "
                "image with the SDK that serves it"
            ) from None


def _is_of_another_sdk(error: Exception) -> bool:
    """Whether a pickle names something of ours that there is not."""
    if isinstance(error, ModuleNotFoundError):
        return (error.name or "").partition(".")[0] == "flyte"
    # "Can't get attribute 'X' on <module 'flyte._y' from ...>"
    return "<module 'flyte" in str(error)


def _environments() -> list[Any]:
    from flyte._environment import _REGISTRY

    registry: Mapping[str, Any] | Iterable[Any] = _REGISTRY
    known = registry.values() if isinstance(registry, Mapping) else registry
    return [env for env in known if _is_environment(env)]


def _is_environment(value: Any) -> bool:
    return hasattr(value, "name") and hasattr(value, "_server")


def _registered(app: str | None) -> Any | None:
    found = [env for env in _environments() if env.name == app]
    return found[-1] if found else None


# --- parameters ---------------------------------------------------------------------------------


def as_objects(values: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Turn values as they stand in the parameters file into what functions receive.

    Args:
        values: Value per parameter name; a path or URL for files and folders.
        kinds: ``"file"``, ``"directory"`` or ``"string"`` per parameter name.

    Returns:
        The same names, with :class:`flyte.io.File` and :class:`flyte.io.Dir` for files and
        folders.

    Example:
        >>> as_objects({"port": 80}, {"port": "string"})
        {'port': 80}
    """
    return {name: _as_object(value, kinds.get(name)) for name, value in values.items()}


def _as_object(value: Any, kind: str | None) -> Any:
    if kind not in ("file", "directory"):
        return value
    from flyte.io import Dir, File

    return File(path=value) if kind == "file" else Dir(path=value)


def bind(function: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the parameters that a function asks for.

    Args:
        function: A function of the app.
        parameters: All values by name.

    Returns:
        Those whose names stand in its signature; all of them if it takes ``**kwargs``.

    Example:
        >>> bind(lambda model: None, {"model": "m", "port": 80})
        {'model': 'm'}
    """
    signature = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
        return dict(parameters)
    by_name = {
        parameter.name
        for parameter in signature
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return {name: value for name, value in parameters.items() if name in by_name}


# --- life of an app -----------------------------------------------------------------------------


class Lifecycle:
    """Startup hook, server, shutdown hook; each sync or async, and a stop at any time.

    Everything runs in the main thread. Async functions share one event loop, which is there as soon
    as anything has imported `asyncio`, and stands still
    while a sync function runs: so ``signal.signal``, ``uvicorn.run`` and ``subprocess.run`` work
    in a sync server. A stop signal cancels an async function and raises ``SystemExit`` in a sync
    one; where that is swallowed, as servers do with whatever a request raises, it is raised again.
    A second signal ends the process at once.

    Example:
        >>> with Lifecycle() as life:
        ...     status = life.run(env, {"model": "m"})
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stopping = False
        self._interruptible = False
        self._raised: SystemExit | None = None
        self._reminding = False
        self._reminder = threading.Lock()  # held while a reminder is on its way

    def __enter__(self) -> Lifecycle:
        self._listen()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        if self._stopping:
            # A thread that never ends must not turn a clean stop into a kill.
            timer = threading.Timer(_STRAGGLERS_SECONDS, os._exit, (int(error is not None),))
            timer.daemon = True
            timer.start()
        self._close_loop()

    def guarded(self, function: Callable[[], Any]) -> Any | None:
        """Call ``function``, which a stop signal may interrupt; ``None`` when one did.

        Example:
            >>> life.guarded(lambda: 1)
            1
        """
        try:
            self._interruptible = True
            if self._stopping:  # between two functions, where nothing could be interrupted
                return None
            return self._await(function())
        except BaseException as error:
            if not self._stopping or not _is_stop(error):
                raise
            return None
        finally:
            self._interruptible = False
            with self._reminder:
                pass

    def run(self, env: Any, parameters: Mapping[str, Any]) -> int:
        """Run the functions of ``env``.

        Args:
            env: Has ``_on_startup``, ``_server`` and ``_on_shutdown``, each a function or None.
            parameters: Values by name, bound to each function's signature.

        Returns:
            0 when the server returned or was stopped.

        Raises:
            BaseException: What a function raised. The shutdown hook runs whenever the server was
                reached, also then.

        Example:
            >>> Lifecycle().run(env, {"model": "m"})
            0
        """

        if "asyncio" in sys.modules:
            self._open_loop()  # for `asyncio.get_event_loop()` in a sync function

        def call(hook: str) -> Any:
            function = getattr(env, hook, None)
            return None if function is None else function(**bind(function, parameters))

        self.guarded(lambda: call("_on_startup"))
        if self._stopping:
            return 0
        try:
            self.guarded(lambda: call("_server"))
        finally:
            if signal.getsignal(signal.SIGTERM) != self._stop:
                # A server with a handler of its own returns because that was called.
                self._stopping = True
                self._listen()
            self._await(call("_on_shutdown"))
        return 0

    def _listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        reminded, self._reminding = self._reminding, False
        if reminded and (not self._interruptible or self._is_ending()):
            return
        if self._stopping and not reminded:
            self._end(number, frame)
        self._stopping = True
        if not self._interruptible:
            return  # the shutdown hook is at work already
        if self._task is not None and self._loop is not None and self._loop.is_running():
            # Not directly: this runs between two arbitrary instructions of the loop.
            self._loop.call_soon_threadsafe(self._task.cancel)
            return
        if not reminded:
            # Not `threading.Thread`: a server may have been starting one, and holds its lock.
            _thread.start_new_thread(self._remind, ())
        self._raised = SystemExit(0)
        raise self._raised

    def _is_ending(self) -> bool:
        """Whether what was raised is still on its way out, through `finally` and `with`.

        Raising once more would cut such cleaning up short.
        """
        handled = sys.exc_info()[1]
        while handled is not None:
            if handled is self._raised:
                return True
            handled = handled.__context__
        return False

    def _remind(self) -> None:
        """Send the stop signal again, which also wakes a server that waits for the network."""
        main = threading.main_thread().ident
        while True:
            time.sleep(_REMINDER_SECONDS)
            with self._reminder:
                # The program's own handler would take a reminder for an order to end at once.
                if not self._interruptible or signal.getsignal(signal.SIGTERM) != self._stop:
                    return
                self._reminding = True
                signal.pthread_kill(main, signal.SIGTERM)  # type: ignore[arg-type]

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if self._reminding:  # sent a moment before nothing was left to remind
            self._reminding = False
            return
        os._exit(128 + number)

    def _await(self, result: Any) -> Any:
        """Run what an async function returned; anything else is the result itself."""
        if not inspect.isawaitable(result):
            return result

        async def finish() -> Any:
            return await result

        loop = self._open_loop()
        self._task = loop.create_task(finish())
        try:
            return loop.run_until_complete(self._task)
        finally:
            self._task = None

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def _close_loop(self) -> None:
        loop = self._loop
        if loop is None:
            return
        import asyncio

        leftover = asyncio.all_tasks(loop)
        for task in leftover:
            task.cancel()
        if leftover:
            loop.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()  # does not wait for threads: the end of the process does


def _is_stop(error: BaseException) -> bool:
    """Whether this is how a function ends that is told to stop."""
    # An error of its kind can only come from where it was imported.
    asyncio = sys.modules.get("asyncio")
    cancelled = () if asyncio is None else (asyncio.CancelledError,)
    return isinstance(error, (SystemExit, KeyboardInterrupt, *cancelled))
