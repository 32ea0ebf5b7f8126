"""A FastAPI app. `flyte serve` serves it, `flyte serve --watch` again after each change."""

from fastapi import FastAPI

import flyte
from flyte.app.extras import FastAPIAppEnvironment

api = FastAPI(title="APP_NAME")
env = FastAPIAppEnvironment(
    name="APP_NAME",
    app=api,
    # What the app needs; it is installed there, not here.
    image=flyte.Image.from_debian_base().with_pip_packages("fastapi", "uvicorn"),
)


@api.get("/")
async def hello(name: str = "world") -> dict[str, str]:
    return {"hello": name}


if __name__ == "__main__":
    app = flyte.serve(env)
    print(f"{app.endpoint}/docs")
