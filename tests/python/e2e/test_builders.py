"""Every kind of layer with every builder: made, or refused by name; and what was made runs.

The builders work with real parts: `uv`, the container engine of this machine, and a registry of its
own. Both container builders start on one base image, which trusts whom this machine trusts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import platform
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from containers import BASE, Engine
from support import WEB, Project, get_json, until

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the base image has Python 3.11, as Debian 12 has"
)

PLAIN = 'flyte.Image.from_debian_base(name="layers", python_version="3.11")'
SCRIPT = '# /// script\n# requires-python = ">=3.11"\n# dependencies = ["six"]\n# ///\n'
PROJECT = """
[project]
name = "shelf"
version = "1"
requires-python = ">=3.11"
dependencies = ["six"]
"""

NEEDS_SHELL = "`with_commands"
NOT_HERE = "is a container image, which the environment builder cannot reproduce"

# What is added to the image; what a program then sees in it, as an expression that is true; and who
# refuses it, with a part of the words.
LAYERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "pip": (f'{PLAIN}.with_pip_packages("six")', "__import__('six')", {}),
    "requirements": (f'{PLAIN}.with_requirements("requirements.txt")', "__import__('six')", {}),
    "uv_project": (f'{PLAIN}.with_uv_project("shelf/pyproject.toml")', "__import__('six')", {}),
    "uv_script": (
        'flyte.Image.from_uv_script("script.py", name="layers", python_version="3.11")',
        "__import__('six')",
        {},
    ),
    "uv_lock": (f'{PLAIN}.with_uv_project("locked/pyproject.toml")', "__import__('six')", {}),
    "wheels": (
        f'{PLAIN}.clone(addl_layer=PythonWheels(wheel_dir="dist", package_name="own"))',
        "__import__('own').VALUE == 1",
        {},
    ),
    "options": (
        f'{PLAIN}.with_pip_packages("six", index_url="https://pypi.org/simple", pre=True, extra_args="--no-deps")',
        "__import__('six')",
        {},
    ),
    "code_bundle": (
        f'{PLAIN}.with_code_bundle("all", "/srv")',
        "not __import__('os').path.exists('/srv/app.py')",  # it travels in the bundle
        {},
    ),
    "secret": (
        f'{PLAIN}.with_pip_packages("six", secret_mounts=flyte.Secret("token", mount="/etc/flyte/secrets"))',
        "not __import__('os').path.exists('/etc/flyte/secrets/token')",
        dict.fromkeys(("environment", "oci"), "mounts the secret `token` as a file"),
    ),
    "poetry_project": (
        f'{PLAIN}.with_poetry_project("poetic/pyproject.toml")',
        "",
        dict.fromkeys(("environment", "oci"), "`with_poetry_project` needs `poetry`"),
    ),
    "pixi_script": (
        'flyte.Image.from_pixi_script("script.py", name="layers")',
        "",
        dict.fromkeys(("environment", "oci"), "from_pixi_script"),
    ),
    "platform": (
        'flyte.Image.from_debian_base(name="layers", platform="linux/{other}64")',
        "",
        {"environment": "is for `linux/{other}64` only", "oci": "compiled for"},
    ),
    "env_vars": (
        f'{PLAIN}.with_env_vars({{"A": "a b", "B": "$A-c"}})',
        "__import__('os').environ['B'] == 'a b-c'",
        {},
    ),
    "workdir": (
        f'{PLAIN}.with_workdir("/srv/app")',
        "__import__('os').getcwd().endswith('/srv/app')",
        {},
    ),
    "source_file": (
        f'{PLAIN}.with_source_file(Path("data.txt"), "/srv/")',
        "open('/srv/data.txt').read() == 'data'",
        {},
    ),
    "source_folder": (
        f'{PLAIN}.with_source_folder(Path("web"), "/srv/web").with_dockerignore(Path(".dockerignore"))',
        "__import__('os').listdir('/srv/web') == ['index.html']",
        {},
    ),
    "apt": (
        f'{PLAIN}.with_apt_packages("no-such-package-of-flyte-rs")',
        "",
        {
            "environment": "cannot be installed without a container",
            "oci": "with_apt_packages",
            "docker": "Unable to locate package no-such-package-of-flyte-rs",
        },
    ),
    "apt_made": (
        f'{PLAIN}.with_apt_packages("hello")',
        "__import__('os').path.exists('/usr/bin/hello')",
        dict.fromkeys(("environment", "oci"), "with_apt_packages('hello')"),
    ),
    "commands": (
        f'{PLAIN}.with_commands(["mkdir -p /srv/made"])',
        "__import__('os').path.isdir('/srv/made')",
        {"environment": NEEDS_SHELL, "oci": NEEDS_SHELL},
    ),
    "pixi_project": (
        f'{PLAIN}.with_pixi_project("pixi.toml")',
        "",
        # Docker would fetch pixi from a registry that not every machine reaches.
        {"environment": "with_pixi_project", "oci": "with_pixi_project"},
    ),
    "dockerfile": (
        'flyte.Image.from_dockerfile("docker/Dockerfile", None, "layers")',
        "__import__('os').path.isfile('/srv/in')",
        {"environment": "Dockerfile images need a container builder", "oci": "Dockerfile"},
    ),
    "base": (
        'flyte.Image.from_base("{base}").clone(name="layers", extendable=True).with_env_vars({{"A": "1"}})',
        "__import__('os').environ['A'] == '1'",
        {"environment": NOT_HERE},
    ),
    "unknown_name": (
        'flyte.Image.from_ref_name("gpu")',
        "",
        dict.fromkeys(("environment", "docker", "oci"), "no image is configured under the name `gpu`"),
    ),
}
# Docker fetches the tools of these from registries that not every machine reaches; Poetry is shown by
# its own test, and another platform needs an emulator.
ELSEWHERE = ("pixi_project", "pixi_script", "poetry_project", "platform")
CASES = [
    (layer, builder)
    for layer in LAYERS
    for builder in ("environment", "docker", "oci")
    if not (layer in ELSEWHERE and builder == "docker")
]
# What an environment keeps for whoever starts an app in it, where a bare interpreter does not show it.
KEPT: dict[str, Any] = {
    "env_vars": {"env_vars": [["A", "a b"], ["B", "$A-c"]]},
    "workdir": {"workdir": "/srv/app"},
    "source_file": {"sources": [{"stored": "files/0/data.txt", "dst": "/srv/data.txt", "is_folder": False}]},
    "source_folder": {"sources": [{"stored": "files/0", "dst": "/srv/web", "is_folder": True}]},
}
OTHER = "arm" if platform.machine() == "x86_64" else "amd"


def lacks(program: str) -> bool:
    return shutil.which(program) is None


@dataclass
class Workplace:
    """A project with the files that layers name, and the parts that builders need."""

    project: Project
    engine: Engine
    registry: str
    base: str
    settings_more: dict[str, str] = field(default_factory=dict)

    def build(self, image: str, builder: str) -> subprocess.CompletedProcess[str]:
        """Build the image of an app as a user does."""
        base = self.pushed_base if builder == "oci" else self.base
        image = image.replace("{base}", base).replace("{other}", OTHER).replace("{{", "{").replace("}}", "}")
        self.project.write(
            "app.py",
            f"from pathlib import Path\nimport flyte, flyte.app\nfrom flyte._image import PythonWheels\n"
            f'env = flyte.app.AppEnvironment(name="layers", args="x", image={image})\n',
        )
        words = ("build", "app.py", "--output", "json")
        return self.project.home.flyte(*words, cwd=self.project.folder, timeout=300, **self.settings(builder))

    def settings(self, builder: str) -> dict[str, str]:
        """Variables under which one builder works."""
        variables = {
            "FLYTE_IMAGE_BUILDER": builder,
            "FLYTE_IMAGE_BASE": self.pushed_base if builder == "oci" else self.base,
            "FLYTE_DOCKER_BUILD_NETWORK": "host",
        }
        if builder == "oci":
            variables |= {"FLYTE_ADMIN_ENDPOINT": "http://localhost:1", "FLYTE_IMAGE_REGISTRY": self.registry}
            variables |= {"FLYTE_TASK_PROJECT": "p", "FLYTE_TASK_DOMAIN": "d"}
            # It asks no daemon for anything.
            variables |= {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
        return variables | self.settings_more

    @property
    def pushed_base(self) -> str:
        return f"{self.registry}/base:3.11"


@pytest.fixture(scope="module")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the registry keeps what it is sent."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(registry_folder: Path) -> Iterator[str]:
    """A registry of its own."""
    program = shutil.which("docker-registry")
    if program is None:
        message = "no `docker-registry`; Debian's package has it"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = registry_folder
    settings = folder / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen(
        [program, "serve", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def is_up() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    until(is_up, 20, "the registry listens")
    yield f"localhost:{port}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def base(engine: Engine, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base image with this machine's certificates, in the engine and in the registry."""
    folder = tmp_path_factory.mktemp("base")
    bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(bundle, folder / "ca.crt")
    (folder / "Dockerfile").write_text(
        f"FROM {BASE}\nCOPY ca.crt /etc/ssl/certs/ca-certificates.crt\n"
        "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n"
    )
    tag = engine.build(f"flyte-test-trusting:{os.getpid()}", folder)
    pushed = f"{registry}/base:3.11"
    engine.run("tag", tag, pushed)
    engine.run("push", "--quiet", pushed)
    yield tag
    engine.run("rmi", "--force", pushed, tag, check=False)


