"""Secrets of the local platform: kept, given to apps, and seen nowhere else."""

from __future__ import annotations

import html
import json
import os
import pty
import re
import select
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stores
from support import Home, Project, environment_of, get, get_json, until

# Put together here, so that no file of the tests holds it.
PLANTED = "-".join(["plant", "ed", "xq7", "value"])


def create(home: Home, name: str, value: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`flyte create secret`, with the value on standard input."""
    return subprocess.run(
        [Path(sys.executable).with_name("flyte"), "create", "secret", name, *words],
        env=home.environment(),
        input=value,
        capture_output=True,
        text=True,
        timeout=60,
    )


APP = """
import json, os
import flyte
from flyte.app import AppEnvironment
import web

MOUNTED = flyte.Secret("mounted", group="tls", mount="/etc/flyte/secrets")
env = AppEnvironment(
    name="keeper",
    secrets=[flyte.Secret("api-key", as_env_var="MY_KEY"), "plain-key", MOUNTED],
)

@env.server
def server():
    def answer(path):
        import hashlib
        digest = lambda data: hashlib.sha256(data).hexdigest()
        return {
            "MY_KEY": digest(os.environ["MY_KEY"].encode()),
            "PLAIN_KEY": digest(os.environ["PLAIN_KEY"].encode()),
            "file": digest(open(MOUNTED.path, "rb").read()),
            "path": MOUNTED.path,
            "mode": oct(os.stat(MOUNTED.path).st_mode & 0o777),
        }
    web.serve(answer)

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
"""


def digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def test_apps_are_given_them_and_nothing_else_holds_them(home: Home, project: Project):
    for name, value in {
        "api-key": PLANTED,
        "plain-key": PLANTED + "-2",
        "tls_mounted": PLANTED + "-3\n",
    }.items():
        made = create(home, name, value)
        assert made.returncode == 0, made.stderr
        assert value.strip() not in made.stdout + made.stderr
    project.write("main.py", APP)
    done = project.run()
    assert done.returncode == 0, done.stderr
    answer = get_json(json.loads(done.stdout.splitlines()[-1]))
    assert answer["MY_KEY"] == digest(PLANTED)
    assert answer["PLAIN_KEY"] == digest(PLANTED + "-2")
    assert answer["file"] == digest(PLANTED + "-3")
    assert answer["mode"] == "0o600"

    told = [
        done.stdout,
        done.stderr,
        json.dumps(home.status()),
        home.flyte("get", "secret").stdout,
        home.flyte("get", "secret", "api-key", "-o", "json").stdout,
        home.flyte("get", "app", "keeper", "-o", "json").stdout,
        home.flyte("get", "logs", "keeper").stdout,
    ]
    console = home.status()["console"]
    pages = crawled(console)
    assert any("/keeper" in page for page in pages) and "/metrics" in pages
    told += pages.values()
    assert not [text for text in told if PLANTED in text]
    assert "api-key" in told[3]

    held = grep(home.path, PLANTED)
    assert held == []
    # Only the replica's own environment has it; command lines never do.
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            assert PLANTED not in line, line
    with_it = {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and PLANTED in str(environment_of(entry.name))
    }
    assert with_it == set(home.replicas("keeper"))

    folder = Path(answer["path"]).parent.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert home.flyte("delete", "app", "keeper").returncode == 0
    until(lambda: not folder.exists(), what="the folder of mounted secrets goes with its replica")


def crawled(console: str) -> dict[str, str]:
    """Every page that can be reached from the console's first one, and what is for programs."""
    waiting, pages = ["/", "/apps", "/metrics", "/local/status"], {}
    while waiting:
        page = waiting.pop()
        if page in pages:
            continue
        pages[page] = get(console + page)[1]
        found = re.findall(r'(?:href|src|action|data-[a-z-]+)="(/[^"#]*)"', pages[page])
        # Streams of events have no end, and are made of the same parts as the pages.
        waiting += [html.unescape(link) for link in found if not link.split("?")[0].endswith("/live")]
        assert len(pages) < 500
    return pages


def grep(folder: Path, text: str) -> list[str]:
    """Files below `folder` that hold `text`, in clear or base64, packed or not."""
    import base64

    forms = [text.encode(), base64.b64encode(text.encode())[:-4]]
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(form in content for form in forms for content in contents(path))
    ]


