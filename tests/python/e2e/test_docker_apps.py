"""Apps whose image is a container's: run by the engine of this machine, looked after as any other."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import Engine
from support import WEB, Home, Project, get, get_json, is_alive, until

# `tester`, whose password is `open-sesame`.
HTPASSWD = "tester:$2b$04$B68Ail.mIIXaoNKYkA71h.lUF8/ZaZWHEnlw98RrOFu4U0vGm4APW\n"
APP = """
import json, os, sys, time
import flyte, flyte.app
import web

env = flyte.app.AppEnvironment(
    name="{name}",
    image=flyte.Image.from_base("{image}"),
    {more}
)

@env.server
def server():
    print("the server begins", flush=True)
    {body}

def answer(path):
    if path == "/exit":
        os._exit(3)
    {path}
    return {{"pid": os.getpid(), "user": os.getuid(), "cwd": os.getcwd(),
            "mode": os.environ.get("MODE"), "hosts": open("/etc/hosts").read()}}

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def write(
    project: Project,
    image: str,
    name: str,
    more: str = "",
    body: str = "web.serve(answer, port=8080)",
    path: str = "pass",
) -> None:
    project.write("main.py", APP.format(name=name, image=image, more=more, body=body, path=path))


@pytest.fixture(autouse=True)
def nothing_is_left(home, engine, app_image):
    """No container stays of the apps that a test serves."""
    yield
    for name in home.names():
        deleted = home.flyte("delete", "app", name)
        assert deleted.returncode == 0, deleted.stderr
    assert engine.containers(home.path) == []


def logs(home: Home, name: str) -> str:
    return home.flyte("get", "logs", name).stdout


def only(engine: Engine, home: Home) -> Any:
    (container,) = engine.containers(home.path)
    return container


