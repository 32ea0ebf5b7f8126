"""Other protocols than plain HTTP/1.1 at an endpoint: gRPC over HTTP/2, and TLS."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support import WEB, Home, Project, get

GRPC = """
import json
from concurrent import futures

import flyte, flyte.app

image = flyte.Image.from_debian_base().with_pip_packages("grpcio")
env = flyte.app.AppEnvironment(name="echo", image=image, port=flyte.app.Port(port=8080, name="h2c"))

@env.server
def serve():
    import grpc

    def say(request, context):
        context.set_trailing_metadata((("x-length", str(len(request))),))
        return request

    def repeat(requests, context):
        yield from requests

    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Repeat": grpc.stream_stream_rpc_method_handler(repeat),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", methods),))
    server.add_insecure_port("0.0.0.0:8080")
    server.start()
    server.wait_for_termination()

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""

GRPC_CLIENT = """
import sys, grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    answer, call = channel.unary_unary("/echo.Echo/Say").with_call(b"hello" * 1000, timeout=20)
    assert answer == b"hello" * 1000, answer
    assert dict(call.trailing_metadata())["x-length"] == "5000"
    words = [str(number).encode() for number in range(100)]
    assert list(channel.stream_stream("/echo.Echo/Repeat")(iter(words), timeout=20)) == words
    try:
        channel.unary_unary("/echo.Echo/Nothing")(b"", timeout=20)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    else:
        raise AssertionError("a method that is not there answered")
print("echoed")
"""


def test_grpc_passes_in_both_directions(home: Home, tmp_path: Path) -> None:
    project = Project(tmp_path, home)
    project.write("main.py", GRPC)
    endpoint = project.result()
    # The client runs where the server's library is.
    (python,) = (
        path.parents[3] / "bin" / "python" for path in home.path.glob("envs/*/lib/python*/site-packages/grpc")
    )
    words = [str(python), "-c", GRPC_CLIENT, urlsplit(endpoint).netloc]
    client = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (client.returncode, client.stdout.strip()) == (0, "echoed"), client.stderr


PLAIN = """
import json
import flyte, flyte.app
from web import serve

env = flyte.app.AppEnvironment(name="secure")
env.server(lambda: serve(lambda path: "here " + path))

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


@pytest.fixture
def secure(fresh_home: Home, tmp_path: Path) -> tuple[Home, str, str]:
    project = Project(tmp_path, fresh_home)
    project.write("web.py", WEB)
    project.write("main.py", PLAIN)
    endpoint = project.result()
    by_name = fresh_home.status()["by_name"]
    return fresh_home, endpoint, by_name


def hang_up(port: int) -> None:
    """Speak TLS where nobody can be vouched for."""
    context = ssl.create_default_context()
    with (
        socket.create_connection(("127.0.0.1", port), 10) as stream,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(stream, server_hostname="localhost")


@pytest.mark.skipif(not shutil.which("curl") and "CI" not in os.environ, reason="asks with curl")
def test_apps_answer_over_tls_once_there_is_an_authority(secure: tuple[Home, str, str]) -> None:
    home, endpoint, by_name = secure
    port = urlsplit(endpoint).port
    assert port
    hang_up(port)

    certificate = home.flyte("local", "trust", "--print").stdout.strip()
    assert Path(certificate).parent.stat().st_mode & 0o077 == 0
    named = f"https://secure-local-development.localhost:{urlsplit(by_name).port}/x"
    for url in (f"https://localhost:{port}/x", f"https://127.0.0.1:{port}/x", named):
        words = ["curl", "-sS", "--noproxy", "*", "--cacert", certificate, "-w", " %{http_version}", url]
        asked = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
        assert asked.stdout == '"here /x" 2', (url, asked.stderr)
    assert get(endpoint + "/x") == (200, '"here /x"'), "without TLS it answers as before"

    assert home.flyte("local", "trust", "--remove").returncode == 0
    assert not Path(certificate).exists()
    hang_up(port)


@pytest.mark.skipif(
    not shutil.which("certutil") and "CI" not in os.environ,
    reason="browsers' databases are changed by certutil",
)
def test_browsers_are_made_to_trust_it_and_to_forget_it(fresh_home: Home, tmp_path: Path) -> None:
    database = tmp_path / ".pki" / "nssdb"
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)

    def names() -> str:
        return subprocess.run([*certutil, "-L"], check=True, capture_output=True, text=True).stdout

    def trust(*words: str) -> subprocess.CompletedProcess[str]:
        return fresh_home.flyte("local", "trust", *words, HOME=str(tmp_path))

    told = json.loads(trust("--browsers", "--output", "json").stdout)
    assert told["places"] == [{"place": f"browsers ({database})", "done": True}]
    assert names().count("flyte-local-trust") == 1
    assert trust("--browsers", "--domain", "shop.example").returncode == 0
    assert names().count("flyte-local-trust") == 1, "the one before it is forgotten"
    removed = trust("--remove")
    assert removed.stdout.strip() == f"no longer trusted by browsers ({database})", removed.stderr
    assert "flyte-local-trust" not in names()


def test_what_is_no_domain_is_refused(fresh_home: Home) -> None:
    refused = fresh_home.flyte("local", "trust", "--domain", "https://shop.example")
    assert refused.returncode == 2
    assert "`https://shop.example`" in refused.stderr
