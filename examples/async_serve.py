"""Async: everything that waits has an `.aio` form for use inside an event loop.

Run it with `python examples/async_serve.py`.
"""

import asyncio

import flyte
import flyte.app

first = flyte.app.AppEnvironment(name="async-first", args=["python", "-m", "http.server", "8080"])
second = first.clone_with("async-second")


async def main() -> None:
    apps = await asyncio.gather(flyte.serve.aio(first), flyte.serve.aio(second))
    print("active:", [await app.is_active.aio() for app in apps])
    for app in apps:
        print(app.endpoint)


if __name__ == "__main__":
    asyncio.run(main())
