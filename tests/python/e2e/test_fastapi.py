"""A FastAPI app as users write it, in an environment that is built from PyPI."""

from __future__ import annotations

import json

import pytest
from support import get, get_json

APP = """
import json, sys
from contextlib import asynccontextmanager

import fastapi
import flyte
import flyte.app
from flyte.app.extras import FastAPIAppEnvironment
from pydantic import BaseModel

@asynccontextmanager
async def lifespan(_):
    print("lifespan begins", flush=True)
    yield
    print("lifespan ends", flush=True)

app = fastapi.FastAPI(lifespan=lifespan)

class Item(BaseModel):
    name: str

@app.get("/")
async def root():
    return {"message": "hello", "word": flyte.app.get_parameter("word")}

@app.get("/items/{number}")
async def item(number: int) -> Item:
    return Item(name=f"item {number}")

@app.get("/versions")
def versions():
    import pydantic, uvicorn
    return {"fastapi": fastapi.__version__, "uvicorn": uvicorn.__version__, "prefix": sys.prefix}

env = FastAPIAppEnvironment(
    name="fast",
    app=app,
    image=flyte.Image.from_debian_base().with_pip_packages("fastapi", "uvicorn"),
    parameters=[flyte.app.Parameter("word", "first")],
)

if __name__ == "__main__":
    values = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    served = flyte.with_servecontext(input_values={"fast": values}).serve(env)
    print(json.dumps(served.endpoint))
"""


@pytest.fixture(scope="module")
def fast(home, tmp_path_factory):
    from support import Project

    project = Project(tmp_path_factory.mktemp("fast"), home)
    project.write("main.py", APP)
    return project


@pytest.fixture
def endpoint(fast):
    return fast.result()


def test_it_answers(endpoint):
    assert get_json(endpoint) == {"message": "hello", "word": "first"}
    assert get_json(endpoint + "/items/7") == {"name": "item 7"}
    assert get(endpoint + "/items/x")[0] == 422
    assert get_json(endpoint + "/openapi.json")["openapi"].startswith("3.")
    assert get(endpoint + "/docs")[0] == 200


def test_its_packages_are_of_its_own_environment(endpoint, home):
    assert get_json(endpoint + "/versions")["prefix"].startswith(str(home.path))


def test_a_second_serve_builds_nothing_and_restarts_nothing(fast, endpoint, home):
    pid = home.pid("fast")
    assert fast.result() == endpoint
    assert home.pid("fast") == pid


def test_another_value_comes_up_in_the_same_environment(fast, endpoint):
    assert fast.result("main.py", json.dumps({"word": "second"})) == endpoint
    assert get_json(endpoint)["word"] == "second"


def test_the_lifespan_of_the_app_is_respected(endpoint):
    from flyte.remote import App

    app = App.get("fast")
    app.deactivate(wait=True)
    assert "lifespan ends" in list(app.logs(tail=20))
    app.activate(wait=True)
    assert get_json(endpoint)["message"] == "hello"


def test_a_package_that_does_not_exist(fast):
    fast.write(
        "unbuildable.py",
        """
        import flyte, flyte.app
        from flyte import errors

        image = flyte.Image.from_debian_base().with_pip_packages("flyte-rs-no-such-package-at-all")
        env = flyte.app.AppEnvironment(name="unbuildable", args="true", image=image)
        try:
            flyte.serve(env)
        except errors.BuildError as error:
            assert "flyte-rs-no-such-package-at-all" in str(error), error
            print('"' + error.code + '"')
        """,
    )
    assert fast.result("unbuildable.py") == "image.build_failed"
