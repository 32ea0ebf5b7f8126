"""Ports: one app asks for its port, the other one hardcodes it. Both run at the same time.

`env.get_port()` is the port to listen on. A program that cannot ask may listen on the declared
port; on Linux the local platform leads it to a port of its own, so any number of apps can
declare 8080.

Run it with `python examples/port.py`.
"""

import sys

import flyte
import flyte.app

asks = flyte.app.AppEnvironment(name="port-asks", port=8080)
hardcodes = flyte.app.AppEnvironment(
    name="port-hardcodes",
    port=8080,
    args=["python", "-m", "http.server", "8080"],
)


@asks.server
def serve():
    from wsgiref.simple_server import demo_app, make_server

    make_server("", asks.get_port().port, demo_app).serve_forever()


if __name__ == "__main__":
    for env in (asks, hardcodes):
        app = flyte.serve(env)
        print(f"{app.name} answers", file=sys.stderr)
        print(app.endpoint)
