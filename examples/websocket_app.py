"""WebSockets: connections stay open through the platform for as long as the app wants.

Run it with `python examples/websocket_app.py`, and talk to it with
`python -m websockets ws://localhost:PORT/echo`.
"""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

import flyte
from flyte.app.extras import FastAPIAppEnvironment

api = FastAPI()
env = FastAPIAppEnvironment(
    name="websocket-app",
    app=api,
    image=flyte.Image.from_debian_base().with_pip_packages("fastapi", "uvicorn", "websockets"),
)


@api.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(f"echo: {await socket.receive_text()}")
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    app = flyte.serve(env)
    print(app.endpoint.replace("http", "ws", 1) + "/echo")
