"""Flask apps, and others that speak WSGI: the app object is declared, flyte runs a server around it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from ..._mistake import wrong_type
from .._environment import AppEnvironment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STOP_SECONDS = 5.0
"""How long requests that are under way may take when the app is stopped."""


@dataclass(repr=False)
class FlaskAppEnvironment(AppEnvironment):
    """A Flask app on the port of the environment.

    It is served by waitress where the image has it, otherwise by the threaded server that comes with
    Flask. A function decorated with `server` replaces both. The other fields are those of
    `AppEnvironment`.

    Args:
        app: the Flask app, or any other WSGI app.
        threads: requests that waitress answers at a time.

    Raises:
        TypeError: `app` cannot be called.
        ModuleNotFoundError: when served, neither waitress nor werkzeug is installed.

    Example:
        >>> from flask import Flask             # doctest: +SKIP
        >>> env = FlaskAppEnvironment(name="shop", app=Flask(__name__))     # doctest: +SKIP
    """

    type: str | None = field(default="Flask", kw_only=True)
    app: Any = field(kw_only=True)
    threads: int = field(default=8, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.app):
            raise wrong_type(
                f"Expected app to be of type Flask or another WSGI app, got {type(self.app)}",
                "write `FlaskAppEnvironment(name=..., app=Flask(__name__))`",
            )
        super().__post_init__()
        self._server = self._default_server = self._serve_wsgi

    def _serve_wsgi(self) -> None:
        port = self.get_port().port
        try:
            import waitress  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ModuleNotFoundError as error:
            if error.name != "waitress":
                raise
            _serve_to_the_end(_make_server(self.app, port))
            return
        waitress.serve(self.app, host="0.0.0.0", port=port, threads=self.threads)


def _serve_to_the_end(server: Any) -> None:
    """Serve until told to stop, and let requests that are under way finish.

    The server's threads end with the process, so that a client that never reads cannot hold it.
    """
    busy: set[threading.Thread] = set()
    answer = server.process_request_thread

    def tracked(*request: Any) -> None:
        busy.add(threading.current_thread())
        try:
            answer(*request)
        finally:
            busy.discard(threading.current_thread())

    server.process_request_thread = tracked
    try:
        server.serve_forever()
    finally:
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in list(busy):
            thread.join(max(0.0, deadline - time.monotonic()))


def _make_server(app: Any, port: int) -> Any:
    try:
        from werkzeug.serving import make_server  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        if error.name != "werkzeug":
            raise
        raise ModuleNotFoundError(
            'Flask apps need a server: add one to the image with `.with_pip_packages("flask", "waitress")`',
            name="waitress",
        ) from None
    return make_server("0.0.0.0", port, app, threaded=True)
