"""The smallest app: a function that answers HTTP, with nothing but the standard library.

Run it with `python examples/hello.py` or `flyte serve examples/hello.py`.
"""

from wsgiref.simple_server import make_server

import flyte
import flyte.app

env = flyte.app.AppEnvironment(name="hello")


def answer(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello from flyte-rs\n"]


@env.server
def serve():
    make_server("", env.get_port().port, answer).serve_forever()


if __name__ == "__main__":
    app = flyte.serve(env)
    print(app.endpoint)
