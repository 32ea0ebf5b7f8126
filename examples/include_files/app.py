"""Including files: imported modules are bundled by themselves, everything else is named.

`include` takes files, folders and patterns, relative to this file. The app finds them where they
were, seen from its own code.

Run it with `python examples/include_files/app.py` or `flyte serve examples/include_files/app.py`.
"""

from pathlib import Path
from wsgiref.simple_server import make_server

from rhymes import rhyme  # bundled because it is imported

import flyte
import flyte.app

env = flyte.app.AppEnvironment(name="include-files", include=["texts/*.txt"])


@env.server
def serve():
    lines = [path.read_text() for path in sorted(Path(__file__).parent.glob("texts/*.txt"))]

    def answer(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [rhyme(lines).encode()]

    make_server("", env.get_port().port, answer).serve_forever()


if __name__ == "__main__":
    app = flyte.serve(env)
    print(app.endpoint)
