"""The functions that do things: `init*`, `serve`, `with_servecontext`, `deploy`.

Each is a thin front of the native module. Importing this module loads it.
"""

from __future__ import annotations

import sys

from flyte import _native
from flyte._deployment import DeployedAppEnvironment, Deployment
from flyte._dual import Dual, fold
from flyte.errors import ConfigError, UnsupportedError

# Completes the native class; whoever gets an app from here uses it.
from flyte.remote._app import App

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from flyte._environment import Environment
    from flyte.app import AppEnvironment

ServeContext = _native.ServeContext
fold(ServeContext, "serve")

with_servecontext = _native.with_servecontext


def _serve(app_env: AppEnvironment) -> App:
    """Serve an app and return it when it answers.

    Bundles the code, builds the environment, deploys to the configured platform (the local one
    when nothing is configured), waits until the app is up. Calling it again with nothing changed
    returns at once and restarts nothing.

    Args:
        app_env: the app; all it depends on is served first.

    Returns:
        The app: `app.endpoint` answers requests, `app.url` is its page on the platform.

    Raises:
        flyte.errors.ConfigError: the declaration or an override cannot be used.
        flyte.errors.BuildError: the code could not be bundled or the image not be built.
        flyte.errors.AppError: the app did not come up; says why, with its last log lines.
        flyte.errors.UnavailableError: the platform cannot be reached.

    Example:
        >>> app = flyte.serve(env)      # doctest: +SKIP
        >>> print(app.endpoint)         # doctest: +SKIP
        http://localhost:24817
    """
    return with_servecontext().serve(app_env)


async def _serve_async(app_env: AppEnvironment) -> App:
    return await with_servecontext().serve.aio(app_env)


serve = Dual(_serve, _serve_async, "flyte:serve")


def _plan(envs: tuple[AppEnvironment, ...], options: dict[str, Any]) -> tuple[list[AppEnvironment], Any]:
    if options.pop("dryrun", None):
        import warnings

        warnings.warn("dryrun is the old name of dry_run", FutureWarning, stacklevel=4)
        options["dry_run"] = True
    if not envs:
        raise ConfigError("deploy takes one environment or more", "config.invalid")
    # An app that another one of the list depends on comes up with that one.
    covered: set[int] = set()
    for env in envs:
        _cover(env, covered)
    return [env for env in envs if id(env) not in covered], with_servecontext(**options)


def _cover(env: Environment, covered: set[int]) -> None:
    for dependency in env.depends_on:
        if id(dependency) not in covered:
            covered.add(id(dependency))
            _cover(dependency, covered)


def _deploy(
    *envs: AppEnvironment,
    dry_run: bool = False,
    version: str | None = None,
    interactive_mode: bool | None = None,
    copy_style: str = "loaded_modules",
    project: str | None = None,
    domain: str | None = None,
    dryrun: bool | None = None,
) -> list[Deployment]:
    """Deploy apps as they are declared, without overrides, and wait until they are up.

    Args:
        envs: the apps; all they depend on is deployed first.
        dry_run: show what would be done and do nothing.
        version: recorded with the app instead of one derived from its content.
        interactive_mode: as in `with_servecontext`.
        copy_style: `"loaded_modules"`, `"all"` or `"none"`.
        project: instead of the configured one.
        domain: instead of the configured one.
        dryrun: old name of `dry_run`.

    Returns:
        One `Deployment` for each app that no other one of the list depends on.

    Raises:
        flyte.errors.Error: as `flyte.serve`.

    Example:
        >>> deployment, = flyte.deploy(env)     # doctest: +SKIP
        >>> print(deployment.summary_repr())    # doctest: +SKIP
    """
    options = {
        "dry_run": dry_run,
        "version": version,
        "interactive_mode": interactive_mode,
        "copy_style": copy_style,
        "project": project,
        "domain": domain,
        "dryrun": dryrun,
    }
    planned, context = _plan(envs, options)
    return [Deployment.of(env, context.serve(env)) for env in planned]


async def _deploy_async(*envs: AppEnvironment, **options: Any) -> list[Deployment]:
    planned, context = _plan(envs, options)
    return [Deployment.of(env, await context.serve.aio(env)) for env in planned]


deploy = Dual(_deploy, _deploy_async, "flyte:deploy")


