"""FastAPI: the app object is declared, uvicorn is run by flyte.

The image says what the app needs. The client imports this file too, so it needs fastapi as well.

Run it with `python examples/fastapi_app.py`.
"""

from fastapi import FastAPI

import flyte
from flyte.app.extras import FastAPIAppEnvironment

api = FastAPI()
env = FastAPIAppEnvironment(
    name="fastapi-app",
    app=api,
    image=flyte.Image.from_debian_base().with_pip_packages("fastapi", "uvicorn"),
)


@api.get("/squares/{number}")
async def square(number: int) -> dict[str, int]:
    return {"square": number * number}


if __name__ == "__main__":
    app = flyte.serve(env)
    print(f"{app.endpoint}/docs")
    print(app.endpoint)