def test_an_app_in_a_container_answers_logs_and_ends(project, home, engine, app_image):
    more = 'env_vars={"MODE": "boxed"}, resources=flyte.Resources(cpu=("250m", "500m"), memory=("64Mi", "256Mi")),'
    write(project, app_image, "boxed", more)
    endpoint = project.result()
    seen = get_json(endpoint)
    assert (seen["user"], seen["mode"]) == (1000, "boxed")
    assert seen["cwd"] == "/home/app"
    container = only(engine, home)
    assert container["Config"]["Image"] == app_image
    assert container["HostConfig"]["Memory"] == 256 << 20
    assert container["HostConfig"]["NanoCpus"] == 500_000_000
    (binding,) = container["NetworkSettings"]["Ports"]["8080/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    assert home.pid("boxed") == container["State"]["Pid"]
    assert "the server begins" in logs(home, "boxed")
    stopped = home.flyte("update", "app", "boxed", "--deactivate")
    assert stopped.returncode == 0, stopped.stderr
    assert engine.containers(home.path) == []
    assert get(endpoint)[0] == 503


def test_more_cores_than_the_engine_has_are_no_limit(project, home, engine, app_image):
    write(project, app_image, "greedy", "resources=flyte.Resources(cpu=4096),")
    assert get_json(project.result())["user"] == 1000
    assert only(engine, home)["HostConfig"]["NanoCpus"] == 0


def test_a_container_that_ends_is_started_again_and_says_why(project, home, engine, app_image):
    write(project, app_image, "restless")
    endpoint = project.result()

    def replaced(before: Any) -> Any:
        running = [one for one in engine.containers(home.path) if one["State"]["Running"]]
        return [one for one in running if one["Id"] != before["Id"]]

    first = only(engine, home)
    get(endpoint + "/exit")
    (second,) = until(lambda: replaced(first), 20)
    assert get_json(endpoint)["user"] == 1000
    assert "exited with code 3" in logs(home, "restless")
    os.kill(second["State"]["Pid"], signal.SIGKILL)
    until(lambda: replaced(second), 20)
    assert get_json(endpoint)["user"] == 1000
    assert "was killed by signal 9" in logs(home, "restless")


def test_a_request_scales_a_container_from_zero(project, home, engine, app_image):
    write(project, app_image, "sleeper", "scaling=flyte.app.Scaling(replicas=(0, 1), scaledown_after=1),")
    endpoint = project.result()
    assert get_json(endpoint)["user"] == 1000
    until(lambda: engine.containers(home.path) == [], 30)
    assert get_json(endpoint)["user"] == 1000


def test_two_replicas_share_a_port_that_both_declare(project, home, engine, app_image):
    write(project, app_image, "pair", "scaling=flyte.app.Scaling(replicas=2),", path="web.sleep = None")
    endpoint = project.result()
    assert len(engine.containers(home.path)) == 2
    hosts = {get_json(endpoint)["hosts"].split()[-1] for _ in range(10)}
    assert len(hosts) == 2


@pytest.mark.parametrize(
    ("more", "body", "code", "said"),
    [
        ("", "raise SystemExit(7)", "app.exited", "exited with code 7"),
        ("", "import no_such_module", "app.missing_module", "`no_such_module`"),
        ("", "web.serve(answer, port=9999)", "app.wrong_port", "listens on port 9999 but declares port 8080"),
        (
            "",
            'web.serve(answer, port=8080, host="127.0.0.1")',
            "app.not_listening",
            "it has to listen on `0.0.0.0`",
        ),
        (
            'resources=flyte.Resources(memory=("64Mi", "64Mi")),',
            "held = [bytearray(1 << 20) for _ in range(500)]; web.serve(answer)",
            "app.out_of_memory",
            "64 MiB",
        ),
    ],
)
def test_why_a_container_does_not_come_up(project, app_image, more, body, code, said):
    write(project, app_image, "broken", more, body)
    failure = project.failure()
    assert (failure["code"], failure["class"]) == (code, "AppError"), failure
    assert said in failure["message"], failure
    assert failure["seconds"] < 90


def test_an_image_that_is_nowhere_is_told_with_the_registrys_answer(project, home):
    write(project, "localhost:1/no/such:image", "absent")
    failure = project.failure()
    assert failure["code"] == "image.pull_failed"
    assert "localhost:1/no/such:image" in failure["message"]


@pytest.fixture
def private(engine: Engine, app_image: str, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An image that only its registry has, and the folder of a Docker configuration that opens it."""
    program = shutil.which("docker-registry")
    if program is None:
        message = "no `docker-registry`; Debian's package has it"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
        f"auth: {{htpasswd: {{realm: tests, path: {tmp_path}/htpasswd}}}}\n"
    )
    process = subprocess.Popen([program, "serve", settings], stderr=subprocess.DEVNULL)
    host = f"127.0.0.1:{port}"

    def is_up() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    until(is_up, 20, "the registry listens")
    configured, image = tmp_path / "docker", f"{host}/team/app:{os.getpid()}"
    configured.mkdir()
    login = base64.b64encode(b"tester:open-sesame").decode()
    (configured / "config.json").write_text(json.dumps({"auths": {host: {"auth": login}}}))
    engine.run("tag", app_image, image)
    engine.run("--config", str(configured), "push", "--quiet", image)
    engine.run("rmi", image)
    yield image, configured
    engine.run("rmi", "--force", image, check=False)
    process.terminate()
    process.wait()


def test_a_private_image_is_fetched_with_the_login_of_its_registry(fresh_home, tmp_path, engine, private):
    image, configured = private
    project = Project(tmp_path / "project", fresh_home)
    project.write("web.py", WEB)
    write(project, image, "private")
    empty = tmp_path / "empty"
    empty.mkdir()
    failure = project.failure(DOCKER_CONFIG=str(empty))
    assert failure["code"] == "image.pull_failed"
    assert "docker login" in failure["message"]
    fresh_home.flyte("local", "stop")
    endpoint = project.result(DOCKER_CONFIG=str(configured))
    assert get(endpoint)[0] == 200
    fresh_home.flyte("local", "stop")


def test_an_image_without_the_sdk_says_so(project, home, engine):
    write(project, "flyte-test-base:bookworm", "bare")
    failure = project.failure()
    assert failure["code"] == "runtime.load"
    assert "holds no `fserve`" in failure["message"]


def test_apps_find_each_other_across_the_walls(project, home, app_image):
    project.write(
        "main.py",
        f"""
        import json, os, urllib.request
        import flyte, flyte.app
        from flyte.app import AppEndpoint, Parameter
        import web

        plain = flyte.app.AppEnvironment(name="plain")

        @plain.server
        def plain_server():
            web.serve(lambda path: {{"plain": path}})

        boxed = flyte.app.AppEnvironment(
            name="boxed",
            image=flyte.Image.from_base("{app_image}"),
            depends_on=[plain],
            parameters=[
                Parameter(name="peer", value=AppEndpoint(app_name="plain"), env_var="PEER"),
                Parameter(name="public", value=AppEndpoint(app_name="plain", public=True), env_var="PUBLIC"),
            ],
        )

        @boxed.server
        def boxed_server():
            def answer(path):
                peer = os.environ["PEER"]
                with urllib.request.urlopen(peer + "/hello", timeout=10) as reply:
                    said = json.load(reply)
                return {{"peer": peer, "said": said, "endpoint": plain.endpoint, "public": os.environ["PUBLIC"]}}
            web.serve(answer)

        if __name__ == "__main__":
            print(json.dumps(flyte.serve(boxed).endpoint))
        """,
    )
    seen = get_json(project.result())
    assert seen["said"] == {"plain": "/hello"}
    assert ".flyte.internal:" in seen["peer"] and seen["endpoint"] == seen["peer"]
    # What a browser on this machine would call it.
    assert seen["public"].startswith("http://plain-local-development.localhost:")


# Put together here, so that no file of the tests holds it.
PLANTED = "-".join(["plant", "ed", "box'd", "$value"])


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_secrets_of_a_container_are_not_known_to_its_engine(project, home, engine, app_image):
    for name in ("api-key", "tls_cert"):
        home.flyte("create", "secret", name, "--from-env", "THE_VALUE", THE_VALUE=PLANTED + name)
    write(
        project,
        app_image,
        "keeper",
        'secrets=[flyte.Secret("api-key", as_env_var="MY_KEY"), CERT],',
        path='if path == "/secrets": return secrets()',
    )
    text = (project.folder / "main.py").read_text()
    helper = """import hashlib
CERT = flyte.Secret("cert", group="tls", mount="/etc/flyte/secrets")
def digest(data): return hashlib.sha256(data).hexdigest()
def secrets():
    return [digest(os.environ["MY_KEY"].encode()), digest(open(CERT.path, "rb").read()), str(CERT.path),
            open("/proc/1/cmdline").read(), open("/proc/self/cmdline").read()]

env ="""
    (project.folder / "main.py").write_text(text.replace("env =", helper, 1))
    key, cert, path, *lines = get_json(project.result() + "/secrets")
    assert (key, cert) == (digest(PLANTED + "api-key"), digest(PLANTED + "tls_cert"))
    assert path == "/etc/flyte/secrets/tls/cert"
    assert not [line for line in lines if PLANTED in line]
    container = only(engine, home)
    told = engine.run("inspect", container["Id"])
    assert PLANTED not in told and PLANTED.replace("'", "\\u0027") not in told
    own = Path("/var/lib/docker/containers") / container["Id"]
    held = [file for file in own.rglob("*") if file.is_file() and b"plant-ed" in file.read_bytes()]
    assert held == []
    # What its first process was given is in memory, and goes with it.
    sources = [Path(mount["Source"]) for mount in container["Mounts"]]
    (variables,) = [source for source in sources if source.name == "variables"]
    assert variables.parent.stat().st_mode & 0o777 == 0o700
    assert home.flyte("delete", "app", "keeper").returncode == 0
    until(lambda: not variables.exists(), 10)


def test_a_command_of_the_users_gets_secrets_too(project, home, engine, app_image):
    home.flyte("create", "secret", "own-key", "--from-env", "THE_VALUE", THE_VALUE=PLANTED)
    code = (
        "import hashlib, http.server as h, os; "
        "open('key', 'w').write(hashlib.sha256(os.environ['OWN_KEY'].encode()).hexdigest()); "
        "h.test(h.SimpleHTTPRequestHandler, port=8080)"
    )
    project.write(
        "main.py",
        f"""
        import json
        import flyte, flyte.app

        env = flyte.app.AppEnvironment(
            name="own-keeper",
            image=flyte.Image.from_base("flyte-test-base:bookworm"),
            command={["python3", "-c", code]!r},
            secrets="own-key",
        )
        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    assert get(project.result() + "/key") == (200, digest(PLANTED))
    assert "plant-ed" not in engine.run("inspect", only(engine, home)["Id"])


def test_a_platform_that_is_killed_leaves_no_container_to_the_next(fresh_home, tmp_path, engine, app_image):
    project = Project(tmp_path, fresh_home)
    project.write("web.py", WEB)
    write(project, app_image, "lasting")
    endpoint = project.result()
    first = only(engine, fresh_home)
    platform = fresh_home.status()["pid"]
    os.kill(platform, signal.SIGKILL)
    until(lambda: not is_alive(platform), 5)
    assert only(engine, fresh_home)["State"]["Running"]
    fresh_home.flyte("local", "start")
    until(lambda: get(endpoint)[0] == 200, 30)
    assert only(engine, fresh_home)["Id"] != first["Id"]
    fresh_home.flyte("local", "stop")
    assert engine.containers(fresh_home.path) == []


def test_without_an_engine_the_refusal_says_what_to_install(fresh_home, tmp_path):
    project = Project(tmp_path, fresh_home)
    project.write("web.py", WEB)
    write(project, "ghcr.io/some/image:1", "stranded")
    failure = project.failure(DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
    assert failure["code"] == "image.needs_container"
    message = failure["message"]
    assert "`ghcr.io/some/image:1` is a container image" in message
    assert f"{tmp_path}/docker.sock" in message and "no such socket" in message
    assert "apt install docker.io" in message


def test_a_command_of_the_users_needs_no_sdk_in_the_image(project):
    text = json.dumps(
        ["python3", "-c", "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080)"]
    )
    project.write(
        "main.py",
        f"""
        import json
        import flyte, flyte.app

        env = flyte.app.AppEnvironment(
            name="own-command", image=flyte.Image.from_base("flyte-test-base:bookworm"), command={text}
        )
        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    status, body = get(project.result())
    assert status == 200 and "Directory listing" in body
