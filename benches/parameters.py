"""What parameters cost: a folder of 500 files and 2 GB from an S3 server of this machine, beside the
AWS command line in the same rounds, and the second app that uses it.

Run it with `make bench-parameters`. FLYTE_BENCH_MB makes the folder smaller.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import ROUNDS, Figure, Limit, finish, free_port, quiet, show
from peers import PEERS, environment

FILES = 500
MEGABYTES = int(os.environ.get("FLYTE_BENCH_MB", "2000"))
SERVER = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_REGION": "us-east-1"}
FSERVE = [sys.executable, "-c", "from flyte._runtime import main; main()"]


def server_program() -> Path:
    """The S3 server, built if need be; one in Python would be what is measured."""
    program = PEERS / "go" / "versitygw"
    if not program.exists():
        print(f"building {program}", file=sys.stderr)
        own = {**os.environ, "GOBIN": str(program.parent)}
        subprocess.run(["go", "install", SERVER], env=own, check=True, stdout=sys.stderr)
    return program


def aws_program() -> Path:
    """The AWS command line in an environment of its own."""
    return environment("awscli").with_name("aws")


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """A server over `folder`, and the variables that lead to it."""
    port = free_port()
    (folder / "store").mkdir()
    words = [str(server_program()), "--port", f"127.0.0.1:{port}", "--access", KEYS["AWS_ACCESS_KEY_ID"]]
    words += ["--secret", KEYS["AWS_SECRET_ACCESS_KEY"], "--quiet"]
    with subprocess.Popen([*words, "posix", str(folder / "store")], stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        finally:
            server.terminate()


def fill(folder: Path, variables: dict[str, str]) -> None:
    """Uploads the folder, with content that nothing could compress."""
    source = folder / "source"
    source.mkdir()
    block = os.urandom(1 << 20)
    size = MEGABYTES * 1_000_000 // FILES
    for number in range(FILES):
        data = (number.to_bytes(8, "big") + block * (size // len(block) + 1))[:size]
        path = source / f"part-{number % 10}" / f"{number:03}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    aws(variables, "s3", "mb", "s3://bench")
    aws(variables, "s3", "cp", "--recursive", "--only-show-errors", str(source), "s3://bench/data")
    shutil.rmtree(source)


def aws(variables: dict[str, str], *words: str) -> float:
    # What others have written is not this one's to wait for.
    os.sync()
    started = time.perf_counter()
    subprocess.run(
        [str(aws_program()), *words], env=quiet(**variables), check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def payload() -> str:
    parameter = {
        "name": "data",
        "value": "s3://bench/data",
        "download": True,
        "type": "directory",
        "env_var": None,
        "dest": "data",
        "ignore_patterns": [],
    }
    return base64.b64encode(gzip.compress(json.dumps({"parameters": [parameter]}).encode())).decode()


def check(folder: Path) -> None:
    """The files are all there, whole."""
    sizes = [path.stat().st_size for path in folder.rglob("*.bin")]
    assert len(sizes) == FILES and set(sizes) == {MEGABYTES * 1_000_000 // FILES}, folder


def start(folder: Path, variables: dict[str, str], **more: str) -> float:
    """Starts a replica that only fetches its parameters."""
    run = Path(tempfile.mkdtemp(dir=folder))
    words = [*FSERVE, "--version", "1", "--parameters", payload(), "--", "true"]
    os.sync()
    started = time.perf_counter()
    # Environment of a replica: what the platform gives it and nothing more.
    done = subprocess.run(words, cwd=run, env={**quiet(**variables), **more}, capture_output=True, text=True)
    took = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    check(run / "data")
    shutil.rmtree(run)
    return took


def processors() -> float:
    """Seconds that processors have worked for the programs that were run here."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def copy(folder: Path, variables: dict[str, str]) -> float:
    target = folder / "copied"
    took = aws(variables, "s3", "cp", "--recursive", "--only-show-errors", "s3://bench/data", str(target))
    check(target)
    shutil.rmtree(target)
    return took


def shared(folder: Path, variables: dict[str, str]) -> tuple[float, float]:
    """The first app of a new home that uses the folder, and the second one."""
    home = folder / "home"
    home.mkdir()
    local = {"FLYTE_HOME": str(home), "_RUN_MODE": "local"}
    took = start(folder, variables, **local), start(folder, variables, **local)
    shutil.rmtree(home)
    return took


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="flyte-bench-", dir="/tmp") as name:
        folder = Path(name)
        with s3(folder) as variables:
            fill(folder, variables)
            theirs, ours, their_work, our_work = [], [], [], []
            for _ in range(ROUNDS):  # in turns, so that whatever else happens here happens to both
                before = processors()
                theirs.append(copy(folder, variables))
                between = processors()
                ours.append(start(folder, variables))
                their_work.append(between - before)
                our_work.append(processors() - between)
            peer = Figure("aws s3 cp --recursive", theirs)
            own = Figure("fserve with the folder as a parameter", ours)
            firsts, seconds = zip(*(shared(folder, variables) for _ in range(ROUNDS)), strict=True)
            first = Figure("first app on the local platform", list(firsts))
            second = Figure("second app: nothing is fetched", list(seconds))
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")
        title = f"a folder of {FILES} files, {MEGABYTES} MB, from S3 on this machine"
        kept = show(title, peer, [own, first, second], {own.name: Limit(times=1)})
        work = Figure(own.name, our_work)
        show(f"{title}: time of the processors", Figure(peer.name, their_work), [work])
    finish(kept)


if __name__ == "__main__":
    main()
