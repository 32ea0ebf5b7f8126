"""How many replicas an app has: bounds, growth with traffic, rest without it, and waking up."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import Project, get, get_json, until

APP = """
import json, os, threading, time
import flyte, flyte.app
from flyte.app import Scaling
from web import serve

env = flyte.app.AppEnvironment(name="{name}", scaling={scaling}, timeouts=flyte.app.Timeouts(request=50))
busy, most, lock = 0, 0, threading.Lock()

def answer(path):
    global busy, most
    with lock:
        busy += 1
        most = max(most, busy)
    if path.startswith("/slow"):
        time.sleep(float(path.rpartition("/")[2]))
    with lock:
        busy -= 1
    return {{"pid": os.getpid(), "most": most, "cwd": os.getcwd()}}

@env.server
def server():
    serve(answer, port=8080)

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def serve(project: Project, name: str, scaling: str) -> str:
    project.write("main.py", APP.format(name=name, scaling=scaling))
    return str(project.result())


def replicas(home, name: str) -> list[int]:
    return [replica["pid"] for replica in home.app(name)["replicas"]]


def substate(home, name: str) -> str:
    return str(home.json("get", "app", name)["substate"])


def test_a_fixed_number_of_replicas_shares_the_requests(project, home):
    endpoint = serve(project, "pair", "Scaling(replicas=2)")
    assert len(replicas(home, "pair")) == 2
    # Both hardcode port 8080; each has its own port and folder.
    told = [get_json(endpoint) for _ in range(10)]
    assert {one["pid"] for one in told} == set(replicas(home, "pair"))
    assert len({one["cwd"] for one in told}) == 2
    assert home.json("get", "app", "pair")["replicas"] == 2


def test_a_killed_replica_is_replaced_while_the_other_serves(project, home):
    endpoint = serve(project, "pair", "Scaling(replicas=2)")
    victim, other = replicas(home, "pair")
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in replicas(home, "pair"), 5)
    for _ in range(20):
        assert get(endpoint)[0] == 200
    until(lambda: len(replicas(home, "pair")) == 2, 20)
    assert other in replicas(home, "pair")
    assert home.app("pair")["status"] == "ACTIVE"


def test_an_app_without_traffic_rests_and_a_request_wakes_it(project, home):
    endpoint = serve(project, "sleeper", "Scaling(replicas=(0, 1), scaledown_after=1)")
    first = get_json(endpoint)["pid"]
    until(lambda: replicas(home, "sleeper") == [], 15)
    assert home.app("sleeper")["status"] == "ACTIVE"
    assert substate(home, "sleeper") == "SCALED_TO_ZERO"
    until(lambda: home.replicas("sleeper") == [], 15)
    # The first ones after the rest wait for the start; none of them fails.
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: get(endpoint), range(8)))
    assert [status for status, _ in answers] == [200] * 8
    pids = {json.loads(body)["pid"] for _, body in answers}
    assert len(pids) == 1 and first not in pids
    until(lambda: substate(home, "sleeper") == "RUNNING")


def test_an_app_that_is_woken_says_so(project, home):
    scaling = "Scaling(replicas=(0, 1), scaledown_after=1)"
    text = APP.format(name="riser", scaling=scaling)
    project.write("main.py", text.replace("def server():\n", "def server():\n    time.sleep(3)\n"))
    endpoint = project.result()
    until(lambda: substate(home, "riser") == "SCALED_TO_ZERO", 15)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, endpoint)
        until(lambda: substate(home, "riser") == "SCALING_FROM_ZERO", 10)
        assert answer.result()[0] == 200
    until(lambda: substate(home, "riser") == "RUNNING")


def test_the_rate_of_requests_brings_replicas_too(project, home):
    endpoint = serve(
        project, "rated", "Scaling(replicas=(1, 2), metric=Scaling.RequestRate(2), scaledown_after=2)"
    )
    assert len(replicas(home, "rated")) == 1
    deadline = time.monotonic() + 30
    while len(replicas(home, "rated")) < 2:
        # Quick ones, one after the other: a concurrency of hardly anything.
        for _ in range(10):
            assert get(endpoint)[0] == 200
        assert time.monotonic() < deadline
    until(lambda: len(replicas(home, "rated")) == 1, 30)


def test_a_replica_that_ignores_the_polite_signal_does_not_hold_its_app_up(project, home):
    text = APP.format(name="deaf", scaling="Scaling(replicas=1)")
    stubborn = "def server():\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    stubborn += "    print('deaf now', flush=True)\n    time.sleep(600)\n"
    deaf = text.replace("import json, os", "import json, os, signal").replace("def server():\n", stubborn)
    project.write("main.py", deaf)
    started = project.start()
    until(lambda: home.replicas("deaf") != [], 20)
    until(lambda: "deaf now" in home.flyte("get", "logs", "deaf").stdout, 20)
    # The newer one does not wait for the end of the one that it overtakes.
    endpoint = serve(project, "deaf", "Scaling(replicas=1)")
    assert get(endpoint)[0] == 200
    assert started.wait(20) != 0
    states = {one["revision"]: one["state"] for one in home.json("get", "app", "deaf", "--revisions")}
    assert states == {2: "SERVING", 1: "OVERTAKEN"}
    until(lambda: len(home.replicas("deaf")) == 1, 20, "what was overtaken is killed after its grace")


