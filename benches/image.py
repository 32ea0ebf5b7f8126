"""Images: about 30 packages of which one has changed, without an engine beside the Docker Engine.

Both start from the same base, hold the same versions and push to the same registry, a
`docker-registry` that the bench starts. Before the clock starts both have built and pushed the image
once. In each round the version of one package is another, and first one side then the other builds
and pushes:

- ours: one process of `benches/image.rs`, as `flyte build` would, with `uv`'s cache warm;
- Docker: BuildKit through the engine's API, with `uv` and all wheels mounted from an image that is
  there, so that it needs no network and sends no context, then `docker push`.

At the end both images are run, and have to hold the same versions. Needs `docker`,
`docker-registry` and the image that `FLYTE_BENCH_BASE` names (with a `python3`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import Figure, Limit, finish, show

REPOSITORY = Path(__file__).parent.parent
BASE = os.environ.get("FLYTE_BENCH_BASE", "flyte-test-base:bookworm")
# With what they need about thirty distributions, small and large.
PACKAGES = ["fastapi", "pandas", "scikit-learn", "httpx", "requests", "jinja2", "rich"]
CHANGED = "idna"
VERSIONS = ["3.4", "3.5", "3.6", "3.7", "3.8", "3.10"]
LEAST = 5.0
# The image that holds what Docker installs from.
SHELF = "flyte-bench-shelf:1"

DOCKERFILE = """
FROM {base}
RUN --mount=type=bind,from={shelf},target=/shelf --mount=type=bind,source=.,target=/context \\
    /shelf/uv venv --quiet --python python3 /opt/venv \\
    && /shelf/uv pip install --quiet --python /opt/venv/bin/python --link-mode copy --no-cache \\
       --offline --no-index --find-links /shelf/wheels -r /context/requirements.txt
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
"""


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(list(command), capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return str(done.stdout)


def driver() -> Path:
    """Builds `benches/image.rs` and tells where it is."""
    profile = os.environ.get("FLYTE_BENCH_PROFILE", "release")
    build = ["cargo", "build", "--quiet", "--profile", profile, "--bench", "image"]
    text = run(*build, "--message-format", "json", cwd=REPOSITORY)
    for line in text.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "image":
            return Path(message["executable"])
    raise RuntimeError("cargo did not say where it put the driver")


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry of Debian on a port of its own."""
    config = folder / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    config.write_text(json.dumps({"version": "0.1", "storage": storage, "http": {"addr": "127.0.0.1:0"}}))
    log = (folder / "registry.log").open("w+")
    server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        yield f"localhost:{port_of(server, folder / 'registry.log')}"
    finally:
        server.kill()
        server.wait()
        log.close()


def port_of(server: subprocess.Popen[bytes], log: Path) -> str:
    while server.poll() is None:
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    raise RuntimeError(f"the registry ended:\n{log.read_text()}")


class Docker:
    """The image as the engine builds it."""

    def __init__(self, folder: Path, uv: str, minor: str, pins: list[str]) -> None:
        self.context, shelf = folder / "context", folder / "shelf"
        wheels = shelf / "wheels"
        wheels.mkdir(parents=True)
        self.context.mkdir()
        shutil.copy(uv, shelf / "uv")
        (shelf / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
        (self.context / "Dockerfile").write_text(DOCKERFILE.format(base=BASE, shelf=SHELF))
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels]
        binary = ["--only-binary", ":all:", "--python-version", minor]
        every = [pin for pin in pins if not pin.startswith(f"{CHANGED}==")]
        run(*download, *binary, *every)
        for version in VERSIONS:
            run(*download, *binary, f"{CHANGED}=={version}")
        engine_build(shelf, SHELF)

    def build(self, reference: str, pins: list[str]) -> None:
        (self.context / "requirements.txt").write_text("\n".join(pins))
        engine_build(self.context, reference)
        run("docker", "push", "--quiet", reference)


