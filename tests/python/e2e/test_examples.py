"""Runs every example and README's script as a user would, and asks the apps what they answer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
FLYTE = str(Path(sys.executable).with_name("flyte"))

Run = Callable[..., str]


@dataclass(frozen=True)
class Example:
    """What an example does.

    Args:
        answers: (line of the output, path, text that the app at that line's address answers).
        printed: lines that stand in the output as they are.
        environment: what `flyte serve` must be told where the file declares several.
    """

    answers: tuple[tuple[int, str, str], ...]
    printed: tuple[str, ...] = ()
    environment: str | None = None


TABLE = {
    "async_serve.py": Example(
        ((-2, "/", "Directory listing"), (-1, "/", "Directory listing")),
        ("active: [True, True]",),
        "first",
    ),
    "custom_environment.py": Example(((-1, "/", "welcome"), (-1, "/about", "about us"))),
    "deploy.py": Example(((-1, "/", "Directory listing"),), ("1 deployment",), "web"),
    "fastapi_app.py": Example(((-1, "/squares/12", '{"square":144}'), (-2, "", "Swagger UI"))),
    "graph.py": Example(((-1, "/", "FLOWERS"),), environment="front"),
    "hello.py": Example(((-1, "/", "Hello from flyte-rs"),)),
    "image_packages.py": Example(
        ((-1, "/", "<h1>From the image</h1>"), (-1, "/", "but <em>this</em> is from the app"))
    ),
    "include_files/app.py": Example(((-1, "/", "1. One for sorrow\n2. Two for joy\n"),)),
    "lifecycle.py": Example(
        ((-1, "/", "Directory listing"),),
        ("active: True", "deactivated: True", "answer: 200", "logged: True", "state: ACTIVE"),
    ),
    "parameters.py": Example(((-1, "/", "GOOD MORNING, ADA!!!\nGOOD MORNING, GRACE!!!"),)),
    "port.py": Example(((-2, "/", "Hello world!"), (-1, "/", "Directory listing")), environment="asks"),
    "startup_hooks.py": Example(((-1, "/", "weights: [1, 2, 3]"),)),
    "streamlit_app.py": Example(((-1, "/", "<title>Streamlit</title>"), (-1, "/_stcore/health", "ok"))),
    "uv_script.py": Example(((-1, "/1984", "MCMLXXXIV"),)),
    "websocket_app.py": Example(((-1, "", "echo: anybody there?"),)),
}

# Files that examples use, and that are none by themselves.
PARTS = {"include_files/rhymes.py"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a program in a home of its own and returns what it printed."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FLYTE_")}
    variables["FLYTE_HOME"] = str(tmp_path_factory.mktemp("home"))
    variables["FLYTE_ADMIN_ENDPOINT"] = ""  # the local platform, whatever this machine is set up for

    def run(*words: str, cwd: Path = ROOT) -> str:
        done = subprocess.run(words, env=variables, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stderr}"
        return done.stdout

    yield run
    run(FLYTE, "local", "stop")


def ask(url: str) -> str:
    """What the app at `url` answers."""
    if urlsplit(url).scheme == "ws":
        from websockets.sync.client import connect

        with connect(url) as socket:
            socket.send("anybody there?")
            return str(socket.recv(timeout=30))
    with urlopen(url, timeout=30) as response:
        text = response.read().decode()
        assert isinstance(text, str)
        return text


def addresses(lines: list[str]) -> set[str]:
    return {urlsplit(line).netloc for line in lines if "://" in line}


@pytest.mark.timeout(600)  # packages are installed
@pytest.mark.parametrize("name", TABLE)
def test_example(run: Run, name: str) -> None:
    example = TABLE[name]
    script = f"examples/{name}"
    lines = run(sys.executable, script).splitlines()
    for text in example.printed:
        assert text in lines
    for line, path, text in example.answers:
        assert text in ask(lines[line] + path)

    words = [script] if example.environment is None else [script, example.environment]
    (served,) = run(FLYTE, "serve", *words).splitlines()
    assert addresses([served]) <= addresses(lines), "the command line serves another app"


def test_hooks_are_logged(run: Run) -> None:
    run(sys.executable, "examples/startup_hooks.py")
    run(FLYTE, "update", "app", "startup-hooks", "--deactivate", "--wait")
    logged = run(FLYTE, "get", "logs", "startup-hooks").splitlines()
    assert [line for line in logged if line.startswith("model")] == ["model loaded", "model unloaded"]


def test_parameters_are_given_on_the_command_line(run: Run) -> None:
    overrides = ["--param", "greeting=Good evening", "--param", "times=2", "--param", "loud=false"]
    (endpoint,) = run(FLYTE, "serve", "examples/parameters.py", *overrides).splitlines()
    assert ask(endpoint) == "Good evening, Ada!!\nGood evening, Grace!!"


def test_every_example_is_in_the_table() -> None:
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py")}
    assert found == TABLE.keys() | PARTS


def test_readme_says_what_happens(run: Run, tmp_path: Path) -> None:
    script, printed, answer = blocks((ROOT / "README.md").read_text())
    (tmp_path / "app.py").write_text(script)
    stdout = run(sys.executable, "app.py", cwd=tmp_path)
    assert without_port(stdout) == without_port(printed)
    assert ask(stdout.strip()).startswith(answer.strip())


def blocks(readme: str) -> tuple[str, str, str]:
    """README's script, what it prints, and how its app answers."""
    script = re.search(r"```python\n(.*?)```", readme, re.S)
    shell = re.search(r"\$ python app.py\n(.*?)\$ curl \S+\n(.*?)```", readme, re.S)
    assert script and shell
    return script[1], shell[1], shell[2]


def without_port(text: str) -> str:
    return re.sub(r"localhost:\d+", "localhost:PORT", text)
