"""Lifecycle: an app outlives the script that served it, until somebody ends it.

Deactivating ends its processes and keeps its endpoint; activating brings it back there. Deleting
forgets it. `flyte get app`, `flyte update app` and `flyte delete app` do the same in a shell.

Run it with `python examples/lifecycle.py`.
"""

from urllib.request import urlopen

import flyte
import flyte.app
import flyte.remote

env = flyte.app.AppEnvironment(name="lifecycle", args=["python", "-m", "http.server", "8080"])

if __name__ == "__main__":
    app = flyte.serve(env)
    print("active:", app.is_active())

    app.deactivate(wait=True)
    print("deactivated:", app.is_deactivated())

    with app.ephemeral_ctx_sync():  # active inside the block only
        with urlopen(app.endpoint) as response:
            print("answer:", response.status)
        print("logged:", any('"GET / HTTP' in line for line in app.logs()))

    same = flyte.remote.App.get("lifecycle")  # from any process
    same.activate(wait=True)
    print("state:", same.deployment_status)
    print(same.endpoint)
