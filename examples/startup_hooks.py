"""Hooks: `on_startup` runs before the server, `on_shutdown` after it was told to end.

An exception in `on_startup` keeps the app from starting, and `flyte.serve` raises it with the
traceback. What the hooks print is in the app's log: `flyte get logs startup-hooks`.

Run it with `python examples/startup_hooks.py`.
"""

from wsgiref.simple_server import make_server

import flyte
import flyte.app

env = flyte.app.AppEnvironment(name="startup-hooks")
model = {}


@env.on_startup
async def load():
    model["weights"] = [1, 2, 3]
    print("model loaded")


@env.on_shutdown
def unload():
    print("model unloaded")


def answer(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"weights: {model['weights']}\n".encode()]


@env.server
def serve():
    make_server("", env.get_port().port, answer).serve_forever()


if __name__ == "__main__":
    app = flyte.serve(env)
    print(app.endpoint)
