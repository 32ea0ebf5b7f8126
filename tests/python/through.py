"""nginx between the tests and the platform: `FLYTE_TEST_THROUGH=nginx pytest tests/python/e2e`.

The platform listens on TCP, nginx stands in front of it with TLS, a certificate of a test CA and
HTTP/2, and everything that a test runs is configured for that endpoint as for a cluster. With
`FLYTE_TEST_THROUGH=nginx-plain` the same goes over HTTP without TLS.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from support import Home, refuses, until

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_rlimit_nofile 8192;
events {{
    worker_connections 4096;
}}
http {{
    access_log {folder}/access.log combined;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port}{listen};
        {tls}
        location / {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""

TLS = """
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
"""


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def openssl(folder: Path, *words: str) -> None:
    """Run `openssl`, which must succeed."""
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """A CA, and a certificate of it for `localhost`."""
    name = ["-subj", "/CN=flyte-rs test CA"]
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name,
            "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
            "-keyout", "server.key", "-out", "server.csr")  # fmt: skip
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "san", "-out", "server.pem")  # fmt: skip


class Nginx:
    """nginx in front of the platform of a home."""

    def __init__(self, home: Home, folder: Path, tls: bool) -> None:
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        self.folder = folder
        upstream = home.json("local", "start", "--listen", "127.0.0.1:0")["listen"]
        home.listen = upstream.removeprefix("http://")
        port = free_port()
        if tls:
            certificates(folder)
        text = CONFIGURATION.format(
            folder=folder,
            port=port,
            upstream=upstream,
            listen=" ssl http2" if tls else "",
            tls=TLS.format(folder=folder) if tls else "",
        )
        (folder / "nginx.conf").write_text(text)
        self.process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")])
        self.endpoint = f"{'https' if tls else 'http'}://localhost:{port}"
        until(lambda: not refuses(self.endpoint), 10, "nginx listens")
        home.through = {
            "FLYTE_ADMIN_ENDPOINT": self.endpoint,
            "FLYTE_TASK_PROJECT": "local",
            "FLYTE_TASK_DOMAIN": "development",
            **({"FLYTE_ADMIN_CACERTFILEPATH": str(folder / "ca.pem")} if tls else {}),
        }

    def protocols(self) -> set[str]:
        """The versions of HTTP that clients used so far."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return {line.split('"')[1].rpartition(" ")[2] for line in lines}

    def calls(self) -> int:
        """How many requests went through."""
        return len((self.folder / "access.log").read_text().splitlines())

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
