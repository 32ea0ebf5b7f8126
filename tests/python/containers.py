"""A real container engine for tests: found, never replaced, and left as it was.

Without an engine a laptop skips these tests, and continuous integration fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BASE = "flyte-test-base:bookworm"
"""Made by `.ci/docker`."""

_APP_IMAGE = """
FROM {base}
COPY site /usr/lib/python3/dist-packages
COPY fserve /usr/local/bin/fserve
RUN useradd --uid 1000 --create-home app
WORKDIR /home/app
USER app
"""

_FSERVE = """#!/usr/bin/python3
import sys
from flyte._runtime import main
sys.exit(main())
"""


class Engine:
    """The engine of this machine, through its own command."""

    def run(self, *words: str, check: bool = True) -> str:
        """What `docker` prints."""
        done = subprocess.run(["docker", *words], capture_output=True, text=True)
        assert not check or done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def containers(self, home: Path | None = None) -> list[Any]:
        """The containers that replicas are, of one home or of all."""
        ids = self.run("ps", "--all", "--quiet", "--no-trunc", "--filter", "label=org.flyte.home").split()
        # One may go between the two calls; the others are told all the same.
        found = json.loads(self.run("inspect", *ids, check=False) or "[]") if ids else []
        return [one for one in found if home is None or _belongs(one, home)]

    def build(self, tag: str, folder: Path) -> str:
        """Build a folder with a Dockerfile in it."""
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        command = ["docker", "build", "--quiet", "--tag", tag, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return tag


def _belongs(container: Any, home: Path) -> bool:
    return any(str(home) in mount["Source"] for mount in container["Mounts"])


@pytest.fixture(scope="session")
def engine() -> Engine:
    """An engine that has the base image."""
    problem = None
    if shutil.which("docker") is None:
        problem = "no `docker`"
    elif subprocess.run(["docker", "image", "inspect", BASE], capture_output=True).returncode != 0:
        problem = f"no engine with the image `{BASE}`; `.ci/docker` makes it"
    if problem is not None:
        if os.environ.get("CI"):
            pytest.fail(problem)
        pytest.skip(problem)
    return Engine()


@pytest.fixture(scope="session")
def app_image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image that somebody built elsewhere, with this SDK in it."""
    import cloudpickle

    import flyte

    folder = tmp_path_factory.mktemp("image")
    for package in (flyte, cloudpickle):
        source = Path(package.__file__ or "").parent
        shutil.copytree(source, folder / "site" / source.name)
    (folder / "fserve").write_text(_FSERVE)
    (folder / "fserve").chmod(0o755)
    (folder / "Dockerfile").write_text(_APP_IMAGE.format(base=BASE))
    tag = engine.build(f"flyte-test-app:{os.getpid()}", folder)
    yield tag
    engine.run("rmi", "--force", tag, check=False)