def contents(path: Path) -> list[bytes]:
    """What a file holds, and what it holds unpacked."""
    import gzip

    found = [path.read_bytes()]
    if found[0].startswith(b"\x1f\x8b"):
        found.append(gzip.decompress(found[0]))
    if found[0].startswith(b"\x28\xb5\x2f\xfd"):
        done = subprocess.run(["zstd", "--decompress", "--stdout", str(path)], capture_output=True)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    return found


def test_the_search_for_secrets_finds_them(tmp_path: Path):
    import gzip

    (tmp_path / "packed").write_bytes(gzip.compress(PLANTED.encode()))
    (tmp_path / "other").write_text("nothing")
    (tmp_path / "plain").write_text(PLANTED)
    subprocess.run(["zstd", "-q", "plain", "-o", "denser"], cwd=tmp_path, check=True)
    found = {Path(path).name for path in grep(tmp_path, PLANTED)}
    assert found == {"packed", "plain", "denser"}


BROKEN = """
import os
import flyte
from flyte.app import AppEnvironment, Parameter
from flyte.io import File

SIGNED = "http://127.0.0.1:9/x?X-Amz-Signature=" + "-".join(["plant", "ed", "xq7", "value"])
env = AppEnvironment(
    name="@NAME@", secrets=[flyte.Secret("api-key", as_env_var="MY_KEY")], @MORE@
)

@env.server
def server():
    key = os.environ["MY_KEY"]
    raise RuntimeError(f"no service takes a key of {len(key)} letters")
"""


@pytest.mark.parametrize(
    ("name", "more"),
    [("crashing", ""), ("unsigned", 'parameters=[Parameter("model", File(SIGNED))],')],
)
def test_what_fails_shows_no_secret(home: Home, project: Project, name: str, more: str):
    create(home, "api-key", PLANTED, "--replace")
    project.write("main.py", BROKEN.replace("@NAME@", name).replace("@MORE@", more))
    failure = project.failure()
    told = [json.dumps(failure), json.dumps(home.status()), home.flyte("get", "logs", name).stdout]
    console = home.status()["console"]
    told += crawled(console).values()
    streams = [live(f"{console}/console{of}/live") for of in ("", f"/apps/local/development/{name}")]
    assert all("text/event-stream" in stream for stream in streams), streams
    told += streams
    assert not [text for text in told if PLANTED in text]
    # The declaration holds the URL that it was given; nothing but the app's message has to.
    if name == "crashing":
        assert grep(home.path, PLANTED) == []


