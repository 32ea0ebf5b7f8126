"""What mypy must refuse: each line that ends in `# error: CODE` with that code, and no other line."""

from __future__ import annotations

import flyte
from flyte.app import AppEnvironment
from flyte.remote import App

env = AppEnvironment(name="typed", args="sleep 1")

flyte.sreve(env)  # error: attr-defined
flyte.app.AppEnviroment(name="a")  # error: attr-defined
flyte.serve()  # error: call-arg
flyte.serve("app.py")  # error: arg-type
flyte.serve(env, "local")  # error: call-arg
flyte.deploy(env, wait=True)  # error: call-arg
flyte.deploy("app.py")  # error: arg-type
AppEnvironment(name="a", port="8080")  # error: arg-type
AppEnvironment(name="a", replicas=2)  # error: call-arg
flyte.with_servecontext("cluster")  # error: arg-type
flyte.with_servecontext(copy_style="some")  # error: arg-type
flyte.with_servecontext(activate_timeout="30s")  # error: arg-type
flyte.with_servecontext(env_vars={"N": 1})  # error: dict-item
flyte.with_servecontext("local", "v1")  # error: call-arg
flyte.with_servecontext(timeout=3)  # error: call-arg
number: int = flyte.serve(env)  # error: assignment


def handle(app: App) -> None:
    app.activate(wait="yes")  # error: arg-type
    app.activate(timeout=3)  # error: call-arg
    app.watch("started")  # error: arg-type
    app.logs(True)  # error: call-arg
    app.logs(tail="3")  # error: arg-type
    app.endpoint = "http://localhost"  # error: misc
    app.activate_async()  # error: attr-defined
    App.get()  # error: call-arg
    App.get("a", "demo", "development", 3)  # error: call-arg
    App(name="a")  # error: call-arg


async def awaited(app: App) -> None:
    await flyte.serve(env)  # error: misc
    await app.activate(wait=True)  # error: misc
    await app.activate.aio(wait="yes")  # error: arg-type
    await App.get.aio(1)  # error: arg-type
    text: str = await app.is_active.aio()  # error: assignment
    print(text)


class Own(App):  # error: misc
    pass
