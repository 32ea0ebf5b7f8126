"""The functions that say where apps go and how one logs in there: `init` and its kin.

Each hands what it was given to the native module, which resolves it against the environment and the
configuration file. None of them speaks to a control plane: that begins with the first call.
"""

from __future__ import annotations

import os
import sys

from flyte import _native
from flyte._dual import Dual
from flyte.errors import ConfigError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any


def _init(
    org: str | None = None,
    project: str | None = None,
    domain: str | None = None,
    root_dir: str | Path | None = None,
    log_level: int | str | None = None,
    log_format: str | None = None,
    reset_root_logger: bool = False,
    user_log_level: int | str | None = None,
    endpoint: str | None = None,
    headless: bool = False,
    insecure: bool | None = None,
    insecure_skip_verify: bool | None = None,
    ca_cert_file_path: str | Path | None = None,
    auth_type: str | None = None,
    command: Sequence[str] | None = None,
    proxy_command: Sequence[str] | None = None,
    api_key: str | None = None,
    client_id: str | None = None,
    client_credentials_secret: str | None = None,
    auth_client_config: Any = None,
    rpc_retries: int | None = None,
    http_proxy_url: str | None = None,
    disable_keyring: bool | None = None,
    storage: Any = None,
    batch_size: int = 1000,
    image_builder: str | None = None,
    images: Mapping[str, str] | None = None,
    image_registry: str | None = None,
    source_config_path: str | Path | None = None,
    sync_local_sys_paths: bool = True,
    load_plugin_type_transformers: bool = True,
    local_persistence: bool = False,
    local_tracked: bool = False,
    local_tracked_strict: bool = False,
    scopes: Sequence[str] | None = None,
) -> None:
    """Say where apps go; without an endpoint they go to the local platform.

    What is left out comes from the environment and from the configuration file, if there is one.

    Args:
        org: organization of a cluster; follows from the endpoint when left out.
        project: project of the apps.
        domain: domain of the apps.
        root_dir: folder that the names in a code bundle are relative to.
        log_level: level of the logger `flyte`, as in `logging`.
        log_format: accepted for compatibility.
        reset_root_logger: accepted for compatibility.
        user_log_level: accepted for compatibility.
        endpoint: control plane, such as `"https://flyte.example.com"`; a scheme means what it says.
        headless: log in with a browser elsewhere, as `auth_type="DeviceFlow"`.
        insecure: plain HTTP for an endpoint that names no scheme.
        insecure_skip_verify: believe any certificate; warns at each use.
        ca_cert_file_path: PEM file of the authorities that are believed instead of the system's.
        auth_type: `"Pkce"` (a browser here), `"DeviceFlow"` (a browser elsewhere),
            `"ClientSecret"`, `"ExternalCommand"` or `"Passthrough"`.
        command: program and arguments that print a token, for `"ExternalCommand"`.
        proxy_command: program and arguments that print a token for a proxy in front.
        api_key: holds endpoint, client and secret; wins over `endpoint`.
        client_id: of the client, for `"ClientSecret"`.
        client_credentials_secret: of the client, for `"ClientSecret"`.
        auth_client_config: not supported; what the control plane tells is used.
        rpc_retries: how often a call that may be repeated is repeated; 3 when left out.
        http_proxy_url: proxy for everything, instead of `HTTPS_PROXY` and `HTTP_PROXY`.
        disable_keyring: keep tokens in a file of mode 0600 even where there is a keyring.
        storage: of tasks; ignored.
        batch_size: of tasks; ignored.
        image_builder: how images are built.
        images: URIs of images by the names that apps refer to.
        image_registry: where images are pushed to.
        source_config_path: accepted for compatibility.
        sync_local_sys_paths: of tasks; ignored.
        load_plugin_type_transformers: of tasks; ignored.
        local_persistence: of tasks; ignored.
        local_tracked: of tasks; ignored.
        local_tracked_strict: of tasks; ignored.
        scopes: to ask for, instead of those that the control plane names.

    Raises:
        flyte.errors.ConfigError: a value that cannot be used.
        flyte.errors.UnsupportedError: `auth_client_config` is given.

    Example:
        >>> flyte.init(project="demo")      # doctest: +SKIP
        >>> flyte.init(endpoint="https://flyte.example.com", project="demo", domain="development")
        ...                                 # doctest: +SKIP
    """
    if auth_client_config is not None:
        raise UnsupportedError("`auth_client_config` is not supported; the control plane tells it")
    _log_level(log_level)
    _native.configure(
        root_dir=root_dir,
        org=org,
        project=project,
        domain=domain,
        endpoint=endpoint,
        insecure=insecure,
        insecure_skip_verify=insecure_skip_verify,
        ca_cert_file_path=ca_cert_file_path,
        auth_type=auth_type or ("DeviceFlow" if headless else None),
        command=_words(command, "command"),
        proxy_command=_words(proxy_command, "proxy_command"),
        api_key=api_key,
        client_id=client_id,
        client_credentials_secret=client_credentials_secret,
        scopes=_words(scopes, "scopes"),
        http_proxy_url=http_proxy_url,
        disable_keyring=disable_keyring,
        rpc_retries=rpc_retries,
        image_builder=image_builder,
        image_registry=image_registry,
        images=dict(images) if images else None,
    )


