"""A graph of apps: what an app depends on is served before it and may be called by it.

`front` learns where `words` is from a parameter, and where `shout` is from `shout.endpoint`.

Run it with `python examples/graph.py` or `flyte serve examples/graph.py front`.
"""

import os
from urllib.request import urlopen
from wsgiref.simple_server import make_server

import flyte
import flyte.app
from flyte.app import AppEndpoint, AppEnvironment, Parameter

words = AppEnvironment(name="graph-words")
shout = AppEnvironment(name="graph-shout")
front = AppEnvironment(
    name="graph-front",
    parameters=[Parameter("words", AppEndpoint(app_name="graph-words"), env_var="WORDS_URL")],
    depends_on=[words, shout],
)


def answer_with(env, text):
    def answer(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text(environ["QUERY_STRING"]).encode()]

    make_server("", env.get_port().port, answer).serve_forever()


def fetch(url):
    with urlopen(url) as response:
        return response.read().decode()


@words.server
def serve_words():
    answer_with(words, lambda query: "flowers")


@shout.server
def serve_shout():
    answer_with(shout, lambda query: query.upper())


@front.server
def serve_front():
    answer_with(front, lambda query: fetch(f"{shout.endpoint}?{fetch(os.environ['WORDS_URL'])}"))


if __name__ == "__main__":
    app = flyte.serve(front)
    print(app.endpoint)
