"""What the threat model of ARCHITECTURE.md says of other users, shared folders and hostile apps."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import WEB, Home, Project, get_json, until

NOBODY = 65534

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or (shutil.which("setpriv") is None and "CI" not in os.environ),
    reason="another user's process is started by root, with `setpriv` of util-linux",
)

HOSTILE = """
import ctypes, os
import flyte, flyte.app
import web

env = flyte.app.AppEnvironment(name="hostile")

def attempt(action):
    try:
        return repr(action())
    except OSError as error:
        return type(error).__name__

def attack(path):
    words = path.strip("/").split("/")
    if words[0] == "own":
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
        child = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
        reached = attempt(lambda: os.kill(child, 9))
        os.waitpid(child, 0)
        return {"no_new_privs": status["NoNewPrivs"].strip(), "child": reached}
    pid = int(words[0])
    libc = ctypes.CDLL(None, use_errno=True)
    return {
        "signal": attempt(lambda: os.kill(pid, 0)),
        "kill": attempt(lambda: os.kill(pid, 9)),
        "environment": attempt(lambda: open(f"/proc/{pid}/environ", "rb").read()),
        "memory": attempt(lambda: open(f"/proc/{pid}/mem", "rb").read(1)),
        "descriptors": attempt(lambda: os.readlink(f"/proc/{pid}/fd/0")),
        "trace": libc.ptrace(16, pid, None, None),
    }

@env.server
def server():
    web.serve(attack)
"""


def fences() -> bool:
    """Whether this kernel can keep signals within a replica: Landlock of Linux 6.12."""
    import ctypes

    return ctypes.CDLL(None).syscall(444, 0, 0, 1) >= 6


@pytest.fixture(scope="module")
def hostile(home: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an app that attacks the process whose number is asked for."""
    project = Project(tmp_path_factory.mktemp("hostile"), home)
    project.write("web.py", WEB)
    project.write("main.py", HOSTILE)
    project.write("first.py", "import flyte, main\nprint('\"' + flyte.serve(main.env).endpoint + '\"')")
    return project.result("first.py")


def test_an_app_gains_no_privileges_and_keeps_its_own_processes(hostile: str) -> None:
    assert get_json(f"{hostile}/own") == {"no_new_privs": "1", "child": "None"}


@pytest.mark.skipif(not fences(), reason="needs Landlock of Linux 6.12")
def test_an_app_reaches_neither_the_platform_nor_its_neighbours(hostile: str, home: Home) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        for pid in (home.status()["pid"], bystander.pid):
            refused = get_json(f"{hostile}/{pid}")
            if os.geteuid() == 0:
                # Whoever may measure the whole machine (CAP_PERFMON) reads it in any case.
                del refused["environment"]
            assert refused.pop("trace") == -1
            assert set(refused.values()) == {"PermissionError"}, refused
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert home.status()["pid"]


