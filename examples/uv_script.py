# /// script
# requires-python = ">=3.10"
# dependencies = ["roman==5.1"]
# ///
"""Inline requirements (PEP 723): the comment above is all there is to say about the image.

Run it with `python examples/uv_script.py`.
"""

from wsgiref.simple_server import make_server

import flyte
import flyte.app

env = flyte.app.AppEnvironment(
    name="uv-script",
    image=flyte.Image.from_uv_script(__file__, name="uv-script"),
)


@env.server
def serve():
    from roman import toRoman

    def answer(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [toRoman(int(environ["PATH_INFO"][1:] or 0)).encode()]

    make_server("", env.get_port().port, answer).serve_forever()


if __name__ == "__main__":
    app = flyte.serve(env)
    print(app.endpoint)
