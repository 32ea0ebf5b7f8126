"""A Flask app. `flyte serve` serves it, `flyte serve --watch` again after each change."""

import flyte
import flyte.app

env = flyte.app.AppEnvironment(
    name="APP_NAME",
    type="Flask",
    # What the app needs; it is installed there, not here.
    image=flyte.Image.from_debian_base().with_pip_packages("flask", "waitress"),
)


def make_app():
    from flask import Flask, request

    web = Flask("APP_NAME")

    @web.get("/")
    def hello():
        return {"hello": request.args.get("name", "world")}

    return web


@env.server
def serve():
    import waitress

    waitress.serve(make_app(), port=env.get_port().port)


if __name__ == "__main__":
    print(flyte.serve(env).endpoint)