def _init(
    org: str | None = None,
    project: str | None = None,
    domain: str | None = None,
    root_dir: str | Path | None = None,
    *,
    endpoint: str | None = None,
    insecure: bool | None = None,
    log_level: int | str | None = None,
    log_format: str | None = None,
    **unused: Any,
) -> None:
    """Say where apps go; without an endpoint they go to the local platform.

    Args:
        org: organization of a cluster.
        project: project of the apps.
        domain: domain of the apps.
        root_dir: folder that the names in a code bundle are relative to.
        endpoint: control plane, such as `"https://flyte.example.com"`.
        insecure: plain HTTP for an endpoint that names no scheme.
        log_level: level of the logger `flyte`, as in `logging`.
        log_format: `"console"` or `"json"`; accepted for compatibility.
        unused: arguments of the PyPI SDK that concern tasks or authentication.

    Raises:
        flyte.errors.ConfigError: a value that cannot be used.

    Example:
        >>> flyte.init(project="demo")      # doctest: +SKIP
    """
    _log_level(log_level)
    _native.configure(
        endpoint=endpoint, insecure=insecure, org=org, project=project, domain=domain, root_dir=root_dir
    )


async def _init_async(*args: Any, **kwargs: Any) -> None:
    _init(*args, **kwargs)


init = Dual(_init, _init_async, "flyte:init")


def _init_from_config(
    path_or_config: str | Path | None = None,
    root_dir: str | Path | None = None,
    *,
    org: str | None = None,
    project: str | None = None,
    domain: str | None = None,
    log_level: int | str | None = None,
    **unused: Any,
) -> None:
    """Read the configuration file; with none to be found, use the local platform and say so.

    Args:
        path_or_config: the file, relative to `root_dir` when that is given; searched for when left out.
        root_dir: folder that the names in a code bundle are relative to.
        org: instead of the file's.
        project: instead of the file's.
        domain: instead of the file's.
        log_level: level of the logger `flyte`, as in `logging`.
        unused: arguments of the PyPI SDK that concern tasks or images.

    Raises:
        flyte.errors.ConfigError: the file is missing, unreadable, or holds an unknown setting.

    Example:
        >>> flyte.init_from_config(root_dir=".")        # doctest: +SKIP
    """
    import os

    _log_level(log_level)
    path = os.fspath(path_or_config) if path_or_config is not None else None
    if path is not None and root_dir is not None:
        path = os.path.join(root_dir, path)
    local, where = _native.configure(
        config_path=path, org=org, project=project, domain=domain, root_dir=root_dir
    )
    if local and not os.environ.get("_FLYTE_IN_REPLICA"):
        print(f"flyte: {where}", file=sys.stderr)


async def _init_from_config_async(*args: Any, **kwargs: Any) -> None:
    _init_from_config(*args, **kwargs)


init_from_config = Dual(_init_from_config, _init_from_config_async, "flyte:init_from_config")


def _init_in_cluster(*_: Any, **__: Any) -> None:
    """Use the control plane that runs this replica; an app needs no call for that.

    Example:
        >>> flyte.init_in_cluster()     # doctest: +SKIP
    """


async def _init_in_cluster_async(*_: Any, **__: Any) -> None:
    pass


init_in_cluster = Dual(_init_in_cluster, _init_in_cluster_async, "flyte:init_in_cluster")


def _refused(name: str) -> Dual[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise UnsupportedError(
            f"`flyte.{name}` needs authentication, which this build of flyte-rs does not have yet",
            hints=("use `flyte.init(endpoint='http://...')`, or the local platform",),
        )

    async def refuse_async(*_: Any, **__: Any) -> None:
        refuse()

    refuse.__name__ = name
    refuse.__doc__ = "Not in this build: raises `flyte.errors.UnsupportedError`."
    return Dual(refuse, refuse_async, f"flyte:{name}")


init_from_api_key = _refused("init_from_api_key")
init_passthrough = _refused("init_passthrough")


def current_project() -> str:
    """Return the project that apps go to."""
    return str(_native.current_scope()[0])


def current_domain() -> str:
    """Return the domain that apps go to."""
    return str(_native.current_scope()[1])


def _log_level(level: int | str | None) -> None:
    if level is not None:
        import logging

        logging.getLogger("flyte").setLevel(level)


__all__ = [
    "App",
    "DeployedAppEnvironment",
    "Deployment",
    "ServeContext",
    "current_domain",
    "current_project",
    "deploy",
    "init",
    "init_from_api_key",
    "init_from_config",
    "init_in_cluster",
    "init_passthrough",
    "serve",
    "with_servecontext",
]