@pytest.fixture(scope="module")
def uv_lock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The lock of a project with one dependency."""
    uv = shutil.which("uv", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    assert uv, "uv is a dependency of the package"
    folder = tmp_path_factory.mktemp("lock")
    (folder / "pyproject.toml").write_text(PROJECT)
    subprocess.run([uv, "lock", "--quiet"], cwd=folder, check=True)
    return (folder / "uv.lock").read_text()


def wheel(folder: Path, name: str) -> Path:
    """A wheel with one module."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.dist-info"
    path = folder / f"{name}-1-py3-none-any.whl"
    files = {
        f"{name}.py": "VALUE = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


@pytest.fixture
def workplace(
    project: Project, engine: Engine, registry: str, base: str, uv_lock: str
) -> Iterator[Workplace]:
    for name, text in {
        "requirements.txt": "six\n",
        "script.py": SCRIPT,
        "shelf/pyproject.toml": PROJECT,
        "data.txt": "data",
        "web/index.html": "<p>",
        "web/left.log": "out",
        ".dockerignore": "**/*.log\n",
        "pixi.toml": '[workspace]\nname = "p"\nchannels = ["conda-forge"]\nplatforms = ["linux-64"]\n',
        "docker/Dockerfile": f"FROM {base}\nCOPY in /srv/in\n",
        "docker/in": "in",
        "poetic/pyproject.toml": PROJECT,
        "poetic/poetry.lock": "",
        "locked/pyproject.toml": PROJECT,
        "locked/uv.lock": uv_lock,
    }.items():
        path = project.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    wheel(project.folder / "dist", "own")
    yield Workplace(project, engine, registry, base, {"TOKEN": "secret-of-the-test"})
    uris = engine.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    engine.run("rmi", "--force", *[uri for uri in uris if "/layers:" in f"/{uri}"], check=False)


@pytest.mark.parametrize(("layer", "builder"), CASES)
def test_a_layer_is_made_or_refused_by_name(workplace: Workplace, layer: str, builder: str):
    image, seen, refused = LAYERS[layer]
    if layer == "poetry_project" and not lacks("poetry"):
        pytest.skip("this machine has Poetry")
    done = workplace.build(image, builder)
    answer: Any = json.loads(done.stdout)
    if builder in refused:
        assert done.returncode != 0
        error = answer["error"]
        assert refused[builder].replace("{other}", OTHER) in "\n".join([error["message"], *error["log"]]), (
            error
        )
        assert error["hints"], error
        return
    assert done.returncode == 0, done.stdout
    made = answer["layers"]
    assert (made["builder"], made["state"]) == (builder, "built")
    again = json.loads(workplace.build(image, builder).stdout)["layers"]
    assert (again["state"], again["uri"]) == ("reused", made["uri"])
    check = f"assert {seen}, 'not there'"
    if builder != "environment":
        workplace.engine.run("run", "--rm", made["uri"], "python3", "-c", check)
        return
    folder = workplace.project.home.path / "envs" / made["uri"].rpartition(":")[2]
    kept = json.loads((folder / "flyte-env.json").read_text())
    if layer in KEPT:
        assert {name: kept[name] for name in KEPT[layer]} == KEPT[layer]
    else:
        subprocess.run([folder / "bin" / "python", "-c", check], check=True, cwd="/")


APP = """
import os, sys
from pathlib import Path
import flyte, flyte.app
import web

env = flyte.app.AppEnvironment(name="{name}", image={image})

@env.server
def serve():
    import six
    web.serve(lambda path: {{"word": os.environ["WORD"], "six": six.__version__, "user": os.getuid()}})

if __name__ == "__main__":
    print(flyte.serve(env).endpoint)
"""
DECLARED = f"{PLAIN}.with_pip_packages('six==1.16.0').with_env_vars({{'WORD': 'hello'}})"
EXPECTED = {"word": "hello", "six": "1.16.0", "user": 1000}


def answer_of(workplace: Workplace, name: str, image: str, builder: str) -> Any:
    workplace.project.write("web.py", WEB)
    workplace.project.write("served.py", APP.format(name=name, image=image))
    done = workplace.project.run("served.py", timeout=300, **workplace.settings(builder))
    assert done.returncode == 0, done.stderr
    return get_json(done.stdout.strip())


def test_what_docker_builds_is_served_and_answers(workplace: Workplace):
    assert answer_of(workplace, "by-docker", DECLARED, "docker") == EXPECTED


def test_what_is_built_without_an_engine_answers_the_same_in_one(workplace: Workplace, tmp_path: Path):
    built = json.loads(workplace.build(DECLARED, "oci").stdout)["layers"]
    assert built["builder"] == "oci"
    # Fetched by the engine from the registry, as a cluster would.
    assert workplace.engine.run("images", "--quiet", built["uri"]) == ""
    assert answer_of(workplace, "by-oci", repr(built["uri"]), "auto") == EXPECTED
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        assert not os.environ.get("CI"), "no `skopeo`; Debian's package has it"
        return
    copy = [skopeo, "copy", "--src-tls-verify=false", f"docker://{built['uri']}", f"oci:{tmp_path}/copy:1"]
    done = subprocess.run(copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_cheapest_builder_that_can_is_taken(workplace: Workplace):
    shell = f"{PLAIN}.with_commands(['true'])"
    assert json.loads(workplace.build(PLAIN, "auto").stdout)["layers"]["builder"] == "environment"
    made = json.loads(workplace.build(shell, "auto").stdout)["layers"]
    assert made["builder"] == "docker"
    assert NEEDS_SHELL in made["why"]


def titles() -> bytes:
    """The command lines of all processes of this machine."""
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes()
    return found


@pytest.mark.parametrize("builder", ["environment", "docker", "oci"])
def test_no_secret_is_left_anywhere(
    workplace: Workplace, registry_folder: Path, builder: str, tmp_path: Path
):
    """A planted value: not in the home, the image, the registry, what is printed, or a process title."""
    planted = secrets.token_hex(16)
    image = f"{PLAIN}.with_pip_packages('six', secret_mounts='build-token')"
    if builder == "docker":
        image += ".with_commands(['test ${{#BUILD_TOKEN}} = 32'], secret_mounts='build-token')"
    workplace.settings_more = {"BUILD_TOKEN": planted}
    made = built_unseen(workplace, image, builder, planted)
    assert_left_nowhere(workplace, registry_folder, builder, tmp_path, made, planted)


def built_unseen(workplace: Workplace, image: str, builder: str, planted: str) -> str:
    """Build while all command lines are read, and return the image's URI."""
    seen = b""
    with ThreadPoolExecutor() as pool:
        building = pool.submit(workplace.build, image, builder)
        while not building.done():
            seen += titles()
            time.sleep(0.05)
    done = building.result()
    assert done.returncode == 0, done.stdout
    assert planted not in done.stdout + done.stderr
    assert planted.encode() not in seen
    return str(json.loads(done.stdout)["layers"]["uri"])


def assert_left_nowhere(
    workplace: Workplace, registry_folder: Path, builder: str, tmp_path: Path, made: str, planted: str
) -> None:
    folders = [workplace.project.home.path, registry_folder]
    if builder != "environment":
        workplace.engine.run("pull", "--quiet", made, check=False)
        workplace.engine.run("save", "--output", str(tmp_path / "image.tar"), made)
        with tarfile.open(tmp_path / "image.tar") as archive:
            archive.extractall(tmp_path / "image", filter="data")
        for layer in (tmp_path / "image").rglob("layer.tar"):
            with tarfile.open(layer) as archive:
                archive.extractall(layer.parent / "content", filter="tar")
        folders.append(tmp_path / "image")
        assert planted not in workplace.engine.run("history", "--no-trunc", made)
        assert planted not in workplace.engine.run("inspect", made)
    found = subprocess.run(["grep", "-rlaF", planted, *folders], capture_output=True, text=True)
    assert found.stdout == ""


class Guarded(BaseHTTPRequestHandler):
    """A package index that admits nobody without a password; slow, so that titles can be read."""

    token = ""
    folder = Path()
    refused = 0

    def do_GET(self) -> None:
        time.sleep(0.2)
        kind = type(self)
        expected = base64.b64encode(f"me:{kind.token}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            kind.refused += 1
            self.answer(401, b"")
            return
        name = self.path.strip("/").split("/")[-1]
        file = kind.folder / name
        if name.endswith(".whl") and file.is_file():
            self.answer(200, file.read_bytes())
            return
        wheels = [file for file in kind.folder.glob("*.whl") if file.name.startswith(f"{name}-")]
        links = [
            f'<a href="/files/{file.name}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}">{file.name}</a>'
            for file in wheels
        ]
        self.answer(200 if links else 404, "".join(links).encode())

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Host and port of an index with a password of its own, in `Guarded.token`."""
    Guarded.token, Guarded.folder = secrets.token_hex(16), tmp_path / "index"
    for name in ("planted", "extra"):
        wheel(Guarded.folder, name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("builder", ["environment", "docker", "oci"])
def test_credentials_in_addresses_are_left_nowhere(
    workplace: Workplace, registry_folder: Path, index: str, builder: str, tmp_path: Path
):
    """Of an index as declared, and of a requirement, where a secret is filled in."""
    planted = Guarded.token
    image = (
        f"{PLAIN}.with_pip_packages('planted', index_url='http://me:{planted}@{index}/simple')"
        f".with_pip_packages('extra @ http://me:${{{{BUILD_TOKEN}}}}@{index}/files/extra-1-py3-none-any.whl', "
        "secret_mounts='build-token')"
    )
    workplace.settings_more = {"BUILD_TOKEN": planted}
    made = built_unseen(workplace, image, builder, planted)
    assert_left_nowhere(workplace, registry_folder, builder, tmp_path, made, planted)


@pytest.mark.parametrize("builder", ["environment", "docker", "oci"])
def test_the_callers_index_is_everybodys(workplace: Workplace, index: str, builder: str):
    workplace.settings_more = {"UV_DEFAULT_INDEX": f"http://me:{Guarded.token}@{index}/simple"}
    image = f"{PLAIN}.with_pip_packages('planted').with_env_vars({{{{'BY': '{builder}'}}}})"
    done = workplace.build(image, builder)
    assert done.returncode == 0, done.stdout
    assert Guarded.token not in done.stdout + done.stderr


@pytest.mark.parametrize("builder", ["environment", "oci"])
def test_a_repositorys_token_is_in_no_title(workplace: Workplace, index: str, builder: str):
    """Nor in one of `git`, which is told of it otherwise. There is no repository: the build fails."""
    planted = Guarded.token
    for address in (f"me:{planted}", "me:${{BUILD_TOKEN}}"):
        workplace.settings_more = {"BUILD_TOKEN": planted}
        image = f"{PLAIN}.with_pip_packages('x @ git+http://{address}@{index}/x.git', secret_mounts='build-token')"
        seen = b""
        Guarded.refused = 0
        with ThreadPoolExecutor() as pool:
            building = pool.submit(workplace.build, image, builder)
            while not building.done():
                seen += titles()
                time.sleep(0.02)
        done = building.result()
        assert done.returncode != 0
        assert planted not in done.stdout + done.stderr
        assert b"/x.git" in seen, "it was read while `git` ran"
        assert planted.encode() not in seen
        assert Guarded.refused == 0, "the server was told"


@pytest.mark.timeout(900)
def test_a_killed_build_by_docker_leaves_nothing_that_counts(workplace: Workplace):
    """At random moments: the name is there only when all of the image is."""
    image = f"{PLAIN}.with_commands(['sleep 1; echo 1 > /srv/one', 'sleep 1; echo 2 > /srv/two'])"
    began = time.monotonic()
    done = workplace.build(image.replace("sleep 1", "sleep 1.0"), "docker")
    took = time.monotonic() - began
    assert done.returncode == 0, done.stdout
    program = os.path.join(os.path.dirname(sys.executable), "flyte")
    command = [program, "build", "app.py", "--output", "json"]
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for number in range(3):
        line = f"sleep 1; echo {number}"  # another image each time
        workplace.build(image.replace("sleep 1; echo 1", line), "environment")  # refused; writes the file
        environment = workplace.project.home.environment(**workplace.settings("docker"))
        where: dict[str, Any] = {"cwd": workplace.project.folder, "env": environment}
        process = subprocess.Popen(
            command, **where, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0, took))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after = subprocess.run(command, **where, capture_output=True, text=True)
        assert after.returncode == 0, (seed, after.stdout, after.stderr)
        made = json.loads(after.stdout)["layers"]
        assert made["state"] in ("built", "reused"), seed
        workplace.engine.run("run", "--rm", made["uri"], "cat", "/srv/one", "/srv/two")


def test_a_layout_is_written_without_an_engine(workplace: Workplace, tmp_path: Path):
    workplace.build(PLAIN, "oci")  # writes the file
    variables = workplace.settings("oci") | {"FLYTE_IMAGE_COMPRESSION": "zstd"}
    words = ("build", "app.py", "--output", "json", "--layout", str(tmp_path / "layout"))
    done = workplace.project.home.flyte(*words, cwd=workplace.project.folder, timeout=300, **variables)
    assert done.returncode == 0, done.stdout
    listed = json.loads((tmp_path / "layout" / "index.json").read_text())
    digest = listed["manifests"][0]["digest"].replace(":", "/")
    manifest = json.loads((tmp_path / "layout" / "blobs" / digest).read_text())
    assert manifest["layers"][-1]["mediaType"].endswith("+zstd")


def test_a_python_that_is_not_here_is_not_replaced(workplace: Workplace):
    """It is never replaced by another one."""
    image = 'flyte.Image.from_debian_base(name="layers", python_version="3.99")'
    done = workplace.build(image, "environment")
    assert done.returncode != 0
    error = json.loads(done.stdout)["error"]
    assert "no Python 3.99 was found" in error["message"], error
