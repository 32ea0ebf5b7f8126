"""Revisions under load: none of them loses a request, and each can be gone back to."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
from urllib.parse import urlsplit

from support import Project, get, get_json

APP = """
import json, os
import flyte, flyte.app
from web import serve

env = flyte.app.AppEnvironment(name="{name}", scaling=flyte.app.Scaling(replicas={replicas}))

@env.server
def server():
    serve(lambda path: {{"word": "{word}", "pid": os.getpid()}})

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def serve(project: Project, name: str, word: str, replicas: int = 1) -> str:
    project.write("main.py", APP.format(name=name, word=word, replicas=replicas))
    return str(project.result())


def revisions(home, name: str) -> dict[int, str]:
    return {one["revision"]: one["state"] for one in home.json("get", "app", name, "--revisions")}


def test_revisions_are_listed_and_gone_back_to(project, home):
    endpoint = serve(project, "shop", "one")
    serve(project, "shop", "two")
    assert revisions(home, "shop") == {2: "SERVING", 1: "REPLACED"}
    done = home.flyte("update", "app", "shop", "--rollback")
    assert (done.returncode, done.stdout) == (0, "shop is ACTIVE as revision 3\n"), done.stderr
    assert get_json(endpoint)["word"] == "one"
    assert revisions(home, "shop") == {3: "SERVING", 2: "REPLACED", 1: "REPLACED"}
    assert home.flyte("update", "app", "shop", "--rollback", "2").returncode == 0
    assert get_json(endpoint)["word"] == "two"
    table = home.flyte("get", "app", "shop", "--revisions").stdout.splitlines()
    assert table[0].split() == ["REVISION", "STATE", "CREATED", "IMAGE"]
    assert len(table) == 5


def test_a_failed_revision_is_passed_over(project, home):
    endpoint = serve(project, "fragile", "one")
    project.write(
        "main.py", APP.format(name="fragile", word="two", replicas=1).replace("serve(lambda", "exit(lambda")
    )
    assert project.run().returncode != 0
    serve(project, "fragile", "three")
    assert revisions(home, "fragile") == {3: "SERVING", 2: "FAILED", 1: "REPLACED"}
    assert home.flyte("update", "app", "fragile", "--rollback").returncode == 0
    assert get_json(endpoint)["word"] == "one"


def test_what_cannot_be_gone_back_to_is_told(project, home):
    serve(project, "only", "one")
    for words, part in (
        (["--rollback"], "has no revision before 1"),
        (["--rollback", "1"], "is the one that serves"),
        (["--rollback", "7"], "there are 1"),
    ):
        refused = home.flyte("update", "app", "only", *words)
        assert refused.returncode == 2 and part in refused.stderr, refused.stderr
    unknown = home.flyte("update", "app", "nobody", "--rollback")
    assert unknown.returncode == 1 and "nobody" in unknown.stderr


class Load:
    """Clients with kept-alive connections that ask without a pause and note what they get."""

    def __init__(self, endpoint: str, clients: int) -> None:
        self.endpoint = endpoint
        self.failures: list[str] = []
        self.answers = 0
        self.over = threading.Event()
        self.clients = [threading.Thread(target=self.ask) for _ in range(clients)]

    def ask(self) -> None:
        parts = urlsplit(self.endpoint)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        while not self.over.is_set():
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read().decode()
            except OSError as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            if answer.status != 200:
                self.failures.append(f"{answer.status} {body}")
            self.answers += 1

    def __enter__(self) -> Load:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for client in self.clients:
            client.join()


def test_serving_again_under_load_loses_no_request(project, home):
    endpoint = serve(project, "busy", "0", replicas=2)
    with Load(endpoint, 4) as load:
        for number in range(1, 6):
            serve(project, "busy", str(number), replicas=2)
    assert load.failures == []
    assert load.answers > 100
    assert get_json(endpoint)["word"] == "5"


def test_killed_replicas_cost_at_most_what_they_were_answering(project, home):
    endpoint = serve(project, "target", "0", replicas=2)
    random.seed(1)
    kills = 0
    with Load(endpoint, 4) as load:
        for _ in range(5):
            pids = [one["pid"] for one in home.app("target")["replicas"]]
            if len(pids) == 2:
                os.kill(random.choice(pids), signal.SIGKILL)
                kills += 1
            time.sleep(1)
    assert kills
    # A request that was sent is not sent again where that could do something twice; these are GETs.
    assert len(load.failures) <= 4 * kills, load.failures
    assert all("broken_off" in failure for failure in load.failures), load.failures


