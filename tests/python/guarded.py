"""A control plane that wants to know who calls: a local platform behind TLS, HTTP/2 and an OpenID
provider. nginx, oidc-provider and Chromium are the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any

from support import Home, until

PROVIDER = Path(__file__).parents[1] / "provider"
BROWSER = Path(__file__).with_name("browser.py")
FORMS = Path(__file__).with_name("forms.py")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def make_certificates(folder: Path) -> None:
    """An authority of our own, and what it says about `localhost`."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA"
    )
    openssl("req", *curve, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,DNS:flyte.test,IP:127.0.0.1\n")
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "leaf.csr", *authority, "-out", "leaf.pem")


NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off; client_max_body_size 0;
    proxy_set_header Connection ""; proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-Proto https; proxy_read_timeout 600;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/leaf.key;
        location ~ ^/(flyteidl2[.]|upload/|local/) {{ proxy_pass http://127.0.0.1:{guard}; }}
        location /below/ {{ proxy_pass http://127.0.0.1:{guard}/; }}
        location / {{ proxy_pass http://127.0.0.1:{provider}; }}
    }}
}}
"""


class Guarded:
    """The control plane, for tests to log in at."""

    def __init__(self, home: Home, seconds: int = 3600) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="guard-", dir="/tmp"))
        self.port, self.guard, provider, self.redirect = (free_port() for _ in range(4))
        self.endpoint = f"https://localhost:{self.port}"
        self._processes: list[subprocess.Popen[Any]] = []
        make_certificates(self.folder)
        options = {
            "origin": self.endpoint,
            "redirect": f"http://localhost:{self.redirect}/callback",
            "providerPort": provider,
            "guardPort": self.guard,
            "socket": str(home.path / "run" / "platform.sock"),
            "seconds": seconds,
        }
        if not (PROVIDER / "node_modules").exists():
            subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund"], cwd=PROVIDER, check=True, capture_output=True
            )
        self._start("node", str(PROVIDER / "server.mjs"), json.dumps(options))
        conf = NGINX.format(folder=self.folder, port=self.port, guard=self.guard, provider=provider)
        (self.folder / "nginx.conf").write_text(conf)
        path = f"{os.environ['PATH']}:/usr/sbin"
        nginx = shutil.which("nginx", path=path)
        assert nginx, "nginx is needed"
        self._start(nginx, "-c", str(self.folder / "nginx.conf"), "-p", str(self.folder))
        for port in (self.port, self.guard, provider):
            until(lambda port=port: _listens(port), 60, f"port {port}: {self.log()}")

    def _start(self, *words: str) -> None:
        log = (self.folder / "log").open("a")
        self._processes.append(subprocess.Popen(words, stdout=log, stderr=log))

    def log(self) -> str:
        """What the servers wrote."""
        return (self.folder / "log").read_text()

    def admin(self, word: str) -> Any:
        """Tell the guard something; answers what it saw."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.guard}/admin/{word}") as answer:
            return json.load(answer)

    def grants(self) -> dict[str, int]:
        """How many tokens were given out, by kind."""
        return dict(self.admin("stats")["grants"])

    def calls(self, name: str) -> list[Any]:
        """The calls of that name that arrived."""
        return [call for call in self.admin("stats")["calls"] if call["path"].endswith("/" + name)]

    def variables(self, **more: str) -> dict[str, str]:
        """What a user who works here has in the shell."""
        return {
            "FLYTE_ADMIN_ENDPOINT": self.endpoint,
            "FLYTE_ADMIN_CACERTFILEPATH": str(self.folder / "ca.pem"),
            "FLYTE_ADMIN_DISABLEKEYRING": "true",
            "FLYTE_TASK_PROJECT": "local",
            "FLYTE_TASK_DOMAIN": "development",
            "BROWSER": f"{sys.executable} {BROWSER}",
            **more,
        }

    def robot(self, **more: str) -> dict[str, str]:
        """The same for a program with a secret."""
        secret = {
            "FLYTE_ADMIN_CLIENTID": "robot",
            "FLYTE_ADMIN_CLIENTSECRETENVVAR": "ROBOT",
            "ROBOT": "robot:s3cret/+",
        }
        return self.variables(**secret, **more)

    def close(self) -> None:
        """End what was started."""
        for process in self._processes:
            process.terminate()
            process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


class Proxy:
    """An HTTP proxy, for which every host is this machine."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        host = head.split()[1].decode()
        self.asked.append(host)
        server = socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=_copy, args=(server, client), daemon=True).start()
        _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
