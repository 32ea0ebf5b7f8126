"""Other apps over HTTP: look at them, wake them, put them to rest, call them.

Paths, names of endpoints and groups are those of the PyPI package; what concerns tasks, runs,
triggers and builds is refused, since flyte-rs serves apps only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..._image import Image
from ..._logger import logger
from ..._mistake import mistake
from ._auth import FastAPIPassthroughAuthMiddleware
from ._fastapi import FastAPIAppEnvironment, _import

_GROUPS = {
    "core": ("health",),
    "app": ("get_app", "activate_app", "deactivate_app", "call_app"),
}
_ALL = tuple(name for names in _GROUPS.values() for name in names)
_ELSEWHERE = {
    *("task", "run", "trigger", "build", "prefetch", "me", "run_task", "get_task", "get_run"),
    *("get_run_io", "abort_run", "activate_trigger", "deactivate_trigger", "build_image"),
    *("prefetch_hf_model", "get_prefetch_hf_model", "get_prefetch_hf_model_io", "abort_prefetch_hf_model"),
}
_OPEN_PATHS = {"/health", "/docs", "/openapi.json", "/redoc"}
_CALL_SECONDS = 30.0


@dataclass(repr=False)
class FlyteWebhookAppEnvironment(FastAPIAppEnvironment):
    """An app that lets others of the same project be used over HTTP.

    `GET /health`, `GET /app/{name}`, `POST /app/{name}/activate`, `.../deactivate` and `.../call`.
    Everything but `/health` and the documentation needs credentials, which are handed on to the
    platform. It does nothing to itself.

    Args:
        title: shown in the documentation.
        endpoint_groups: `"all"`, `"core"`, `"app"`.
        endpoints: single ones: `"health"`, `"get_app"`, `"activate_app"`, `"deactivate_app"`,
            `"call_app"`. Without both all are there.
        app_allowlist: names of the apps that may be used; all by default.
        uvicorn_config: as of `FastAPIAppEnvironment`.

    Raises:
        ValueError: both `endpoints` and `endpoint_groups` are given.
        flyte.errors.UnsupportedError: an endpoint that concerns tasks or runs is asked for.
        ModuleNotFoundError: fastapi is not installed.

    Example:
        >>> env = FlyteWebhookAppEnvironment(name="hooks", app_allowlist=["shop"])
        >>> env.type
        'FlyteWebhookApp'
    """

    type: str | None = field(default="FlyteWebhookApp", kw_only=True)
    app: Any = field(init=False)
    title: str | None = field(default=None, kw_only=True)
    endpoint_groups: Sequence[str] | None = field(default=None, kw_only=True)
    endpoints: Sequence[str] | None = field(default=None, kw_only=True)
    app_allowlist: Sequence[str] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.endpoints is not None and self.endpoint_groups is not None:
            raise mistake(
                "endpoints and endpoint_groups cannot be given together",
                "list endpoints one by one, or their groups",
            )
        wanted = _chosen(self.endpoints, self.endpoint_groups)
        if self.image == "auto":
            self.image = Image.from_debian_base().with_pip_packages("fastapi", "uvicorn")
        fastapi = _import("fastapi")
        title = self.title or f"Flyte Webhook: {self.name}"
        self.app = fastapi.FastAPI(title=title, version="1.0.0", lifespan=_acting_for_callers)
        self.app.add_middleware(FastAPIPassthroughAuthMiddleware, excluded_paths=_OPEN_PATHS)
        _Routes(self.name, self.app_allowlist).add(self.app, wanted)
        super().__post_init__()


@contextlib.asynccontextmanager
async def _acting_for_callers(_app: Any) -> AsyncIterator[None]:
    """Give up the credentials that the replica itself may have, before anybody is answered."""
    from flyte import _native

    _native.act_for_callers()
    yield


def _chosen(endpoints: Sequence[str] | None, groups: Sequence[str] | None) -> list[str]:
    if endpoints is None and groups is None:
        return list(_ALL)
    wanted: list[str] = []
    for name in endpoints if endpoints is not None else groups or ():
        if name in _ELSEWHERE:
            from ...errors import UnsupportedError

            raise UnsupportedError(
                f"the webhook endpoint `{name}` drives tasks and runs, and flyte-rs serves apps only; "
                "the PyPI package `flyte` has it"
            )
        if endpoints is not None and name in _ALL:
            wanted.append(name)
        elif endpoints is None and (name == "all" or name in _GROUPS):
            wanted += _ALL if name == "all" else _GROUPS[name]
        else:
            logger.warning("`%s` is no endpoint or group of a webhook and is left out", name)
    return list(dict.fromkeys(wanted))


class _Routes:
    """The functions behind the paths, for the webhook of one name."""

    def __init__(self, own_name: str, allowed: Sequence[str] | None) -> None:
        self.own_name = own_name
        self.allowed = None if allowed is None else frozenset(allowed)

    def add(self, app: Any, wanted: list[str]) -> None:
        known: dict[str, tuple[str, str, Callable[..., Any]]] = {
            "health": ("GET", "/health", self.health),
            "get_app": ("GET", "/app/{name}", self.get_app),
            "activate_app": ("POST", "/app/{name}/activate", self.activate_app),
            "deactivate_app": ("POST", "/app/{name}/deactivate", self.deactivate_app),
            "call_app": ("POST", "/app/{name}/call", self.call_app),
        }
        for name in wanted:
            method, path, function = known[name]
            app.add_api_route(path, function, methods=[method], name=name)

    async def health(self) -> dict[str, str]:
        """Whether this app answers."""
        return {"status": "healthy"}

    async def get_app(
        self, name: str, project: str | None = None, domain: str | None = None
    ) -> dict[str, Any]:
        """How an app is."""
        app = await self._find(name, project, domain)
        return {**_described(app), "revision": app.revision}

    async def activate_app(
        self, name: str, project: str | None = None, domain: str | None = None, wait: bool = False
    ) -> dict[str, Any]:
        """Let an app run."""
        app = await self._find(name, project, domain)
        return _described(await _tried(app.activate.aio(wait=wait)))

    async def deactivate_app(
        self, name: str, project: str | None = None, domain: str | None = None, wait: bool = False
    ) -> dict[str, Any]:
        """Put an app to rest."""
        app = await self._find(name, project, domain)
        return _described(await _tried(app.deactivate.aio(wait=wait)))

    async def call_app(
        self,
        name: str,
        path: str,
        method: str = "GET",
        project: str | None = None,
        domain: str | None = None,
        payload: dict[str, Any] | None = None,
        query_params: dict[str, Any] | None = None,
    ) -> Any:
        """Ask an app something, and return its answer."""
        import asyncio

        app = await self._find(name, project, domain)
        return await asyncio.to_thread(_ask, app.endpoint, path, method.upper(), payload, query_params)

    async def _find(self, name: str, project: str | None, domain: str | None) -> Any:
        from fastapi import HTTPException

        from flyte.errors import NotFoundError
        from flyte.remote import App

        if name == self.own_name:
            raise HTTPException(400, "a webhook does nothing to itself")
        if self.allowed is not None and name not in self.allowed:
            raise HTTPException(403, f"app `{name}` is not in the allowlist")
        try:
            return await App.get.aio(name, project=project, domain=domain)
        except NotFoundError as error:
            raise HTTPException(404, str(error)) from None
        except Exception as error:
            raise HTTPException(500, f"app `{name}` cannot be looked at: {error}") from error


async def _tried(change: Any) -> Any:
    from fastapi import HTTPException

    try:
        return await change
    except Exception as error:
        raise HTTPException(500, str(error)) from error


def _described(app: Any) -> dict[str, Any]:
    return {
        "name": app.name,
        "endpoint": app.endpoint,
        "is_active": app.is_active(),
        "is_deactivated": app.is_deactivated(),
        "url": app.url,
    }


def _ask(
    endpoint: str, path: str, method: str, payload: dict[str, Any] | None, query: dict[str, Any] | None
) -> Any:
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlencode
    from urllib.request import Request

    from fastapi import HTTPException

    from flyte.remote._auth_metadata import current

    url = f"{endpoint.rstrip('/')}/{path.lstrip('/')}"
    if query:
        url += f"?{urlencode(query)}"
    data = json.dumps(payload).encode() if payload is not None and method != "GET" else None
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    for name, value in current():
        # They are for the app, and not for where it may redirect to.
        request.add_unredirected_header(name, value)
    try:
        with _opener(url).open(request, timeout=_CALL_SECONDS) as answer:
            text = answer.read().decode(errors="replace")
    except HTTPError as error:
        raise HTTPException(error.code, error.read().decode(errors="replace")) from None
    except (URLError, TimeoutError) as error:
        raise HTTPException(502, f"the app does not answer: {error}") from None
    try:
        return json.loads(text)
    except ValueError:
        return {"response": text}


def _opener(url: str) -> Any:
    """What opens a URL; a proxy would look for an app of this machine on its own."""
    from urllib.parse import urlsplit
    from urllib.request import ProxyHandler, build_opener

    host = urlsplit(url).hostname or ""
    is_here = host in ("localhost", "127.0.0.1", "::1") or host.endswith((".localhost", ".flyte.internal"))
    return build_opener(ProxyHandler({})) if is_here else build_opener()
