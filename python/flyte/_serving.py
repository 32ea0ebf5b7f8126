"""The functions that do things: `serve`, `with_servecontext`, `deploy`.

Each is a thin front of the native module. Importing this module loads it.
"""

from __future__ import annotations

from flyte import _native
from flyte._deployment import DeployedAppEnvironment, Deployment
from flyte._dual import Dual, fold
from flyte.errors import ConfigError

# Completes the native class; whoever gets an app from here uses it.
from flyte.remote._app import App

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    below = {id(env): _below(env) for env in envs}

    def comes_with(env: AppEnvironment, other: AppEnvironment) -> bool:
        # In a circle each would come with the next: none is left out, and serving one tells.
        return id(env) in below[id(other)] and id(other) not in below[id(env)]

    planned = [env for env in envs if not any(comes_with(env, other) for other in envs)]
    return planned, with_servecontext(**options)


def _below(env: Environment) -> dict[int, Environment]:
    """All environments that one depends on, each once, by its identity."""
    found: dict[int, Environment] = {}
    waiting: list[Environment] = list(env.depends_on)
    while waiting:
        one = waiting.pop(0)
        if id(one) not in found:
            found[id(one)] = one
            waiting.extend(one.depends_on)
    return found


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
    deployments = []
    for env in planned:
        app = context.serve(env)
        others = [] if options["dry_run"] else _dependencies(env)
        found = [(one, App.get(one.name, project=app.project, domain=app.domain)) for one in others]
        deployments.append(Deployment.of([(env, app), *found]))
    return deployments


async def _deploy_async(*envs: AppEnvironment, **options: Any) -> list[Deployment]:
    planned, context = _plan(envs, options)
    deployments = []
    for env in planned:
        app = await context.serve.aio(env)
        others = [] if options.get("dry_run") else _dependencies(env)
        found = [(one, await App.get.aio(one.name, project=app.project, domain=app.domain)) for one in others]
        deployments.append(Deployment.of([(env, app), *found]))
    return deployments


def _dependencies(env: AppEnvironment) -> list[AppEnvironment]:
    """All apps that one depends on, each once."""
    from flyte.app import AppEnvironment

    return [one for one in _below(env).values() if isinstance(one, AppEnvironment)]


deploy = Dual(_deploy, _deploy_async, "flyte:deploy")


__all__ = [
    "App",
    "DeployedAppEnvironment",
    "Deployment",
    "ServeContext",
    "deploy",
    "serve",
    "with_servecontext",
]