def test_a_request_keeps_an_app_awake_for_as_long_as_it_takes(project, home):
    endpoint = serve(project, "sleeper", "Scaling(replicas=(0, 1), scaledown_after=1)")
    pid = get_json(endpoint)["pid"]
    status, body = get(endpoint + "/slow/4")
    assert status == 200
    assert json.loads(body)["pid"] == pid


def test_resting_apps_come_back_at_rest(project, home):
    endpoint = serve(project, "sleeper", "Scaling(replicas=(0, 1), scaledown_after=1)")
    until(lambda: substate(home, "sleeper") == "SCALED_TO_ZERO", 15)
    assert home.flyte("local", "stop").returncode == 0
    assert home.flyte("local", "start").returncode == 0
    assert replicas(home, "sleeper") == []
    assert get(endpoint)[0] == 200


def test_traffic_brings_replicas_and_its_end_takes_them_away(project, home):
    endpoint = serve(
        project, "elastic", "Scaling(replicas=(1, 3), metric=Scaling.Concurrency(2), scaledown_after=2)"
    )
    assert len(replicas(home, "elastic")) == 1
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(get, endpoint + "/slow/1", 60) for _ in range(30)]

        def grown() -> bool:
            # As much again, until that many replicas have had the time to start.
            if all(future.done() for future in answers[-6:]):
                answers.extend(pool.submit(get, endpoint + "/slow/1", 60) for _ in range(6))
            return len(replicas(home, "elastic")) == 3

        until(grown, 60)
        told = [future.result() for future in answers]
    assert {status for status, _ in told} == {200}
    # Not one of them ever had more than it may.
    assert max(json.loads(body)["most"] for _, body in told) <= 2
    until(lambda: len(replicas(home, "elastic")) == 1, 30)
    assert get(endpoint)[0] == 200


def test_a_new_revision_comes_with_as_many_replicas_as_the_old_one(project, home):
    scaling = "Scaling(replicas=(2, 4))"
    endpoint = serve(project, "rolled", scaling)
    before = set(replicas(home, "rolled"))
    failures: list[tuple[int, str]] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            status, body = get(endpoint)
            if status != 200:
                failures.append((status, body))

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    project.write("other.py", "")
    project.write("main.py", APP.format(name="rolled", scaling=scaling) + "\n# changed\n")
    project.result()
    time.sleep(0.2)
    over.set()
    for client in clients:
        client.join()
    assert failures == []
    after = set(replicas(home, "rolled"))
    assert len(after) == 2 and not after & before


@pytest.mark.parametrize("name", ["sleeper"])
def test_a_deactivated_app_is_not_woken(project, home, name):
    endpoint = serve(project, name, "Scaling(replicas=(0, 1), scaledown_after=1)")
    assert home.flyte("update", "app", name, "--deactivate", "--wait").returncode == 0
    status, body = get(endpoint)
    assert (status, json.loads(body)["error"]["code"]) == (503, "app.deactivated")
    assert replicas(home, name) == []


def test_an_app_that_takes_too_much_memory_is_killed_and_says_so(project, home):
    project.write(
        "main.py",
        """
        import json, threading, time
        import flyte, flyte.app
        from web import serve

        env = flyte.app.AppEnvironment(
            name="greedy",
            resources=flyte.Resources(memory="150Mi"),
            scaling=flyte.app.Scaling(replicas=1),
        )
        held = []

        def answer(path):
            if path == "/take":
                held.append(bytearray(300 << 20))
                time.sleep(5)
            return "here"

        env.server(lambda: serve(answer))

        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    endpoint = project.result()
    assert get(endpoint + "/take")[0] == 502
    until(lambda: get(endpoint)[0] == 200, 20)
    log = home.flyte("get", "logs", "greedy").stdout
    assert "MiB of memory and may have 150 MiB" in log
    # The pauses between grow, until there is time to look.
    for _ in range(5):
        assert get(endpoint + "/take")[0] == 502

    def told() -> tuple[str, str]:
        app = home.json("get", "app", "greedy")
        return app["status"], app["substate"]

    until(lambda: told() == ("FAILED", "OOM_KILLED"))
    # Again while it starts: the caller learns why.
    project.write(
        "main.py",
        (project.folder / "main.py").read_text().replace("held = []", "held = [bytearray(300 << 20)]"),
    )
    failure = project.failure()
    assert failure["code"] == "app.out_of_memory", failure
    assert "may have 150 MiB" in failure["message"]


def test_an_app_uses_no_more_of_a_processor_than_it_may(project, home):
    project.write(
        "main.py",
        """
        import json, time
        import flyte, flyte.app
        from web import serve

        env = flyte.app.AppEnvironment(name="slowed", resources=flyte.Resources(cpu="200m"))

        def answer(path):
            began, used = time.monotonic(), time.process_time()
            while time.monotonic() < began + 2:
                pass
            return (time.process_time() - used) / (time.monotonic() - began)

        env.server(lambda: serve(answer))

        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    # A busy machine may give it less, or hold up whoever holds it up.
    endpoint = project.result()
    assert min(get_json(endpoint) for _ in range(3)) < 0.35