async def _init_async(*args: Any, **kwargs: Any) -> None:
    _init(*args, **kwargs)


init = Dual(_init, _init_async, "flyte:init")


def _init_from_config(
    path_or_config: str | Path | None = None,
    root_dir: str | Path | None = None,
    log_level: int | str | None = None,
    log_format: str = "console",
    user_log_level: int | str | None = None,
    org: str | None = None,
    project: str | None = None,
    domain: str | None = None,
    storage: Any = None,
    batch_size: int = 1000,
    image_builder: str | None = None,
    images: Sequence[str] | None = None,
    sync_local_sys_paths: bool = True,
) -> None:
    """Read the configuration file; with none to be found, use the local platform and say so.

    Args:
        path_or_config: the file, relative to `root_dir` when that is given; searched for when left out.
        root_dir: folder that the names in a code bundle are relative to.
        log_level: level of the logger `flyte`, as in `logging`.
        log_format: accepted for compatibility.
        user_log_level: accepted for compatibility.
        org: instead of the file's.
        project: instead of the file's.
        domain: instead of the file's.
        storage: of tasks; ignored.
        batch_size: of tasks; ignored.
        image_builder: instead of the file's.
        images: `"name=uri"`, or `"uri"` for the one called `default`; beside the file's.
        sync_local_sys_paths: of tasks; ignored.

    Raises:
        flyte.errors.ConfigError: the file is missing, unreadable, or holds an unknown setting.

    Example:
        >>> flyte.init_from_config(root_dir=".")        # doctest: +SKIP
    """
    _log_level(log_level)
    path = os.fspath(path_or_config) if path_or_config is not None else None
    if path is not None and root_dir is not None:
        path = os.path.join(root_dir, path)
    named = [image.partition("=") if "=" in image else ("default", "=", image) for image in images or ()]
    local, where = _native.configure(
        root_dir=root_dir,
        config_path=path,
        org=org,
        project=project,
        domain=domain,
        image_builder=image_builder,
        images={name: uri for name, _, uri in named} or None,
    )
    if local and not os.environ.get("_FLYTE_IN_REPLICA"):
        print(f"flyte: {where}", file=sys.stderr)


async def _init_from_config_async(*args: Any, **kwargs: Any) -> None:
    _init_from_config(*args, **kwargs)


init_from_config = Dual(_init_from_config, _init_from_config_async, "flyte:init_from_config")


def _init_from_api_key(
    api_key: str | None = None,
    project: str | None = None,
    domain: str | None = None,
    root_dir: str | Path | None = None,
    log_level: int | str | None = None,
    log_format: str | None = None,
    storage: Any = None,
    batch_size: int = 1000,
    image_builder: str | None = None,
    images: Mapping[str, str] | None = None,
    sync_local_sys_paths: bool = True,
    insecure_skip_verify: bool | None = None,
    ca_cert_file_path: str | Path | None = None,
) -> None:
    """Use the control plane that an API key is for, as the client that it names.

    Args:
        api_key: the key; `FLYTE_API_KEY` when left out.
        project: project of the apps.
        domain: domain of the apps.
        root_dir: folder that the names in a code bundle are relative to.
        log_level: level of the logger `flyte`, as in `logging`.
        log_format: accepted for compatibility.
        storage: of tasks; ignored.
        batch_size: of tasks; ignored.
        image_builder: how images are built.
        images: URIs of images by the names that apps refer to.
        sync_local_sys_paths: of tasks; ignored.
        insecure_skip_verify: believe any certificate; warns at each use.
        ca_cert_file_path: PEM file of the authorities that are believed instead of the system's.

    Raises:
        flyte.errors.ConfigError: there is no key, or it cannot be read.

    Example:
        >>> flyte.init_from_api_key(project="demo", domain="development")       # doctest: +SKIP
    """
    key = api_key or os.environ.get("FLYTE_API_KEY")
    if not key:
        raise ConfigError(
            "there is no API key: none is given, and `FLYTE_API_KEY` is not set",
            hints=("`flyte.init_from_config()` works without one",),
        )
    _init(
        project=project,
        domain=domain,
        root_dir=root_dir,
        log_level=log_level,
        api_key=key,
        image_builder=image_builder,
        images=images,
        insecure_skip_verify=insecure_skip_verify,
        ca_cert_file_path=ca_cert_file_path,
    )


