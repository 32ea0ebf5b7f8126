"""A small app. `flyte serve` serves it, `flyte serve --watch` again after each change."""

import json
from wsgiref.simple_server import make_server

import flyte
import flyte.app

env = flyte.app.AppEnvironment(name="APP_NAME")


def answer(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"hello": path.strip("/") or "world"}).encode()]


@env.server
def serve():
    make_server("", env.get_port().port, answer).serve_forever()


if __name__ == "__main__":
    print(flyte.serve(env).endpoint)
