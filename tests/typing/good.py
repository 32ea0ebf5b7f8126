"""What a user may write; mypy must accept every line and infer what `assert_type` says."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path

from typing_extensions import assert_type

import flyte
import flyte.app
from flyte.app import AppEnvironment, Parameter, Scaling
from flyte.remote import App, DeploymentStatus, DesiredState

env = AppEnvironment(
    name="typed",
    args=["python", "-m", "http.server"],
    port=8080,
    image=flyte.Image.from_debian_base().with_pip_packages("fastapi"),
    resources=flyte.Resources(cpu=1, memory="512Mi"),
    parameters=[Parameter(name="model", value="m")],
    scaling=Scaling(replicas=(0, 2)),
    depends_on=[AppEnvironment(name="dependency", args="sleep 1")],
)


@env.server
async def server(model: str) -> None:
    print(model)


# The decorator gives the function back, with its type.
again = server("m")


def serving() -> None:
    assert_type(flyte.serve(env), App)
    assert_type(flyte.serve(app_env=env), App)
    context = flyte.with_servecontext(
        "local",
        copy_style="all",
        env_vars={"KEY": "value"},
        parameter_values={"typed": {"model": "n"}},
        log_level=10,
        activate_timeout=30,
        copy_bundle_to=Path("bundle.tar.zst"),
    )
    assert_type(context.serve(env), App)
    for deployment in flyte.deploy(env, dry_run=True):
        assert_type(deployment.endpoint, str)
        assert_type(deployment.envs["typed"].deployed_app, App)
    flyte.init(project="demo", root_dir=Path("."))
    flyte.init_from_config("config.yaml")
    assert_type(flyte.current_project(), str)


async def awaiting() -> None:
    assert_type(await flyte.serve.aio(env), App)
    assert_type(await flyte.with_servecontext().serve.aio(env), App)
    assert_type((await flyte.deploy.aio(env, version="v1"))[0].url, str)
    assert_type(await App.get.aio("typed"), App)
    assert_type(await App.listall.aio(limit=5), list[App])
    await flyte.init.aio(project="demo")


def handle(app: App) -> None:
    assert_type(app.name, str)
    assert_type(app.endpoint, str)
    assert_type(app.url, str)
    assert_type(app.revision, int)
    assert_type(app.deployment_status, DeploymentStatus)
    assert_type(app.desired_state, DesiredState)
    assert_type(app.is_active(), bool)
    assert_type(app.activate(wait=True), App)
    assert_type(app.deactivate(True).watch("deactivated"), App)
    app.delete()
    for line in app.logs(tail=3):
        assert_type(line, str)
    with app.ephemeral_ctx_sync() as active:
        assert_type(active, App)
    assert_type(App.get("typed", project="demo"), App)
    assert_type(App.listall(), list[App])


async def awaited_handle(app: App) -> None:
    assert_type(await app.is_active.aio(), bool)
    assert_type(await app.is_deactivated.aio(), bool)
    assert_type(await app.activate.aio(wait=True), App)
    assert_type(await app.deactivate.aio(), App)
    assert_type(await app.watch.aio(wait_for="activated"), App)
    await app.delete.aio()
    async for line in app.logs(follow=True):
        assert_type(line, str)
    async with app.ephemeral_ctx() as active:
        assert_type(active, App)


class Managed:
    """Methods are found on instances that are held somewhere, too."""

    def __init__(self, app: App) -> None:
        self.app = app

    @asynccontextmanager
    async def awake(self):  # type: ignore[no-untyped-def]
        yield await self.app.activate.aio(wait=True)