async def _init_from_api_key_async(*args: Any, **kwargs: Any) -> None:
    _init_from_api_key(*args, **kwargs)


init_from_api_key = Dual(_init_from_api_key, _init_from_api_key_async, "flyte:init_from_api_key")


def _init_passthrough(
    endpoint: str | None = None,
    org: str | None = None,
    project: str | None = None,
    domain: str | None = None,
    insecure: bool | None = None,
) -> dict[str, Any]:
    """Send with each call what `flyte.remote.auth_metadata` holds, and nothing else.

    For programs that act for callers of their own, such as an app that got a request.

    Args:
        endpoint: the control plane; `_U_EP_OVERRIDE` when left out.
        org: organization of a cluster.
        project: project of the apps.
        domain: domain of the apps.
        insecure: plain HTTP for an endpoint that names no scheme.

    Returns:
        Where calls go: `endpoint` and `insecure`.

    Raises:
        flyte.errors.ConfigError: there is no endpoint.

    Example:
        >>> flyte.init_passthrough("https://flyte.example.com", project="p", domain="development")
        ...                                                             # doctest: +SKIP
        >>> with flyte.remote.auth_metadata(("authorization", "Bearer ...")):   # doctest: +SKIP
        ...     flyte.remote.App.get("hello")
    """
    endpoint = endpoint or os.environ.get("_U_EP_OVERRIDE")
    if not endpoint:
        raise ConfigError("there is no endpoint: none is given, and `_U_EP_OVERRIDE` is not set")
    _native.configure(
        endpoint=endpoint,
        insecure=insecure,
        org=org,
        project=project,
        domain=domain,
        auth_type="Passthrough",
    )
    return {"endpoint": endpoint, "insecure": bool(insecure)}


async def _init_passthrough_async(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return _init_passthrough(*args, **kwargs)


init_passthrough = Dual(_init_passthrough, _init_passthrough_async, "flyte:init_passthrough")


def _init_in_cluster(
    org: str | None = None,
    project: str | None = None,
    domain: str | None = None,
    api_key: str | None = None,
    endpoint: str | None = None,
    insecure: bool | None = None,
) -> dict[str, Any]:
    """Use the control plane that runs this container, as its variables tell.

    A replica of the local platform needs no call for that, and there is nothing it would change.

    Args:
        org: organization; `_U_ORG_NAME` when left out.
        project: project; the one that this runs in when left out.
        domain: domain; the one that this runs in when left out.
        api_key: instead of the key that was put into the container.
        endpoint: instead of the one that the variables name.
        insecure: plain HTTP for an endpoint that names no scheme.

    Returns:
        What follows for calls: `endpoint` and `insecure` where they are known from here.

    Raises:
        flyte.errors.ConfigError: a value that cannot be used.

    Example:
        >>> flyte.init_in_cluster()     # doctest: +SKIP
    """
    endpoint, insecure = _native.configure_in_cluster(
        org=org, project=project, domain=domain, api_key=api_key, endpoint=endpoint, insecure=insecure
    )
    return {} if endpoint is None else {"endpoint": endpoint, "insecure": bool(insecure)}


async def _init_in_cluster_async(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return _init_in_cluster(*args, **kwargs)


init_in_cluster = Dual(_init_in_cluster, _init_in_cluster_async, "flyte:init_in_cluster")


def current_project() -> str:
    """Return the project that apps go to."""
    return str(_native.current_scope()[0])


def current_domain() -> str:
    """Return the domain that apps go to."""
    return str(_native.current_scope()[1])


def _words(words: Sequence[str] | None, name: str) -> list[str] | None:
    if isinstance(words, str):
        raise ConfigError(f"`{name}` is the text {words!r}; a list of words is wanted")
    return list(words) if words else None


def _log_level(level: int | str | None) -> None:
    if level is not None:
        import logging

        logging.getLogger("flyte").setLevel(level)


__all__ = [
    "current_domain",
    "current_project",
    "init",
    "init_from_api_key",
    "init_from_config",
    "init_in_cluster",
    "init_passthrough",
]
