"""Parameters: values that an app is given when it starts, some replaced when it is served.

A server function receives those that its arguments name; `flyte.app.get_parameter` reads any of
them, and `env_var` also sets an environment variable. A file arrives as a local path.

Run it with `python examples/parameters.py`
or `flyte serve examples/parameters.py --param greeting="Good evening"`.
"""

from pathlib import Path
from wsgiref.simple_server import make_server

import flyte
import flyte.app
from flyte.app import Parameter
from flyte.io import File

NAMES = File.from_local_sync(Path(__file__).parent / "data" / "names.txt")

env = flyte.app.AppEnvironment(
    name="parameters",
    parameters=[
        Parameter("greeting", "Hello"),
        Parameter("times", 1),
        Parameter("loud", True, env_var="LOUD"),
        Parameter("names", NAMES),
    ],
)


@env.server
def serve(greeting: str, times: int, loud: bool, names: File):
    people = Path(names).read_text().split()
    text = "\n".join(f"{greeting}, {name}" + "!" * times for name in people)
    body = (text.upper() if loud else text).encode()

    def answer(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    make_server("", env.get_port().port, answer).serve_forever()


if __name__ == "__main__":
    context = flyte.with_servecontext(input_values={"parameters": {"greeting": "Good morning", "times": 3}})
    app = context.serve(env)
    print(app.endpoint)
