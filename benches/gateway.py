"""The gateway beside nginx: requests per second and what it adds, in front of one and the same upstream.

The upstream is a real app of a real platform, a small Rust server that answers with 1 KB. wrk asks
it through the gateway, through nginx with one worker, through haproxy with one thread, through Caddy, and
directly, in turns, so that whatever else the machine does is shared by all. Keep-alive everywhere; first
64 connections, then one. What a proxy adds is its time less that of the direct way in the same round.

Needs `nginx` and `wrk`, and for all of it `haproxy` and `caddy` (Debian: `apt-get install nginx-light wrk
haproxy caddy`).
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import Figure, Limit, free_port, keep, quiet, scratch_home

ROUNDS = 5
SECONDS = 3

SCRIPT = """
import sys, flyte, flyte.app
from flyte.app import Scaling

# A session of its own, like the proxies': the kernel shares a busy machine between sessions.
args = ["setsid", "--wait", sys.argv[1], "8080"]
env = flyte.app.AppEnvironment(name="bench", args=args, scaling=Scaling(replicas=1))
print(flyte.serve(env).endpoint)
"""

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 5s
    http-reuse always
frontend in
    bind 127.0.0.1:{port}
    default_backend app
backend app
    server one 127.0.0.1:{upstream}
"""

CADDY = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    reverse_proxy 127.0.0.1:{upstream}
}}
"""


def build_upstream(home: Path) -> Path:
    folder = Path(__file__).parent / "upstream"
    subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--target-dir", home / "target"], cwd=folder, check=True
    )
    return home / "target" / "release" / "bench-upstream"


def serve(home: Path, program: Path) -> tuple[str, int]:
    """The app's endpoint, and the port at which its process really listens."""
    script = home / "bench.py"
    script.write_text(SCRIPT)
    environment = quiet(FLYTE_HOME=str(home))
    words = [sys.executable, script, program]
    endpoint = subprocess.run(words, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout
    words = [sys.executable, "-m", "flyte._cli", "get", "logs", "bench"]
    log = subprocess.run(words, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout
    found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log)
    if not found:
        raise RuntimeError(f"the upstream does not say where it listens:\n{log}")
    return endpoint.strip(), int(found[1])


@contextmanager
def proxies(home: Path, upstream: int) -> Iterator[dict[str, str]]:
    """The other proxies of this machine, each with its URL."""
    running, urls = [], {}
    for name, template, words in (
        ("nginx, 1 worker", NGINX, ["nginx", "-c"]),
        ("haproxy, 1 thread", HAPROXY, ["haproxy", "-db", "-f"]),
        ("Caddy", CADDY, ["caddy", "run", "--adapter", "caddyfile", "--config"]),
    ):
        if not shutil.which(words[0]):
            print(f"without {name}: `{words[0]}` not found (Debian: apt-get install {words[0]})")
            continue
        port = free_port()
        config = home / f"{words[0]}.conf"
        config.write_text(template.format(folder=home, upstream=upstream, port=port))
        running.append(
            subprocess.Popen(
                [*words, config],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
        urls[name] = f"http://127.0.0.1:{port}"
    try:
        yield urls
    finally:
        for process in running:
            process.terminate()
            process.wait()


class Run:
    """What wrk saw in one run."""

    def __init__(self, url: str, connections: int) -> None:
        words = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", url]
        text = subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE).stdout
        if "Non-2xx" in text or "Socket errors" in text:
            raise RuntimeError(f"{url} failed requests:\n{text}")
        self.rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
        self.median, self.p99 = (self.microseconds(text, share) for share in ("50%", "99%"))

    @staticmethod
    def microseconds(text: str, share: str) -> float:
        value, unit = re.search(rf"{share}\s+([\d.]+)(us|ms|s)\b", text).groups()  # type: ignore[union-attr]
        return float(value) * {"us": 1, "ms": 1_000, "s": 1_000_000}[unit]


def compare(urls: dict[str, str], connections: int) -> list[str]:
    """Measure and print; return the limits that were missed."""
    runs: dict[str, list[Run]] = {name: [] for name in urls}
    for url in urls.values():
        Run(url, connections)  # for the caches
    for _ in range(ROUNDS):
        for name, url in urls.items():
            runs[name].append(Run(url, connections))
    peer, direct = runs["nginx, 1 worker"], runs["direct"]
    print(f"\n{connections} connection(s), {ROUNDS} rounds of {SECONDS} s in turns; medians")
    titles = ("req/s", "min", "max", "p50 us", "p99 us", "of nginx")
    print(f"{'':<20}" + "".join(f"{title:>10}" for title in titles) + f"{'p99 added':>11}{'of nginx':>10}")
    for name, own in runs.items():
        rates = [run.rate for run in own]
        rate = statistics.median(one.rate / other.rate for one, other in zip(own, peer, strict=True))
        added, peers = (
            statistics.median(one.p99 - other.p99 for one, other in zip(runs_, direct, strict=True))
            for runs_ in (own, peer)
        )
        share = f"{added / peers:>9.2f}x" if own is not direct and peers > 0 else f"{'':>10}"
        print(
            f"{name:<20}{statistics.median(rates):>10.0f}{min(rates):>10.0f}{max(rates):>10.0f}"
            f"{statistics.median(run.median for run in own):>10.0f}"
            f"{statistics.median(run.p99 for run in own):>10.0f}{rate:>9.2f}x{added:>11.0f}{share}"
        )
    sys.stdout.flush()
    return hand_over(f"The gateway beside other proxies, {connections} connection(s)", runs)


def hand_over(title: str, runs: dict[str, list[Run]]) -> list[str]:
    """Keep the figures; the peer of all is nginx. Return what is not as good as it."""

    def figures(name: str) -> tuple[Figure, Figure]:
        pairs = zip(runs[name], runs["direct"], strict=True)
        return (
            Figure(f"{name}, rate", [run.rate for run in runs[name]], "req/s"),
            Figure(f"{name}, added at p99", [own.p99 - direct.p99 for own, direct in pairs], "us"),
        )

    missed = []
    peers = figures("nginx, 1 worker")
    for peer in peers:
        keep(title, peer, None, None)
    for name in runs:
        if name in ("nginx, 1 worker", "direct"):
            continue
        asked = (Limit(least=1.0), Limit(times=1.0)) if name == "gateway" else (None, None)
        for figure, peer, limit in zip(figures(name), peers, asked, strict=True):
            keep(title, figure, peer, limit)
            if limit and not limit.met(figure.median, peer.median):
                missed.append(f"{title}: {figure.name} is not {limit} of {peer.name}")
    return missed


def main() -> int:
    """Measure; say by the exit status whether the limits are met, which unmeasured they are not."""
    missing = [name for name in ("nginx", "wrk", "cargo") if not shutil.which(name)]
    if missing:
        print(f"not run: {', '.join(missing)} not found (Debian: apt-get install nginx-light wrk cargo)")
        return 1
    missed = []
    with scratch_home() as home:
        endpoint, upstream = serve(home, build_upstream(home))
        with proxies(home, upstream) as others:
            time.sleep(1)
            urls = {"gateway": endpoint.replace("localhost", "127.0.0.1"), **others}
            urls["direct"] = f"http://127.0.0.1:{upstream}"
            for connections in (64, 1):
                missed += compare(urls, connections)
    for miss in missed:
        print(f"MISSED  {miss}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
