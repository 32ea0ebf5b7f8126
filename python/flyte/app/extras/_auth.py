"""Hand the credentials of a request on to the calls made while it is answered.

Plain ASGI, so that importing it needs no framework. It checks that credentials are there, never
that they are right: that is decided by the platform that the calls go to.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from starlette.requests import HTTPConnection

    Extractor = Callable[[HTTPConnection], "tuple[str, str] | None"]

_DETAIL = b'{"detail":"Authentication credentials required"}'


class FastAPIPassthroughAuthMiddleware:
    """Middleware that answers 401 to requests without credentials, and passes on those that have some.

    Browsers' preflight requests (`OPTIONS` with `Access-Control-Request-Method`) carry no
    credentials by design and are let through.

    Args:
        app: the ASGI app.
        header_extractors: functions from a request to `(name, value)` or `None`; the default looks
            at `authorization` and `cookie`. One that fails, or returns something else, is logged
            and skipped. All that they find is passed on.
        excluded_paths: paths, matched exactly, that need no credentials.

    Example:
        >>> from fastapi import FastAPI
        >>> app = FastAPI()
        >>> app.add_middleware(FastAPIPassthroughAuthMiddleware, excluded_paths={"/health"})
    """

    def __init__(
        self,
        app: Any,
        header_extractors: Iterable[Extractor] | None = None,
        excluded_paths: Iterable[str] | None = None,
    ) -> None:
        self.app = app
        self.header_extractors: list[Extractor] = (
            [self.extract_authorization_header, self.extract_cookie_header]
            if header_extractors is None
            else list(header_extractors)
        )
        self.excluded_paths = frozenset(excluded_paths or ())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in self.excluded_paths:
            return await self.app(scope, receive, send)  # type: ignore[no-any-return]
        from starlette.requests import HTTPConnection, Request

        from flyte.remote import auth_metadata

        connection = Request(scope) if scope["type"] == "http" else HTTPConnection(scope)
        credentials = self._credentials(connection)
        if credentials:
            with auth_metadata(*credentials):
                return await self.app(scope, receive, send)  # type: ignore[no-any-return]
        if scope["type"] == "http" and _is_preflight(scope, connection):
            return await self.app(scope, receive, send)  # type: ignore[no-any-return]
        await _refuse(scope, send)

    def _credentials(self, connection: HTTPConnection) -> list[tuple[str, str]]:
        found = []
        for extract in self.header_extractors:
            name = getattr(extract, "__name__", repr(extract))
            try:
                pair = extract(connection)
            except Exception:
                _warn("the header extractor `%s` failed and is skipped", name, exc_info=True)
                continue
            if pair is None:
                continue
            if _is_header(pair):
                found.append(pair)
            else:
                # What it returned may be a credential, so only its type is told.
                _warn("the header extractor `%s` is skipped: it returned a %s", name, type(pair).__name__)
        return found

    @staticmethod
    def extract_authorization_header(request: HTTPConnection) -> tuple[str, str] | None:
        """Return `("authorization", value)` when the request has that header."""
        value = request.headers.get("authorization")
        return ("authorization", value) if value else None

    @staticmethod
    def extract_cookie_header(request: HTTPConnection) -> tuple[str, str] | None:
        """Return `("cookie", value)` when the request has that header."""
        value = request.headers.get("cookie")
        return ("cookie", value) if value else None

    @staticmethod
    def extract_custom_header(header_name: str) -> Extractor:
        """Return an extractor for another header.

        Example:
            >>> FastAPIPassthroughAuthMiddleware.extract_custom_header("X-Api-Key").__name__
            'extract_x_api_key_header'
        """
        key = header_name.lower()

        def extract(request: HTTPConnection) -> tuple[str, str] | None:
            value = request.headers.get(key)
            return (key, value) if value else None

        extract.__name__ = f"extract_{key.replace('-', '_')}_header"
        return extract


def _is_preflight(scope: Any, connection: HTTPConnection) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in connection.headers


def _is_header(pair: object) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _warn(text: str, *values: object, exc_info: bool = False) -> None:
    from ..._logger import logger

    logger.warning(text, *values, exc_info=exc_info)


async def _refuse(scope: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        # Closing before accepting is how ASGI refuses a handshake.
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    headers.append((b"content-length", str(len(_DETAIL)).encode()))
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": _DETAIL})
