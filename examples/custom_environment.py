"""A kind of app of one's own: a subclass with fields and a server that uses them.

Run it with `python examples/custom_environment.py`.
"""

from dataclasses import dataclass, field
from wsgiref.simple_server import make_server

import flyte
from flyte.app import AppEnvironment


@dataclass(repr=False)
class PagesEnvironment(AppEnvironment):
    """Serves fixed texts under their paths."""

    type: str | None = "Pages"
    pages: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.server(self.run)

    def run(self) -> None:
        def answer(environ, start_response):
            page = self.pages.get(environ["PATH_INFO"])
            start_response("200 OK" if page else "404 Not Found", [("Content-Type", "text/plain")])
            return [(page or "no such page").encode()]

        make_server("", self.get_port().port, answer).serve_forever()


env = PagesEnvironment(name="custom-environment", pages={"/": "welcome", "/about": "about us"})

if __name__ == "__main__":
    app = flyte.serve(env)
    print(app.endpoint)
