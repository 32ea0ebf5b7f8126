"""A control plane that behaves like the open-source one: `python oss.py`, in the venv of the PyPI SDK.

Our own platform is kinder than a cluster: it numbers revisions, says at once what came of a change,
and ends a log that nobody follows. This one does none of that. It speaks Connect with the messages of
`flyteidl2`, keeps Knative's three conditions for each app, and tells of the time before a change for a
moment after it; it answers `Get` from a cache, upserts on `Create`, says nothing when nothing changed,
names itself `http://<Host>`, leaves out what it leaves out, and follows a log whatever is asked for.

It prints its address. `POST /script` says what apps do and what goes wrong; `GET /seen` tells which
calls arrived. There is no Kubernetes behind it and there are no apps.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import queue
import secrets
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from flyteidl2.app import app_definition_pb2 as apps
from flyteidl2.app import app_logs_payload_pb2 as app_logs
from flyteidl2.app import app_payload_pb2 as calls
from flyteidl2.auth import auth_service_pb2, identity_pb2
from flyteidl2.cluster import payload_pb2 as cluster
from flyteidl2.dataproxy import dataproxy_service_pb2 as dataproxy
from flyteidl2.logs.dataplane import payload_pb2 as logs
from google.protobuf.json_format import MessageToDict

HTTP = {
    "canceled": 499,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "aborted": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "unimplemented": 501,
    "unavailable": 503,
    "unauthenticated": 401,
}
STATUS = apps.Status.DeploymentStatus
STATE = apps.Spec.DesiredState
CACHE_SECONDS = 30


class Refusal(Exception):
    """An error of Connect."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Script:
    """What the apps of a name do, and how this server behaves."""

    # How long the conditions of before a change stay, and how long it takes to come up after that.
    stale: float = 0.4
    takes: float = 0.4
    # Knative's reason and message where it does not come up.
    failure: str = ""
    # A change is one that Knative has nothing to do for: only annotations differ.
    quiet: bool = False
    # Pods, each {name, lines, every}: lines that are there, and how often another one comes.
    pods: list[dict[str, Any]] = field(default_factory=list)
    # As hosted servers do: `Create` is refused where the app exists, and revisions are counted.
    hosted: bool = False
    # Further fields of an app, that no subset knows, in hex; they have to come back.
    unknown: str = ""
    # What SelectCluster says in place of `http://<Host>`.
    cluster: str | None = None


@dataclass
class App:
    """One Knative service."""

    spec: apps.Spec
    meta: apps.Meta
    created: int
    stopped: bool = False
    sha: str = ""
    # Knative's conditions: name -> (True, False or None, second, message).
    knative: dict[str, tuple[bool | None, int, str]] = field(default_factory=dict)
    revision: int = 0
    generation: int = 0
    history: list[apps.Condition] = field(default_factory=list)


