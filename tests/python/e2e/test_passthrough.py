"""The middleware that hands a caller's credentials on, behind a real server."""

from __future__ import annotations

import concurrent.futures
import http.server
import json
import threading
from collections.abc import Iterator

import pytest
from support import Home, Project

APP = """
import json, sys
import fastapi, flyte, flyte.errors, flyte.remote
from flyte.app.extras import FastAPIAppEnvironment, FastAPIPassthroughAuthMiddleware as Passthrough

app = fastapi.FastAPI()

def broken(request):
    raise RuntimeError("no")

def no_pair(request):
    return request.headers.get("x-odd")

app.add_middleware(
    Passthrough,
    header_extractors=[
        broken,
        no_pair,
        Passthrough.extract_authorization_header,
        Passthrough.extract_cookie_header,
        Passthrough.extract_custom_header("X-Api-Key"),
        lambda request: ("x-method", request.method) if "x-api-key" in request.headers else None,
    ],
    excluded_paths={"/health"},
)

@app.get("/health")
def health():
    return "ok"

@app.get("/ask")
async def ask():
    try:
        await flyte.remote.App.get.aio("anything")
    except flyte.errors.Error as error:
        return error.code

@app.get("/ask-in-a-thread")
def ask_in_a_thread():
    try:
        flyte.remote.App.get("anything")
    except flyte.errors.Error as error:
        return error.code

flyte.init_passthrough(CLUSTER, project="p", domain="development")
env = FastAPIAppEnvironment(
    name="passing", app=app, image=flyte.Image.from_debian_base().with_pip_packages("fastapi", "uvicorn")
)
"""


class Cluster(http.server.ThreadingHTTPServer):
    """What a control plane gets to see of who asks."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Seeing)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Seeing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Cluster

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        named = ("authorization", "cookie", "x-api-key", "x-method")
        # Whether it is a platform of this machine is asked of an address like this one by nobody.
        if self.path.startswith("/flyteidl2."):
            self.server.seen.append({name: self.headers[name] for name in named if name in self.headers})
        body = json.dumps({"code": "not_found", "message": "no"}).encode()
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    server = Cluster()
    yield server
    server.shutdown()
    server.server_close()


def asked(endpoint: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str | None]:
    import urllib.error
    import urllib.request

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(endpoint + path, headers=named, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), None
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers.get("WWW-Authenticate")


def test_each_request_acts_for_its_own_caller(project: Project, home: Home, cluster: Cluster):
    at = f"http://127.0.0.1:{cluster.server_address[1]}"
    project.write("main.py", APP.replace("CLUSTER", repr(at)))
    # The file says where the app's calls go; serving it is another matter.
    done = home.flyte("serve", "main.py", "--local", "-o", "json", cwd=project.folder, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    endpoint = json.loads(done.stdout)["endpoint"]
    assert asked(endpoint, "/health")[0] == 200
    refused = (401, '{"detail":"Authentication credentials required"}', "Bearer")
    assert asked(endpoint, "/ask") == asked(endpoint, "/health/") == refused
    assert asked(endpoint, "/ask", x_odd="secret") == refused
    assert cluster.seen == []

    def one(number: int) -> tuple[int, str, str | None]:
        path = "/ask" if number % 2 else "/ask-in-a-thread"
        return asked(endpoint, path, authorization=f"Bearer {number}", cookie=f"c={number}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert {answer[:2] for answer in pool.map(one, range(24))} == {(200, '"app.not_found"')}
    # Nobody's credentials went with another's.
    pairs = {(seen.get("authorization"), seen.get("cookie")) for seen in cluster.seen}
    assert pairs == {(f"Bearer {number}", f"c={number}") for number in range(24)}
    cluster.seen.clear()
    assert asked(endpoint, "/ask", x_api_key="k")[0] == 200
    assert cluster.seen[-1] == {"x-api-key": "k", "x-method": "GET"}
    logs = home.flyte("get", "logs", "passing").stdout
    assert "`broken` failed" in logs and "`no_pair` is skipped: it returned a str" in logs
    assert "secret" not in logs


WEBHOOK = """
import flyte
from flyte.app.extras import FlyteWebhookAppEnvironment

# The replica's own credentials, which are for nobody who asks it.
flyte.init(endpoint=CLUSTER, auth_type="ExternalCommand", command=["echo", "of-the-replica"],
           project="p", domain="development")
hooks = FlyteWebhookAppEnvironment(name="deputy")
"""


def test_a_webhook_never_acts_with_credentials_of_its_own(project: Project, home: Home, cluster: Cluster):
    at = f"http://127.0.0.1:{cluster.server_address[1]}"
    project.write("main.py", WEBHOOK.replace("CLUSTER", repr(at)))
    done = home.flyte("serve", "main.py", "--local", "-o", "json", cwd=project.folder, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    cluster.seen.clear()  # what serving asked is another matter
    endpoint = json.loads(done.stdout)["endpoint"]
    assert asked(endpoint, "/app/anything", authorization="Bearer caller")[0] == 404
    assert asked(endpoint, "/app/anything/activate", "POST", cookie="c=1")[0] == 404
    assert cluster.seen == [{"authorization": "Bearer caller"}, {"cookie": "c=1"}]
