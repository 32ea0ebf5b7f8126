"""Fixtures of the tests that need a platform; the unit tests use none of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from containers import app_image, engine  # noqa: F401  (fixtures)
from support import PLANTED, WEB, Home, Project, until
from through import Nginx

# A shell that starts the tests in the background has its children ignore Ctrl-C, and they pass that
# on; the tests of Ctrl-C mean programs that were started by hand.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The PyPI SDK as a foreign reader and client; made once, and shared with the benches.
PEERS = Path(__file__).parents[2] / "benches" / ".peers"
PEER_VERSION = "2.12.1"


def _scratch() -> Path:
    # Short, so that the socket lies inside it.
    return Path(tempfile.mkdtemp(prefix="fh-", dir="/tmp"))


def _remove(folder: Path) -> None:
    """Remove a home in which modules of a new environment may still be being compiled."""

    def is_gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    until(is_gone, 30, f"{folder} is gone")


# What nothing may have decided before for them: where apps go, what somebody sees who has configured
# nothing and stops the platform, or where it listens for others.
DIRECT = (
    "test_settings",
    "test_config",
    "test_docs",
    "test_doctor",
    "test_foreign_client",
    "test_cluster_replica",
    "test_cluster_secrets",
)


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    """A home for all tests of a module."""
    home = Home(_scratch())
    through = "" if request.module.__name__ in DIRECT else os.environ.get("FLYTE_TEST_THROUGH", "")
    with pytest.MonkeyPatch.context() as patch, _between(home, through):
        # For what a test calls in its own process.
        for name, value in {"FLYTE_HOME": str(home.path), **home.through}.items():
            patch.setenv(name, value)
        yield home
        home.end()
    assert not home.holding(PLANTED)
    _remove(home.path)


@contextmanager
def _between(home: Home, through: str) -> Iterator[None]:
    """What shall stand between the tests and the platform."""
    if not through:
        yield
        return
    assert through in ("nginx", "nginx-plain"), through
    with tempfile.TemporaryDirectory(prefix="fn-", dir="/tmp") as folder:
        nginx = Nginx(home, Path(folder), tls=through == "nginx")
        try:
            yield
        finally:
            nginx.close()


@pytest.fixture(scope="session")
def pypi_python() -> str:
    """The interpreter of an environment that has the PyPI SDK, which is made if need be."""
    given = os.environ.get("FLYTE_PYPI_VENV")
    venv = Path(given) if given else PEERS / f"flyte-{PEER_VERSION}"
    python = venv / "bin" / "python"
    if not python.exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert uv, "uv is a dependency of the package"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python), f"flyte=={PEER_VERSION}"]
        subprocess.run(install, check=True)
    return str(python)


@pytest.fixture
def fresh_home() -> Iterator[Home]:
    """A home for one test that does things to the platform itself."""
    home = Home(_scratch())
    yield home
    home.end()
    assert not home.holding(PLANTED)
    _remove(home.path)


@pytest.fixture
def project(home: Home, tmp_path: Path) -> Iterator[Project]:
    """An empty project with the module `web` in it."""
    project = Project(tmp_path, home)
    project.write("web.py", WEB)
    yield project
    project.close()


@pytest.fixture(params=["blocking", "aio"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a function that has two forms in one of them."""
    if request.param == "blocking":
        return lambda function, *args, **kwargs: function(*args, **kwargs)

    def awaited(function: Any, *args: Any, **kwargs: Any) -> Any:
        async def inside() -> Any:
            return await function.aio(*args, **kwargs)

        return asyncio.run(inside())

    return awaited


@pytest.fixture(params=["flyte.serve(env)", "asyncio.run(flyte.serve.aio(env))"], ids=["blocking", "aio"])
def serve_call(request: pytest.FixtureRequest) -> str:
    """The same, as source text of a script that has imported `asyncio`."""
    return str(request.param)
