"""Images: packages and variables of an app, apart from those of the client.

On a laptop the image becomes a Python environment, built once for each content and kept.

Run it with `python examples/image_packages.py`.
"""

import os
from wsgiref.simple_server import make_server

import flyte
import flyte.app

image = (
    flyte.Image.from_debian_base()
    .with_pip_packages("markdown-it-py==3.0.0")
    .with_env_vars({"HEADING": "From the image", "TEXT": "and so is this"})
)
env = flyte.app.AppEnvironment(
    name="image-packages",
    image=image,
    env_vars={"TEXT": "but *this* is from the app"},
)


@env.server
def serve():
    from markdown_it import MarkdownIt  # not installed on the client

    html = MarkdownIt().render(f"# {os.environ['HEADING']}\n\n{os.environ['TEXT']}")

    def answer(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        return [html.encode()]

    make_server("", env.get_port().port, answer).serve_forever()


if __name__ == "__main__":
    app = flyte.serve(env)
    print(app.endpoint)