class Plane:
    """The state of the control plane."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.scripts: dict[str, Script] = {}
        self.faults: list[dict[str, Any]] = []
        self.apps: dict[tuple[str, str, str], App] = {}
        self.cache: dict[tuple[str, str, str], tuple[float, apps.App]] = {}
        self.watchers: list[tuple[str, queue.Queue[calls.WatchResponse]]] = []
        self.seen: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.signatures: dict[str, dict[str, str]] = {}

    def script(self, name: str) -> Script:
        return self.scripts.get(name, Script())

    def fault(self, call: str, after: bool = False) -> None:
        """Refuse a call that is to be refused, before it is carried out or after."""
        with self.lock:
            for fault in self.faults:
                fits = fault["call"] == call and fault.get("after", False) == after
                if fits and fault.get("times", 1) > 0:
                    fault["times"] = fault.get("times", 1) - 1
                    raise Refusal(fault["code"], fault.get("message", "scripted"))

    # What Knative does.

    def deploy(self, key: tuple[str, str, str], app: apps.App) -> None:
        """Change the service, unless its specification is the same."""
        sha = hashlib.sha256(app.spec.SerializeToString(deterministic=True)).hexdigest()[:16]
        script = self.script(key[2])
        known = self.apps.get(key)
        if known and known.sha == sha and not known.stopped:
            return
        now = int(time.time())
        if known is None:
            known = self.apps[key] = App(apps.Spec(), apps.Meta(), now)
        known.spec.CopyFrom(app.spec)
        known.meta.CopyFrom(app.metadata)
        known.sha, known.stopped = sha, False
        known.generation += 1
        known.revision += script.hosted
        generation = known.generation
        is_new = not known.knative
        self.cache.pop(key, None)
        # The service changes before its status does.
        self.tell(key, "create" if is_new else "update")
        if script.quiet and not is_new:
            return
        threading.Thread(target=self.reconcile, args=(key, generation, script), daemon=True).start()

    def reconcile(self, key: tuple[str, str, str], generation: int, script: Script) -> None:
        for pause, step in ((script.stale, "begin"), (script.takes, "end")):
            time.sleep(pause)
            with self.lock:
                app = self.apps.get(key)
                if app is None or app.generation != generation or app.stopped:
                    return
                now = int(time.time())
                if step == "begin":
                    app.knative["ConfigurationsReady"] = (None, now, "Deploying")
                    app.knative["Ready"] = (None, now, "Deploying")
                    app.knative.setdefault("RoutesReady", (None, now, ""))
                elif script.failure:
                    app.knative["ConfigurationsReady"] = (False, now, script.failure)
                    app.knative["Ready"] = (False, now, script.failure)
                else:
                    app.knative["ConfigurationsReady"] = (True, now, "")
                    app.knative["Ready"] = (True, now, "")
                    if app.knative["RoutesReady"][0] is not True:
                        app.knative["RoutesReady"] = (True, now, "")
                self.tell(key, "update")

    def stop(self, key: tuple[str, str, str]) -> None:
        app = self.apps.get(key)
        if app is None:
            return
        app.stopped = True
        app.generation += 1
        self.cache.pop(key, None)
        now = int(time.time())
        # Its ready revision is deleted, which is what the service says once it is started again.
        missing = "RevisionMissing: Configuration has no ready revision"
        app.knative["ConfigurationsReady"] = (False, now, missing)
        app.knative["Ready"] = (False, now, missing)
        self.tell(key, "update")

    # What the server makes of it.

    def conditions(self, app: App) -> list[apps.Condition]:
        revision = app.revision
        if app.stopped:
            stopped = STATUS.DEPLOYMENT_STATUS_STOPPED
            return [condition(stopped, int(time.time()), "App scaled to zero", revision)]
        is_ready = app.knative.get("Ready", (None, 0, ""))[0]
        told = []
        for name, (status, second, message) in app.knative.items():
            if status is True:
                ready = is_ready is True
                state = STATUS.DEPLOYMENT_STATUS_ACTIVE if ready else STATUS.DEPLOYMENT_STATUS_DEPLOYING
                told.append(condition(state, second, message or f"{name} is fine", revision))
            elif status is False and is_ready is False:
                told.append(condition(STATUS.DEPLOYMENT_STATUS_FAILED, second, message, revision))
            elif status is None and name != "RoutesReady":
                told.append(condition(STATUS.DEPLOYMENT_STATUS_PENDING, second, message, revision))
        return told

    def status(self, key: tuple[str, str, str]) -> apps.Status:
        app = self.apps[key]
        status = apps.Status(conditions=self.conditions(app))
        if not app.stopped:
            status.created_at.seconds = app.created
            status.ingress.public_url = url_of(key)
            status.k8s_metadata.namespace = "flyte"
        return status

    def view(self, key: tuple[str, str, str]) -> apps.App:
        known = self.apps[key]
        identifier = apps.Identifier(org="flyte", project=key[0], domain=key[1], name=key[2])
        app = apps.App(metadata=apps.Meta(id=identifier), spec=known.spec, status=self.status(key))
        if known.revision:  # a hosted server keeps what it was told
            app.metadata.CopyFrom(known.meta)
            app.metadata.revision = known.revision
        if known.stopped:
            app.spec.desired_state = STATE.DESIRED_STATE_STOPPED
        if unknown := self.script(key[2]).unknown:
            app.spec.MergeFromString(bytes.fromhex(unknown))
        return app

    def tell(self, key: tuple[str, str, str], what: str) -> None:
        """Tell whoever watches an app of that name, whichever project it is in."""
        app = self.view(key)
        if what == "create":
            event = calls.WatchResponse(create_event=calls.CreateEvent(app=app))
        elif what == "delete":
            event = calls.WatchResponse(delete_event=calls.DeleteEvent(app=app))
        else:
            event = calls.WatchResponse(update_event=calls.UpdateEvent(updated_app=app))
        for name, events in self.watchers:
            if name == key[2]:
                events.put(event)

    # The calls.

    def create(self, request: calls.CreateRequest, _: Any) -> calls.CreateResponse:
        app = request.app
        key = key_of(app.metadata.id)
        if not app.spec.WhichOneof("app_payload"):
            raise Refusal("invalid_argument", "missing app payload")
        hosted = self.script(key[2]).hosted
        if hosted and key in self.apps:
            raise Refusal("already_exists", f"app {key[2]} exists")
        self.deploy(key, app)
        answer = apps.App()
        answer.CopyFrom(app)
        answer.status.CopyFrom(apps.Status(ingress=apps.Ingress(public_url=url_of(key))))
        answer.metadata.revision = self.apps[key].revision
        return calls.CreateResponse(app=answer)

    def get(self, request: calls.GetRequest, _: Any) -> calls.GetResponse:
        key = key_of(request.app_id)
        at, cached = self.cache.get(key, (0.0, apps.App()))
        if time.monotonic() - at < CACHE_SECONDS and cached.HasField("metadata"):
            return calls.GetResponse(app=cached)
        if key not in self.apps:
            raise Refusal("not_found", f"app {key[2]} not found")
        app = self.view(key)
        self.cache[key] = (time.monotonic(), app)
        return calls.GetResponse(app=app)

    def update(self, request: calls.UpdateRequest, _: Any) -> calls.UpdateResponse:
        app = request.app
        key = key_of(app.metadata.id)
        known = self.apps.get(key)
        if known and known.revision and app.metadata.revision != known.revision:
            raise Refusal("aborted", f"revision {known.revision} is the newest")
        if app.spec.desired_state == STATE.DESIRED_STATE_STOPPED:
            self.stop(key)
        else:
            self.deploy(key, app)
        if key not in self.apps:
            raise Refusal("not_found", f"app {key[2]} not found")
        answer = apps.App()
        answer.CopyFrom(app)
        answer.status.CopyFrom(self.status(key))
        answer.metadata.revision = self.apps[key].revision
        return calls.UpdateResponse(app=answer)

    def delete(self, request: calls.DeleteRequest, _: Any) -> calls.DeleteResponse:
        key = key_of(request.app_id)
        if key in self.apps:
            self.tell(key, "delete")
            del self.apps[key]
            self.cache.pop(key, None)
        return calls.DeleteResponse()

    def list(self, request: calls.ListRequest, _: Any) -> calls.ListResponse:
        """Filters and orders are read and not heeded."""
        if request.WhichOneof("filter_by") in ("org", "cluster_id"):
            raise Refusal("unimplemented", "not by that")
        wanted = (request.project.name, request.project.domain)
        found = [self.view(key) for key in self.apps if key[:2] == wanted]
        start = int(request.request.token or 0)
        end = start + (request.request.limit or len(found))
        token = str(end) if end < len(found) else ""
        return calls.ListResponse(apps=found[start:end], token=token)

    def watch(self, request: calls.WatchRequest, _: Any) -> Iterator[calls.WatchResponse]:
        if request.WhichOneof("target") != "app_id":
            raise Refusal("unimplemented", "only by app")
        events: queue.Queue[calls.WatchResponse] = queue.Queue(100)
        wanted = key_of(request.app_id)
        with self.lock:
            watcher = (wanted[2], events)
            self.watchers.append(watcher)
            snapshot = [self.view(key) for key in self.apps if key == wanted]
        for app in snapshot:
            yield calls.WatchResponse(create_event=calls.CreateEvent(app=app))
        try:
            while True:
                yield events.get()
        finally:
            self.watchers.remove(watcher)

    def tail_logs(self, request: app_logs.TailLogsRequest, _: Any) -> Iterator[app_logs.TailLogsResponse]:
        key = key_of(request.app_id)
        pods = self.script(key[2]).pods
        if not pods:
            raise Refusal("not_found", "no pods found")
        replicas = [apps_replica(request.app_id, pod["name"]) for pod in pods]
        yield app_logs.TailLogsResponse(replicas=app_logs.ReplicaIdentifierList(replicas=replicas))
        yield from (batch(replica, pod["lines"]) for replica, pod in zip(replicas, pods, strict=True))
        live = [pod for pod in pods if pod.get("every")]
        number = 0
        while live:  # whatever was asked for
            time.sleep(live[0]["every"])
            number += 1
            if live[0].get("until") == number:
                return
            yield batch(replicas[0], [[time.time(), f"live {number}"]])

    def select_cluster(self, request: cluster.SelectClusterRequest, to: Any) -> Any:
        scripted = self.script("").cluster
        scheme = "https" if to.headers.get("x-forwarded-proto") == "https" else "http"
        endpoint = f"{scheme}://{to.headers['host']}" if scripted is None else scripted
        return cluster.SelectClusterResponse(cluster_endpoint=endpoint)

    def create_upload_location(self, request: dataproxy.CreateUploadLocationRequest, to: Any) -> Any:
        if request.content_length > 100 << 20:
            raise Refusal("invalid_argument", "content_length is too large")
        if request.expires_in.seconds > 3600:
            raise Refusal("invalid_argument", "expires_in is too long")
        folder = request.filename_root or base64.b32encode(request.content_md5).decode()
        path = f"/bucket/uploads/{request.project}/{request.domain}/{folder}/{request.filename}"
        signature = secrets.token_hex(16)
        headers = {"x-amz-meta-flytecontentmd5": base64.b64encode(request.content_md5).decode()}
        self.signatures[signature] = {"path": path, "method": "PUT", **headers}
        return dataproxy.CreateUploadLocationResponse(
            signed_url=f"http://{to.headers['host']}{quote(path)}?X-Amz-Signature={signature}",
            # Go's `url.String()`: the object itself lies under the plain name.
            native_url=f"s3:/{quote(path, safe='$&+,/:;=@')}",
            headers=headers,
        )

    def user_info(self, *_: Any) -> identity_pb2.UserInfoResponse:
        raise Refusal("unauthenticated", "no identity in the request")

    def public_client(self, *_: Any) -> auth_service_pb2.GetPublicClientConfigResponse:
        return auth_service_pb2.GetPublicClientConfigResponse(authorization_metadata_key="authorization")

    def oauth_metadata(self, *_: Any) -> auth_service_pb2.GetOAuth2MetadataResponse:
        raise Refusal("unimplemented", "no external authorization server")


def key_of(identifier: apps.Identifier) -> tuple[str, str, str]:
    return identifier.project, identifier.domain, identifier.name


def url_of(key: tuple[str, str, str]) -> str:
    return f"http://{key[2]}-{key[0]}-{key[1]}.localhost:30081".lower()


def condition(state: int, second: int, message: str, revision: int) -> apps.Condition:
    made = apps.Condition(deployment_status=state, message=message, revision=revision)
    made.last_transition_time.seconds = second
    return made


def apps_replica(identifier: apps.Identifier, name: str) -> Any:
    return app_logs.ReplicaIdentifierList().replicas.add(app_id=identifier, name=name)


def batch(replica: Any, lines: list[list[Any]]) -> Any:
    """Lines as [second, text]; where the second is null, in the old form without times."""
    told = app_logs.LogLines(replica_id=replica)
    for second, text in lines:
        if second is None:
            told.lines.append(text)
            continue
        line = told.structured_lines.add(message=text, originator=logs.LogLineOriginator.USER)
        line.timestamp.FromNanoseconds(int(second * 1e9))
    return app_logs.TailLogsResponse(batches=app_logs.LogLinesBatch(logs=[told]))


APP, SERVICE = "/flyteidl2.app.AppService/", "/flyteidl2."
UNARY = {
    APP + "Create": (calls.CreateRequest, Plane.create),
    APP + "Get": (calls.GetRequest, Plane.get),
    APP + "Update": (calls.UpdateRequest, Plane.update),
    APP + "Delete": (calls.DeleteRequest, Plane.delete),
    APP + "List": (calls.ListRequest, Plane.list),
    SERVICE + "cluster.ClusterService/SelectCluster": (cluster.SelectClusterRequest, Plane.select_cluster),
    SERVICE + "dataproxy.DataProxyService/CreateUploadLocation": (
        dataproxy.CreateUploadLocationRequest,
        Plane.create_upload_location,
    ),
    SERVICE + "auth.IdentityService/UserInfo": (identity_pb2.UserInfoRequest, Plane.user_info),
    SERVICE + "auth.AuthMetadataService/GetPublicClientConfig": (
        auth_service_pb2.GetPublicClientConfigRequest,
        Plane.public_client,
    ),
    SERVICE + "auth.AuthMetadataService/GetOAuth2Metadata": (
        auth_service_pb2.GetOAuth2MetadataRequest,
        Plane.oauth_metadata,
    ),
}
STREAMS = {
    APP + "Watch": (calls.WatchRequest, Plane.watch),
    SERVICE + "app.AppLogsService/TailLogs": (app_logs.TailLogsRequest, Plane.tail_logs),
}
PLANE = Plane()


class Handler(BaseHTTPRequestHandler):
    """Connect over HTTP/1.1, the store behind signed URLs, and what the tests ask."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Date", formatdate(usegmt=True))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        if self.path == "/seen":
            with PLANE.lock:
                content = json.dumps(PLANE.seen).encode()
            return self.send(200, "application/json", content)
        return self.send(404, "text/plain", b"")

    def do_HEAD(self) -> None:
        # The signature is one for PUT.
        self.send(403, "application/xml", b"")

    def do_PUT(self) -> None:
        content = self.body()
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        signed = PLANE.signatures.get(parse_qs(parts.query).get("X-Amz-Signature", [""])[0])
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        name = "x-amz-meta-flytecontentmd5"
        if signed is None or signed["path"] != path or self.headers.get(name) != signed[name]:
            return self.send(403, "application/xml", b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        if self.headers.get("content-md5") != md5:
            return self.send(400, "application/xml", b"<Error><Code>BadDigest</Code></Error>")
        with PLANE.lock:
            PLANE.objects[path] = content
            PLANE.seen.append({"call": "PUT", "path": path, "bytes": len(content)})
        return self.send(200, "application/xml", b"")

    def do_POST(self) -> None:
        content = self.body()
        if self.path == "/script":
            return self.read_script(json.loads(content))
        kind = UNARY.get(self.path) or STREAMS.get(self.path)
        if kind is None:
            return self.refuse(Refusal("unimplemented", self.path))
        is_stream = self.path in STREAMS
        if is_stream:
            flag, content = content[0], content[5 : 5 + struct.unpack(">I", content[1:5])[0]]
            content = gzip.decompress(content) if flag & 1 else content
        elif self.headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        request = kind[0].FromString(content)
        call = self.path.rpartition("/")[2]
        with PLANE.lock:
            PLANE.seen.append(
                {
                    "call": call,
                    "request": MessageToDict(request),
                    "bytes": content.hex(),
                    "id": self.headers.get("x-request-id"),
                    "authorization": self.headers.get("authorization"),
                }
            )
        try:
            PLANE.fault(call)
            if is_stream:
                return self.stream(kind[1](PLANE, request, self))
            with PLANE.lock:
                answer = kind[1](PLANE, request, self)
            PLANE.fault(call, after=True)
        except Refusal as refusal:
            return self.refuse(refusal)
        return self.send(200, "application/proto", answer.SerializeToString())

    def read_script(self, told: dict[str, Any]) -> None:
        with PLANE.lock:
            for name, values in told.get("apps", {}).items():
                PLANE.scripts[name] = Script(**values)
            PLANE.faults = told.get("faults", PLANE.faults)
            PLANE.seen.clear()
        self.send(200, "application/json", b"{}")

    def refuse(self, refusal: Refusal) -> None:
        if self.path in STREAMS:
            return self.stream(raising(refusal))
        content = json.dumps({"code": refusal.code, "message": str(refusal)}).encode()
        return self.send(HTTP.get(refusal.code, 500), "application/json", content)

    def stream(self, messages: Iterator[Any]) -> None:
        self.send_response_only(200)
        self.send_header("Date", formatdate(usegmt=True))
        self.send_header("Content-Type", "application/connect+proto")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        end: dict[str, Any] = {}
        try:
            for message in messages:
                self.frame(0, message.SerializeToString())
        except Refusal as refusal:
            end = {"error": {"code": refusal.code, "message": str(refusal)}}
        except OSError:
            self.close_connection = True
            return
        self.frame(2, json.dumps(end).encode())
        self.wfile.write(b"0\r\n\r\n")

    def frame(self, flag: int, content: bytes) -> None:
        data = bytes([flag]) + struct.pack(">I", len(content)) + content
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def raising(refusal: Refusal) -> Iterator[Any]:
    raise refusal
    yield  # so that it is raised when it is read


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"http://localhost:{server.server_port}", flush=True)
    server.serve_forever()
