"""The platform's own life: stopped and started, killed, its apps killed, started twice at once."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import WEB, Project, get, get_json, is_alive, refuses, until

APP = """
import os
import flyte, flyte.app
import web

def app(name, answer):
    program = f"import os, web; web.serve(lambda path: {answer})"
    return flyte.app.AppEnvironment(name=name, args=["python", "-c", program])

env = app("lasting", "os.getpid()")
other = app("resting", "'rest'")

if __name__ == "__main__":
    flyte.serve(env)
    flyte.serve(other).deactivate(wait=True)
"""


@pytest.fixture
def lasting(fresh_home, tmp_path):
    """A home with one app that runs and one that was put to rest."""
    project = Project(tmp_path, fresh_home)
    project.write("web.py", WEB)
    project.write("main.py", APP)
    done = project.run()
    assert done.returncode == 0, done.stderr
    return fresh_home


def endpoints(home):
    return {app["name"]: app["endpoint"] for app in home.status()["apps"]}


def test_apps_come_back_after_stop_and_start_as_they_were(lasting):
    before, pid = endpoints(lasting), lasting.pid("lasting")
    platform = lasting.status()["pid"]
    assert lasting.flyte("local", "stop").returncode == 0
    assert not is_alive(platform)
    assert not is_alive(pid)
    assert lasting.replicas() == []
    assert all(refuses(endpoint) for endpoint in before.values())
    assert lasting.flyte("local", "status").returncode == 1
    assert lasting.flyte("local", "stop").returncode == 0, "stopping what does not run is fine"
    assert lasting.flyte("local", "start").returncode == 0
    assert endpoints(lasting) == before
    # The first request may come while the app still starts; it waits.
    assert get_json(before["lasting"]) != pid
    assert get(before["resting"])[0] == 503
    assert lasting.app("resting")["replicas"] == []
    assert lasting.app("resting")["status"] == "STOPPED"
    assert lasting.flyte("update", "app", "resting", "--activate", "--wait").returncode == 0
    assert get(before["resting"]) == (200, '"rest"')


@pytest.mark.parametrize("words", [("get", "app"), ("local", "start")], ids=["get", "start"])
def test_a_killed_platform_is_replaced_and_leaves_no_stray_process(lasting, words):
    before, pid = endpoints(lasting), lasting.pid("lasting")
    platform = lasting.status()["pid"]
    os.kill(platform, signal.SIGKILL)
    until(lambda: not is_alive(platform), 5)
    done = lasting.flyte(*words)
    assert done.returncode == 0, done.stderr
    assert endpoints(lasting) == before
    until(lambda: get(before["lasting"])[0] == 200, 10)
    assert not is_alive(pid)
    assert lasting.replicas() == [lasting.pid("lasting")]
    assert get(before["resting"])[0] == 503


def test_apps_end_with_a_killed_platform_at_once(lasting):
    pid = lasting.pid("lasting")
    os.kill(lasting.status()["pid"], signal.SIGKILL)
    until(lambda: not is_alive(pid), 15, "the app of a platform that is gone is gone")


def test_serving_goes_on_with_a_new_platform_where_the_one_it_spoke_to_is_killed(lasting, tmp_path):
    project = Project(tmp_path / "slow", lasting)
    project.write(
        "main.py",
        """
        import flyte, flyte.app

        program = "import time; time.sleep(2); import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080)"
        env = flyte.app.AppEnvironment(name="slow", args=["python", "-c", program])

        if __name__ == "__main__":
            print(flyte.serve(env).endpoint)
        """,
    )
    serving = project.start()
    platform = lasting.status()["pid"]
    until(lambda: lasting.replicas("slow"), 20, "the app is started")
    os.kill(platform, signal.SIGKILL)
    out, err = serving.communicate(timeout=60)
    assert serving.returncode == 0, err
    assert get(out.splitlines()[-1])[0] == 200
    assert "goes on with a new one" in err
    assert lasting.status()["pid"] != platform
    assert lasting.app("slow")["status"] == "ACTIVE"
    assert lasting.replicas("slow") == [lasting.pid("slow")]
    assert lasting.app("slow")["revision"] == 1, "what was sent is not sent anew"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_platform_as_stop_does(lasting, number):
    platform = lasting.status()["pid"]
    os.kill(platform, number)
    until(lambda: not is_alive(platform), 15)
    assert lasting.replicas() == []
    assert not (lasting.path / "run" / "platform.sock").exists()


def test_a_crashed_app_is_started_again(lasting):
    endpoint, pid = endpoints(lasting)["lasting"], lasting.pid("lasting")
    assert get_json(endpoint) == pid
    os.kill(pid, signal.SIGKILL)

    def answered():
        # A request that the dying process had taken is lost with it; each one is answered, though.
        status, body = get(endpoint)
        assert status in (200, 502), (status, body)
        return int(body) if status == 200 else None

    fresh = until(answered, 10)
    assert fresh != pid
    until(lambda: lasting.app("lasting")["status"] == "ACTIVE", 5)
    assert lasting.pid("lasting") == fresh


def test_two_that_start_the_platform_at_once_get_one(fresh_home, tmp_path):
    project = Project(tmp_path, fresh_home)
    starting = [
        subprocess.Popen(
            [Path(sys.executable).with_name("flyte"), "local", "start", "--output", "json"],
            env=fresh_home.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ended = [process.communicate(timeout=60) for process in starting]
    assert [process.returncode for process in starting] == [0] * 4, ended
    import json

    assert len({json.loads(out)["pid"] for out, _ in ended}) == 1
    assert project.home.status()["apps"] == []


@pytest.fixture
def fetching():
    """An engine that is never through with an image: its address, when it began and when it was let off."""
    begun, let_off = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 90

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.endswith("/version"):
                self.answer(200, {"ApiVersion": "1.44", "Os": "linux", "Arch": "amd64"})
            elif path.endswith("/containers/json"):
                self.answer(200, [])
            else:
                self.answer(404, {"message": "not here"})

        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            begun.set()
            with contextlib.suppress(ConnectionError):
                self.rfile.read()
            let_off.set()
            self.close_connection = True

        def answer(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"tcp://127.0.0.1:{server.server_port}", begun, let_off
    server.shutdown()
    server.server_close()


def test_an_app_is_deleted_while_its_image_is_fetched(fresh_home, tmp_path, fetching):
    engine, begun, let_off = fetching
    project = Project(tmp_path, fresh_home)
    project.write(
        "main.py",
        """
        import flyte, flyte.app

        image = flyte.Image.from_base("registry.test/app:1")
        env = flyte.app.AppEnvironment(name="awaited", image=image, args=["app"])

        if __name__ == "__main__":
            flyte.serve(env)
        """,
    )
    project.start(DOCKER_HOST=engine)
    try:
        assert begun.wait(60), "the image is fetched"
        deleted = fresh_home.flyte("delete", "app", "awaited")
        assert deleted.returncode == 0, deleted.stderr
        assert let_off.wait(20), "nobody waits for the image any more"
        assert fresh_home.names() == []
    finally:
        project.close()


def test_only_the_user_can_reach_the_platform(lasting):
    run = lasting.path / "run"
    socket = run / "platform.sock"
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE(lasting.path.stat().st_mode) == 0o700
    assert lasting.status()["socket"] == str(socket)


def test_what_an_app_wrote_outlives_the_platform(lasting):
    first = lasting.flyte("get", "logs", "lasting")
    assert lasting.flyte("local", "stop").returncode == 0
    assert lasting.flyte("local", "start").returncode == 0
    assert lasting.flyte("get", "logs", "lasting").stdout.startswith(first.stdout)


def test_homes_do_not_know_of_each_other(lasting, home):
    assert home.flyte("local", "start").returncode == 0
    assert home.names() == []
    assert sorted(lasting.names()) == ["lasting", "resting"]
    assert home.status()["pid"] != lasting.status()["pid"]
    # Ending one leaves the other's apps alone.
    assert home.flyte("local", "stop").returncode == 0
    assert get(endpoints(lasting)["lasting"])[0] == 200


def test_the_platform_may_open_more_files_than_its_apps(fresh_home, tmp_path):
    project = Project(tmp_path, fresh_home)
    project.write("web.py", WEB)
    project.write(
        "main.py",
        """
        import json, resource
        import flyte, flyte.app
        from web import serve

        env = flyte.app.AppEnvironment(name="modest")
        env.server(lambda: serve(lambda path: [*resource.getrlimit(resource.RLIMIT_NOFILE)]))

        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 600
    if hard != resource.RLIM_INFINITY and hard <= few:
        pytest.skip("no more than that may be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        endpoint = project.result()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert get_json(endpoint) == [few, hard]
    own = Path(f"/proc/{fresh_home.status()['pid']}/limits").read_text()
    (line,) = [line for line in own.splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) > few
