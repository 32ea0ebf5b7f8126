"""Deploying: apps as they are declared, without overrides; what CI would call.

One deployment comes back for each app that no other one of the list depends on, and all of them
are up when the call returns. In a shell: `flyte deploy examples/deploy.py web`.

Run it with `python examples/deploy.py`.
"""

import flyte
import flyte.app

store = flyte.app.AppEnvironment(name="deploy-store", args=["python", "-m", "http.server", "8080"])
web = flyte.app.AppEnvironment(
    name="deploy-web",
    args=["python", "-m", "http.server", "8080"],
    depends_on=[store],
    resources=flyte.Resources(cpu=1, memory="256Mi"),
)

if __name__ == "__main__":
    deployments = flyte.deploy(web, store)
    print(len(deployments), "deployment")
    for deployment in deployments:
        print(deployment.summary_repr())
        print(deployment.endpoint)