def test_apps_answer_by_name_at_one_port(project, home):
    project.write(
        "main.py",
        """
        import json, flyte, flyte.app
        from flyte.app import Domain
        from web import serve

        env = flyte.app.AppEnvironment(name="named", domain=Domain(subdomain="front", custom_domain="front.example"))
        env.server(lambda: serve(lambda path: "named"))

        other = flyte.app.AppEnvironment(name="greedy", domain=Domain(custom_domain="front.example"))
        other.server(lambda: serve(lambda path: "greedy"))

        if __name__ == "__main__":
            flyte.serve(env)
            print(json.dumps(1))
        """,
    )
    project.result()
    told = home.json("get", "app", "named")
    port = urlsplit(told["by_name"]).port
    assert str(port) in home.status()["by_name"]
    scope = f"{told['project']}-{told['domain']}"
    for host, status in (
        (f"named-{scope}.localhost:{port}", 200),
        ("FRONT.localhost", 200),
        (f"front.example:{port}", 200),
        ("named.localhost", 404),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        assert (answer.status, host) == (status, host)
        connection.close()
    failure = project.failure("flyte.serve(main.other)")
    assert "`front.example` belongs to app" in failure["message"]


def name_status(home, name: str, host: str) -> int:
    port = urlsplit(home.json("get", "app", name)["by_name"]).port
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/", headers={"Host": host})
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_subdomain_is_derived_when_the_app_is_served(project, home):
    project.write(
        "main.py",
        """
        import json, flyte, flyte.app
        from flyte.app import Domain, Subdomain
        from web import serve

        first = Domain(subdomain=Subdomain.from_app_name("door", "default"))
        named = flyte.app.AppEnvironment(name="derived-name", domain=first)
        named.server(lambda: serve(lambda path: "named"))

        second = Domain(subdomain=Subdomain.from_function(lambda env, context: f"{env.name}-of-{context.project}"))
        computed = flyte.app.AppEnvironment(name="derived-text", domain=second)
        computed.server(lambda: serve(lambda path: "computed"))

        if __name__ == "__main__":
            print(json.dumps([flyte.serve(env).name for env in (named, computed)]))
        """,
    )
    assert project.result() == ["derived-name", "derived-text"]
    told = home.json("get", "app", "derived-name")
    host = f"door-{told['project']}-{told['domain']}.localhost"
    assert name_status(home, "derived-name", host) == 200
    assert name_status(home, "derived-text", f"derived-text-of-{told['project']}.localhost") == 200


def test_names_go_with_the_revision_that_serves(project, home):
    text = APP.format(name="renamed", word="one", replicas=1)
    named = text.replace(", scaling=", ", domain=flyte.app.Domain(subdomain='renamed-old'), scaling=")
    project.write("main.py", named)
    project.result()
    renamed = named.replace("renamed-old", "renamed-new")
    # One that fails neither takes the old name away nor gets the new one.
    project.write("main.py", renamed.replace("serve(lambda", "exit(lambda"))
    assert project.run().returncode != 0
    assert name_status(home, "renamed", "renamed-old.localhost") == 200
    assert name_status(home, "renamed", "renamed-new.localhost") == 404
    project.write("main.py", renamed)
    project.result()
    assert name_status(home, "renamed", "renamed-new.localhost") == 200
    assert name_status(home, "renamed", "renamed-old.localhost") == 404


def test_an_apps_own_name_is_not_anothers_subdomain(project, home):
    serve(project, "rightful", "one")
    told = home.json("get", "app", "rightful")
    own = f"rightful-{told['project']}-{told['domain']}"
    squatter = APP.format(name="squatter", word="two", replicas=1).replace(
        ", scaling=", f", domain=flyte.app.Domain(subdomain='{own}'), scaling="
    )
    project.write("main.py", squatter)
    assert f"`{own}.localhost` belongs to app" in project.failure()["message"]
    # The other way round: whoever comes later is told, and not left without a name.
    later = own.replace("rightful", "later")
    project.write("main.py", squatter.replace(own, later))
    project.result()
    project.write("main.py", APP.format(name="later", word="three", replicas=1))
    assert f"`{later}.localhost` belongs to app" in project.failure()["message"]
    assert home.flyte("delete", "app", "squatter").returncode == 0
    endpoint = serve(project, "later", "three")
    assert get_json(endpoint)["word"] == "three"
    assert name_status(home, "later", f"{later}.localhost") == 200


def test_traffic_is_counted(project, home):
    endpoint = serve(project, "counted", "one")
    for _ in range(10):
        assert get(endpoint)[0] == 200
    traffic = home.json("get", "app", "counted")["traffic"]
    assert (traffic["requests"], traffic["in_flight"], traffic["replicas"]) == (10, 0, 1)
    assert traffic["status"]["2xx"] == 10
    assert 0 < traffic["latency_ms"]["p50"] <= traffic["latency_ms"]["p99"] < 5000
    assert traffic["requests_per_second"] > 0
    status, text = get(home.status()["console"] + "/metrics")
    assert status == 200
    scope = json.dumps(home.app("counted")["project"]), json.dumps(home.app("counted")["domain"])
    labels = f'app="counted",project={scope[0]},domain={scope[1]}'
    for line in (
        f'flyte_app_requests_total{{{labels},status="2xx"}} 10',
        f"flyte_app_replicas{{{labels}}} 1",
        f"flyte_app_response_seconds_count{{{labels}}} 10",
        f'flyte_app_response_seconds_bucket{{{labels},le="+Inf"}} 10',
    ):
        assert line in text.splitlines(), text