def engine_build(context: Path, reference: str) -> None:
    """BuildKit, which the command line offers only with a plugin."""
    archive = context.with_suffix(".tar")
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(context, arcname=".")
    url = f"http://engine/build?version=2&t={reference}"
    socket = ["--unix-socket", "/var/run/docker.sock"]
    kind = ["--header", "content-type: application/x-tar"]
    text = run("curl", "--silent", "--fail", *socket, *kind, "--data-binary", f"@{archive}", url)
    if '"error"' in text:
        raise RuntimeError(text[-2000:])


def held(reference: str) -> str:
    """The versions that an image holds, read inside of it."""
    code = (
        "import importlib.metadata as m;"
        "print(sorted((d.metadata['Name'].lower(), d.version) for d in m.distributions(path="
        "[p for p in __import__('sys').path if p.startswith('/opt/venv')])))"
    )
    run("docker", "pull", "--quiet", reference)
    return run("docker", "run", "--rm", reference, "/opt/venv/bin/python", "-c", code)


def pinned(uv: str, minor: str) -> list[str]:
    flags = ["--python-version", minor, "--only-binary", ":all:", "--no-header", "--no-annotate"]
    roots = "\n".join([*PACKAGES, f"{CHANGED}=={VERSIONS[0]}"])
    return run(uv, "pip", "compile", "--quiet", *flags, "-", input=roots).split("\n")[:-1]


def timed(once: object, *arguments: object) -> float:
    started = time.perf_counter()
    once(*arguments)  # type: ignore[operator]
    return time.perf_counter() - started


def changed(folder: Path) -> float:
    """One package of about thirty: how many times as long the engine takes."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv, "uv is a dependency of the package"
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    minor = run("docker", "run", "--rm", BASE, "python3", "-c", asked).strip()
    program, python = driver(), getattr(sys, "_base_executable", sys.executable)
    pins = pinned(uv, minor)
    engine = Docker(folder, uv, minor, pins)
    with registry(folder) as host:
        base, ours, theirs = (f"{host}/{name}:1" for name in ("base", "ours", "theirs"))
        run("docker", "tag", BASE, base)
        run("docker", "push", "--quiet", base)
        sent: list[int] = []

        def build(pins: list[str]) -> None:
            home = folder / "home"
            answer = run(program, home, uv, python, minor.split(".")[1], base, ours, *pins)
            sent.append(json.loads(answer)["sent"])

        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for version in VERSIONS:
            now = [re.sub(f"^{CHANGED}==.*", f"{CHANGED}=={version}", pin) for pin in pins]
            seconds["ours"].append(timed(build, now))
            seconds["theirs"].append(timed(engine.build, theirs, now))
        same = held(ours) == held(theirs)
        # Each round took the name from the image of the one before.
        unnamed = run("docker", "images", "--quiet", theirs.removesuffix(":1")).split()
        run("docker", "rmi", "--force", base, ours, SHELF, *set(unnamed))
    if not same:
        raise RuntimeError("the two images do not hold the same versions")
    # The first round of each made the image from nothing.
    docker = Figure("Docker: build and push", seconds["theirs"][1:])
    own = Figure("ours: build and push, no engine", seconds["ours"][1:])
    print(f"{len(pins)} packages; {max(sent[1:]) // 1024} KiB sent for the one that changed")
    limits = {own.name: Limit(times=1 / LEAST)}
    show("Image of about 30 packages, one changed", docker, [own], limits)
    first = f"from nothing: Docker {seconds['theirs'][0]:.1f} s, ours {seconds['ours'][0]:.1f} s"
    print(first)
    return docker.median / own.median


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="flyte-bench-") as folder:
        times = changed(Path(folder))
    print(f"Docker takes {times:.1f} times as long; at least {LEAST:.0f} is asked for")
    finish(times >= LEAST)


if __name__ == "__main__":
    main()