def live(url: str, seconds: float = 1.5) -> str:
    """What a stream of events says in a while; nothing where there is none."""
    import socket as sockets
    from urllib.parse import urlsplit

    at = urlsplit(url)
    said = b""
    with sockets.create_connection((at.hostname, at.port), timeout=seconds) as line:
        line.sendall(f"GET {at.path} HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode())
        try:
            while piece := line.recv(65536):
                said += piece
        except TimeoutError:
            pass
    return said.decode(errors="replace")


def test_a_missing_one_is_told_before_anything_starts(home: Home, project: Project):
    create(home, "service-token", "x")
    project.write(
        "main.py",
        """
        import flyte
        from flyte.app import AppEnvironment
        env = AppEnvironment(name="wanting", args=["sleep", "60"], secrets="service-tokne")
        """,
    )
    failure = project.failure()
    assert (failure["class"], failure["code"]) == ("NotFoundError", "secret.not_found")
    assert "`service-tokne`" in failure["message"] and "`wanting`" in failure["message"]
    assert failure["hints"] == [
        "did you mean `service-token`?",
        "create it with `flyte create secret service-tokne --project local --domain development`",
    ]
    assert "wanting" not in home.names()


def test_one_that_was_deleted_is_missed_at_the_next_start(home: Home, project: Project):
    create(home, "fleeting", "x")
    project.write(
        "main.py",
        """
        import json
        import flyte, web
        from flyte.app import AppEnvironment
        env = AppEnvironment(name="forgotten", secrets="fleeting")

        @env.server
        def server():
            web.serve(lambda path: 1)

        if __name__ == "__main__":
            print(json.dumps(flyte.serve(env).endpoint))
        """,
    )
    project.result()
    assert home.flyte("update", "app", "forgotten", "--deactivate", "--wait").returncode == 0
    assert home.flyte("delete", "secret", "fleeting").returncode == 0
    again = home.flyte("update", "app", "forgotten", "--activate", "--wait")
    assert again.returncode == 1
    assert "`flyte create secret fleeting --project local --domain development`" in again.stderr


def test_the_command_has_four_sources_and_no_fifth_by_accident(home: Home, tmp_path: Path):
    file = tmp_path / "key.bin"
    file.write_bytes(b"\xff\x00\n")
    for words, more in [
        (["from-file", "--from-file", str(file)], {}),
        (["from-env", "--from-env", "THE_VALUE"], {"THE_VALUE": "v"}),
        (["from-value", "--value", "v"], {}),
    ]:
        made = home.flyte("create", "secret", *words, **more)
        assert made.returncode == 0, made.stderr
        warned = "shell's history" in made.stderr
        assert warned == ("--value" in words)
    assert create(home, "from-stdin", "v\n").returncode == 0
    listed = {one["name"]: one for one in home.json("get", "secret")}
    assert {"from-file", "from-env", "from-value", "from-stdin"} <= set(listed)
    assert set(listed["from-env"]) == {"name", "project", "domain", "created_at"}
    for words, text in [
        (["a", "v"], "unexpected argument"),
        (["a", "--value", "v", "--from-env", "X"], "cannot be used with"),
        (["a", "--from-env", "NOT_SET"], "`NOT_SET` is not set"),
        (["a/b", "--value", "v"], "cannot be the name of a secret"),
    ]:
        refused = home.flyte("create", "secret", *words)
        assert refused.returncode == 2, refused.stderr
        assert text in refused.stderr
    assert create(home, "empty", "\n").returncode == 2


def test_one_that_exists_is_replaced_only_on_request(home: Home):
    assert create(home, "twice", "1").returncode == 0
    refused = create(home, "twice", "2")
    assert refused.returncode == 1
    assert "`--replace`" in refused.stderr
    assert create(home, "twice", "2", "--replace").returncode == 0
    assert home.flyte("delete", "secret", "twice").returncode == 0
    gone = home.flyte("delete", "secret", "twice")
    assert gone.returncode == 1
    assert "`flyte get secret` lists" in gone.stderr


def test_projects_do_not_see_each_others(home: Home):
    assert create(home, "scoped", "1", "--project", "other").returncode == 0
    assert "scoped" not in home.flyte("get", "secret").stdout
    assert "scoped" in home.flyte("get", "secret", "--project", "other").stdout


@pytest.mark.parametrize("keys", ["typed\r", "typo\x15typed\r", "\x03"])
def test_what_is_typed_at_the_prompt_is_not_shown(home: Home, keys: str):
    name = f"typed-{len(keys)}"
    flyte = str(Path(sys.executable).with_name("flyte"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(flyte, [flyte, "create", "secret", name], home.environment())
    shown = b""
    deadline = time.monotonic() + 30
    sent = False
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 1)
        if not ready:
            continue
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
        if b"not shown" in shown and not sent:
            os.write(terminal, keys.encode())
            sent = True
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert sent and b"typ" not in shown.replace(name.encode(), b"")
    listed = [one["name"] for one in home.json("get", "secret")]
    if keys == "\x03":
        assert os.waitstatus_to_exitcode(status) == 130
        assert name not in listed
    else:
        assert os.waitstatus_to_exitcode(status) == 0, shown
        assert name in listed


PYPI_CLIENT = """
import sys
from flyteidl2.secret import definition_pb2, payload_pb2
request = payload_pb2.CreateSecretRequest(
    id=definition_pb2.SecretIdentifier(name="foreign", project="local", domain="development"),
    secret_spec=definition_pb2.SecretSpec(string_value="v"),
)
sys.stdout.buffer.write(request.SerializeToString())
"""


def test_messages_of_the_pypi_sdk_are_understood(home: Home, pypi_python: str):
    message = subprocess.run([pypi_python, "-c", PYPI_CLIENT], capture_output=True, check=True).stdout
    home.json("local", "start")
    socket = home.status()["socket"]
    import http.client
    import socket as sockets

    connection = http.client.HTTPConnection("localhost")
    connection.sock = sockets.socket(sockets.AF_UNIX)
    connection.sock.connect(socket)
    path = "/flyteidl2.secret.SecretService/CreateSecret"
    connection.request("POST", path, message, {"Content-Type": "application/proto"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()
    assert "foreign" in home.flyte("get", "secret").stdout


ONE = """
import hashlib, os
import flyte, web
from flyte.app import AppEnvironment

env = AppEnvironment(name="locked", secrets=[flyte.Secret("api-key", as_env_var="MY_KEY")])

@env.server
def server():
    web.serve(lambda path: hashlib.sha256(os.environ["MY_KEY"].encode()).hexdigest())
"""
KEYRING = """
set -e
printf unlocked | gnome-keyring-daemon --unlock --components=secrets > /dev/null
exec "$@"
"""


def test_the_key_lies_in_a_keyring_that_answers(fresh_home: Home, project: Project, tmp_path: Path):
    for program in ("dbus-run-session", "gnome-keyring-daemon"):
        if not shutil.which(program):
            stores.missing(f"`{program}`")
    project.home = fresh_home
    project.write("main.py", ONE)
    project.write(
        "all.py",
        f"""
        import json, os, subprocess, sys
        import flyte, main

        words = [os.path.join(os.path.dirname(sys.executable), "flyte")]
        given = dict(input={PLANTED!r}, text=True, check=True)
        subprocess.run([*words, "create", "secret", "api-key"], stdout=subprocess.DEVNULL, **given)
        served = flyte.serve(main.env)
        from urllib.request import urlopen
        print(urlopen(served.endpoint).read().decode())
        subprocess.run([*words, "local", "stop"], check=True, stdout=subprocess.DEVNULL)
        """,
    )
    variables = fresh_home.environment(HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path / "share"))
    del variables["FLYTE_DISABLE_KEYRING"]
    words = ["dbus-run-session", "--", "sh", "-c", KEYRING, "sh", sys.executable, "all.py"]
    done = subprocess.run(
        words, cwd=project.folder, env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == digest(PLANTED)
    # The key is there and not here: the file beside the secrets only says so.
    (key,) = fresh_home.path.glob("secrets/**/key")
    assert key.read_bytes() == b"keyring"
    assert list((tmp_path / "share" / "keyrings").iterdir())
    # Without the keyring nobody can open them, and that is said in words.
    failure = project.failure()
    assert PLANTED not in failure["text"] and "keyring" in failure["text"], failure


def test_a_secret_in_a_command_line_is_told(home: Home, project: Project):
    create(home, "shown-key", "x")
    project.write(
        "main.py",
        """
        import flyte
        from flyte.app import AppEnvironment
        words = ["sh", "-c", "exec python -m http.server 8080", "$SHOWN_KEY"]
        env = AppEnvironment(name="showing", args=words, secrets="shown-key")
        """,
    )
    done = home.flyte("serve", "main.py", cwd=project.folder)
    assert done.returncode == 0, done.stderr
    assert "app `showing` has the secret `$SHOWN_KEY` in its command line" in done.stderr
    assert "`ps`" in done.stderr