def unprivileged(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program as `nobody`."""
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    environment = {"PATH": os.environ["PATH"], **more}
    return subprocess.run(
        ["setpriv", *ids, *map(str, words)], env=environment, capture_output=True, text=True, timeout=60
    )


LOOK = """
import os, pathlib, sys
folder = pathlib.Path("/proc", sys.argv[1])
print(os.geteuid(), (folder / "environ").stat().st_uid)
for name in ("mem", "environ", "maps"):
    try:
        os.close(os.open(folder / name, os.O_RDONLY))
        print(name, "opens")
    except PermissionError:
        print(name, "refused")
"""


@pytest.fixture
def ordinary() -> Iterator[tuple[list[str], dict[str, str], Path]]:
    """How an ordinary user runs Python with this package, and where a home of that user may lie.

    That is whoever runs the tests, or `nobody` where root does: what belongs to root tells nothing of root.
    """
    with tempfile.TemporaryDirectory(prefix="flyte-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield [sys.executable], dict(os.environ), folder
            return
        if shutil.which("setpriv") is None or not Path("/usr/bin/python3").exists():
            pytest.skip("another user's process is started by root, with `setpriv` of util-linux")
        # The interpreter and the folders of tests may lie where only root can go.
        packages = folder / "packages"
        for module in ("flyte", "cloudpickle"):
            found = importlib.util.find_spec(module)
            assert found and found.submodule_search_locations
            shutil.copytree(found.submodule_search_locations[0], packages / module)
        home = folder / "home"
        home.mkdir()
        for path in (folder, home):
            os.chown(path, NOBODY, NOBODY)
        ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        variables = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(packages)}
        yield ["setpriv", *ids, "/usr/bin/python3"], variables, home


def test_the_platform_shows_no_memory_and_dumps_no_core(
    ordinary: tuple[list[str], dict[str, str], Path],
) -> None:
    python, variables, home = ordinary
    environment = {**variables, "FLYTE_HOME": str(home / "flyte")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*python, *words], env=environment, cwd="/", capture_output=True, text=True, timeout=60
        )

    def flyte(*words: str) -> str:
        done = run("-m", "flyte._cli", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    flyte("local", "start")
    try:
        pid = json.loads(flyte("local", "status", "--output", "json"))["pid"]
        user = os.geteuid() or NOBODY
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{user}\t" in status, "the platform is not the user's"
        # The files of a process that may be dumped belong to its user, of one that may not to root.
        looked = run("-c", LOOK, str(pid)).stdout.split("\n")
        assert looked[:4] == [f"{user} 0", "mem refused", "environ refused", "maps refused"], looked
        # The same look into a process that is like any other sees all of it.
        other = subprocess.Popen([*python, "-c", "input()"], env=environment, stdin=subprocess.PIPE)
        try:
            until(
                lambda: Path(f"/proc/{other.pid}/environ").stat().st_uid == user,
                what="a process of that user",
            )
            looked = run("-c", LOOK, str(other.pid)).stdout.split("\n")
            assert looked[0] == f"{user} {user}" and "environ opens" in looked, looked
        finally:
            other.communicate()
    finally:
        flyte("local", "stop")


def test_modes_are_closed_under_any_umask(fresh_home: Home, tmp_path: Path) -> None:
    home = Home(fresh_home.path / "new")
    started = subprocess.run(
        ["sh", "-c", 'umask 000; exec "$0" local start', Path(sys.executable).with_name("flyte")],
        env=home.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    try:
        assert started.returncode == 0, started.stderr
        secret = home.flyte("create", "secret", "key", "--value", "x")
        assert secret.returncode == 0, secret.stderr
        run, socket_file = home.path / "run", home.path / "run/platform.sock"
        modes = {
            str(path.relative_to(home.path.parent)): stat.S_IMODE(path.lstat().st_mode)
            for path in (home.path, run, home.path / "secrets", socket_file)
        }
        assert modes == {"new": 0o700, "new/run": 0o700, "new/secrets": 0o700, "new/run/platform.sock": 0o600}
        inside = (home.path / "secrets").rglob("*")
        assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in inside} == {0}
    finally:
        home.end()


@as_root
def test_another_user_is_hung_up_on_even_where_the_folder_is_open(fresh_home: Home) -> None:
    assert fresh_home.flyte("local", "start").returncode == 0
    socket_file = fresh_home.path / "run/platform.sock"
    ask = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(b'GET /healthz HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n'); print(s.recv(15))"
    )
    shut = unprivileged("/usr/bin/python3", "-c", ask, socket_file)
    assert "PermissionError" in shut.stderr, shut
    folders = [fresh_home.path, *fresh_home.path.parents]
    before = {folder: folder.stat().st_mode for folder in [*folders, socket_file.parent, socket_file]}
    try:
        for path in before:
            path.chmod(0o777)
        open_ = unprivileged("/usr/bin/python3", "-c", ask, socket_file)
    finally:
        for path, mode in before.items():
            path.chmod(stat.S_IMODE(mode))
    assert "200" not in open_.stdout, open_
    # Hung up on: before the answer, before the question was read, or before it was sent.
    hung_up = open_.stdout.strip() == "b''" or "ConnectionResetError" in open_.stderr
    assert hung_up or "BrokenPipeError" in open_.stderr, open_
    own = subprocess.run([sys.executable, "-c", ask, socket_file], capture_output=True, text=True, timeout=20)
    assert "200" in own.stdout


@as_root
def test_a_configuration_of_somebody_else_is_not_obeyed(fresh_home: Home, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    planted = tmp_path / "config.yaml"
    planted.write_text(
        f"admin:\n  endpoint: http://127.0.0.1:1\n  authType: ExternalCommand\n  command: [touch, {ran}]\n"
    )
    os.chown(planted, NOBODY, NOBODY)
    refused = fresh_home.flyte("get", "app", cwd=tmp_path)
    assert refused.returncode == 2, refused
    assert "belongs to user 65534" in refused.stderr and "--config" in refused.stderr
    assert not ran.exists()
    # Who names it means it.
    named = fresh_home.flyte("--config", planted, "get", "config", cwd=tmp_path)
    assert named.returncode == 0, named.stderr


@as_root
def test_a_folder_that_somebody_else_laid_out_is_not_used_for_the_socket(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    deep = Home(tmp_path / ("deep" * 30))
    deep.path.mkdir()
    temporary = tmp_path / "tmp"
    temporary.mkdir(mode=0o1777)
    started = deep.flyte("local", "start", TMPDIR=str(temporary))
    assert started.returncode == 0, started.stderr
    assert deep.flyte("local", "stop", TMPDIR=str(temporary)).returncode == 0
    (folder,) = temporary.glob("flyte-*")
    shutil.rmtree(folder)

    # A trap in its place: a listener that would be told everything.
    folder.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "platform.sock"))
    listener.listen()
    listener.settimeout(0.2)
    request.addfinalizer(listener.close)
    os.chown(folder, NOBODY, NOBODY)
    refused = deep.flyte("local", "start", TMPDIR=str(temporary))
    assert refused.returncode != 0 and "is not a folder of user" in refused.stderr, refused
    with pytest.raises(TimeoutError):
        listener.accept()


def test_messages_of_a_server_command_no_terminal(fresh_home: Home, tmp_path: Path) -> None:
    import http.server
    import threading

    told = "\x1b]52;c;ZWNobw==\x07\x1b[2Jgo away\u202e"

    class Hostile(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps({"code": "permission_denied", "message": told}).encode()
            self.send_response(403)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        scope = {"FLYTE_TASK_PROJECT": "p", "FLYTE_TASK_DOMAIN": "d"}
        endpoint = f"http://127.0.0.1:{server.server_port}"
        done = fresh_home.flyte("--endpoint", endpoint, "get", "app", cwd=tmp_path, **scope)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 1 and "go away" in done.stderr, done
    shown = done.stdout + done.stderr
    assert not [c for c in shown if ord(c) < 32 and c not in "\n\t" or c == "\u202e"], shown
