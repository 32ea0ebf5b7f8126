"""What a person meets: help, completion in real shells, narrow and colourless terminals, Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from support import Home, Project, until

FLYTE = Path(sys.executable).with_name("flyte")
APP = """
import flyte.app
env = flyte.app.AppEnvironment(name="term-{name}", args=["python", "-m", "http.server", "8080"])
"""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def files(home, tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("term"), home)
    project.write("one.py", APP.format(name="one"))
    done = home.flyte("serve", "one.py", cwd=project.folder)
    assert done.returncode == 0, done.stderr
    return project


def on_terminal(
    home: Home, *words: str, columns: int = 80, cwd: Path | None = None, interrupt_at: str = "", **more: str
) -> tuple[int, str]:
    """Run a command on a terminal of that width; all that it showed, and how it ended."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {
        name: value for name, value in home.environment().items() if name not in ("CI", "NO_COLOR")
    }
    process = subprocess.Popen(
        [FLYTE, *words],
        env={**environment, "TERM": "xterm-256color", **more},
        cwd=cwd or home.path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        readable, _, _ = select.select([ours], [], [], 0.1)
        try:
            piece = os.read(ours, 65536) if readable else None
        except OSError:
            break
        if piece == b"":
            break
        shown += piece or b""
        if interrupt_at and interrupt_at.encode() in shown:
            process.send_signal(signal.SIGINT)
            interrupt_at = ""
    os.close(ours)
    return process.wait(timeout=20), shown.decode()


def test_help_is_grouped_and_has_examples(home):
    done = home.flyte("--help")
    assert done.returncode == 0
    for heading in ("Serve apps:", "Look after apps:", "This machine:", "Options of all", "Exit status:"):
        assert heading in done.stdout, heading
    assert not COLOUR.search(done.stdout)
    assert "Examples:\n  flyte serve\n" in home.flyte("serve", "--help").stdout


def test_colour_is_for_terminals_that_want_it(home):
    _, shown = on_terminal(home, "--help")
    assert COLOUR.search(shown)
    for more in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        _, shown = on_terminal(home, "--help", **more)
        assert not COLOUR.search(shown), more
        _, shown = on_terminal(home, "get", "app", "nobody", **more)
        assert not COLOUR.search(shown), more


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_tables_fit_the_terminal(files, columns):
    project = Project(files.folder, files.home)
    project.write("long.py", APP.format(name="a-name-that-is-quite-long"))
    assert files.home.flyte("serve", "long.py", cwd=files.folder).returncode == 0
    status, shown = on_terminal(files.home, "get", "app", columns=columns)
    assert status == 0
    lines = COLOUR.sub("", shown).splitlines()
    assert lines[0].split()[:2] == ["NAME", "STATUS"]
    assert all(len(line) <= columns for line in lines)
    assert any("…" in line for line in lines) is (columns < 80)
    if columns >= 60:
        assert all("http://localhost:" in line for line in lines[1:]), "addresses are cut last"
    # A pipe gets everything.
    assert "term-a-name-that-is-quite-long" in files.home.flyte("get", "app").stdout


def test_steps_move_on_a_terminal_and_stand_still_in_ci(files):
    _, live = on_terminal(files.home, "serve", "one.py", cwd=files.folder)
    _, still = on_terminal(files.home, "serve", "one.py", cwd=files.folder, CI="true")
    assert "\x1b[" in COLOUR.sub("", live), "lines are drawn again"
    assert "\x1b[" not in COLOUR.sub("", still)
    for shown in (live, still):
        assert "reused, 0 B sent" in shown
        assert re.search(r"Took +[\d.]+ m?s: ", shown), shown


def test_documents_as_yaml(files):
    for words in (["get", "app"], ["get", "app", "term-one"], ["local", "status"], ["explain", "app.exited"]):
        as_json = json.loads(files.home.flyte(*words, "--output", "json").stdout)
        as_yaml = yaml.safe_load(files.home.flyte(*words, "--output", "yaml").stdout)
        for told in (as_json, as_yaml):
            # Figures of traffic move on between the two calls.
            if isinstance(told, dict):
                told.pop("traffic", None)
        assert as_yaml == as_json, words
    failed = files.home.flyte("get", "app", "nobody", "--output", "yaml")
    assert failed.returncode == 1
    assert yaml.safe_load(failed.stdout)["error"]["code"] == "app.not_found"


def test_the_only_app_of_a_folder_is_found(home, tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('imported')\n")
    none = home.flyte("serve", cwd=tmp_path)
    assert none.returncode == 2
    assert "no Python file" in none.stderr and "flyte init" in none.stderr

    (tmp_path / "web.py").write_text(APP.format(name="found"))
    one = home.flyte("serve", "--dry-run", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    assert "serving `web.py`, the only app here" in one.stderr
    assert "would serve `term-found`" in one.stderr

    (tmp_path / "api.py").write_text(APP.format(name="second"))
    two = home.flyte("serve", cwd=tmp_path)
    assert two.returncode == 2
    assert "`api.py`, `web.py`" in two.stderr


def test_explain(home):
    every = home.flyte("explain")
    assert every.returncode == 0 and "app.wrong_port" in every.stdout
    one = home.flyte("explain", "app.wrong_port")
    assert one.stdout.startswith("# `app.wrong_port`\n")
    wrong = home.flyte("explain", "app.wrong_prot")
    assert wrong.returncode == 2
    assert "did you mean `app.wrong_port`?" in wrong.stderr


def test_an_error_names_its_page(home):
    done = home.flyte("get", "app", "nobody")
    assert done.stderr.splitlines()[-1] == "`flyte explain app.not_found` tells more"


def test_errors_that_python_raises_keep_code_and_status(home, tmp_path):
    (tmp_path / "bad.py").write_text("import flyte\nflyte.init(endpoint='ftp://x')\n")
    done = home.flyte("serve", "bad.py", "--output", "json", cwd=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "config.invalid"


# `_init_completion` and friends are not needed: only what bash itself has.
BASH = """
source <(flyte completion bash)
COMP_WORDS=(flyte {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ :; }}
_flyte
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = """
source (flyte completion fish | psub)
complete -C 'flyte {words}'
"""
ZSH = """
autoload -Uz compinit && compinit -u -d {folder}/dump
source <(flyte completion zsh)
_describe() {{ print -l -- ${{(P)2}} }}
_files() {{ print -l -- :files }}
words=(flyte {words}); CURRENT=$#words
_flyte
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("get app ''", "term-one"),
        ("update app term-o", "term-one"),
        ("serve one.py ''", "env"),
        ("serve --copy-style loa", "loaded_modules"),
        ("serve --wat", "--watch"),
        ("explain app.wr", "app.wrong_port"),
        ("lo", "local"),
    ],
)
def test_shells_complete(files, tmp_path, shell, words, expected):
    program = shutil.which(shell)
    if program is None:
        message = f"{shell} is not installed"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    text = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]
    if shell == "fish":
        words = words.replace("''", "")
    script = text.format(words=words, folder=tmp_path)
    environment = files.home.environment(PATH=f"{FLYTE.parent}:{os.environ['PATH']}", HOME=str(tmp_path))
    quiet = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [program, *quiet, "-c", script],
        env=environment,
        cwd=files.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = [re.split(r"[\t:]", line)[0] for line in done.stdout.splitlines()]
    assert expected in found, done.stdout + done.stderr


def test_completion_starts_nothing(fresh_home):
    done = fresh_home.flyte("__complete", "--", "get", "app", "")
    assert (done.returncode, done.stdout) == (0, "")
    assert fresh_home.flyte("local", "status").returncode == 1


def test_ctrl_c_tells_what_is_left_and_leaves_the_rest_alone(files):
    project = Project(files.folder, files.home)
    project.write(
        "slow.py",
        """
        import sys
        from flyte.app import AppEnvironment
        program = "import time; print('loading', flush=True); time.sleep(600)"
        env = AppEnvironment(name="term-slow", args=["python", "-c", program])
        """,
    )
    before = files.home.app("term-one")
    status, shown = on_terminal(files.home, "serve", "slow.py", cwd=files.folder, interrupt_at="Activate")
    assert status == 130
    assert "interrupted; still there: " in shown.splitlines()[-1]
    assert "`term-slow`" in shown and "`term-one` (ACTIVE)" in shown
    assert "Traceback" not in shown
    assert files.home.app("term-one")["replicas"] == before["replicas"]
    assert files.home.flyte("delete", "app", "term-slow").returncode == 0
    until(lambda: "term-slow" not in files.home.names(), 10)


def test_ctrl_c_ends_a_command_that_waits_for_its_input(fresh_home):
    status, shown = on_terminal(fresh_home, "local", "reset", interrupt_at="to go on")
    assert (status, shown.splitlines()[-1]) == (130, "interrupted")
    words = [FLYTE, "create", "secret", "unfinished"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=fresh_home.environment(), stdin=pipe, stderr=pipe) as command:
        command.stdin.write(b"half of it")
        command.stdin.flush()
        unread = partial(fcntl.ioctl, command.stdin, termios.FIONREAD, bytes(4))
        until(lambda: unread() == bytes(4), 20, "it reads what it is given")
        command.send_signal(signal.SIGINT)
        try:
            assert command.wait(timeout=10) == 130
        finally:
            command.kill()
        assert command.stderr.read() == b"interrupted\n"
