"""The documentation does what it says: its blocks are run as they stand, its references are current.

A `python` block with a title is the file of that name; the commands of a `console` block are run
one after the other in that folder, and what they print is compared with the lines below them.
There, `PORT` is any port, `...` any text, and a line `...` any lines. Blanks may differ in width. A
block behind `<!-- not run: REASON -->` is left alone.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import flyte.errors

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)
# What the shell goes on to read, as in a terminal: `> `.
STEP = re.compile(r"^\$ (.*\n(?:> .*\n)*)((?:(?!\$ ).*\n)*)", re.M)
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


@dataclass
class Block:
    language: str
    title: str | None
    text: str
    is_run: bool


def blocks(page: Path) -> list[Block]:
    found = []
    for skipped, language, options, text in BLOCK.findall(page.read_text()):
        title = re.search(r'title="([^"]+)"', options)
        found.append(Block(language, title and title[1], text, not skipped))
    return found


class Shell:
    """Commands in one folder after the other, as they are typed: `cd` lasts."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def run(self, command: str) -> tuple[int, str]:
        if command.startswith("cd "):
            self.folder = self.folder / command[3:].strip()
            return 0, ""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            # For what asks for a value.
            input="value\n",
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode == 0:
            return 0, done.stdout
        # What went well before the error is progress, which pages do not show.
        return done.returncode, done.stdout + re.sub(r"\A.*?^(?=error:)", "", done.stderr, flags=re.M | re.S)


def pattern(expected: str) -> re.Pattern[str]:
    """What the lines of a page say of what is printed."""
    lines = []
    for line in expected.splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        words = re.escape(" ".join(line.split())).replace("PORT", r"\d+").replace(r"\.\.\.", ".*")
        words = words.replace("/home/me/", r"/\S*/")
        lines.append(r"[^\S\n]*" + words.replace(r"\ ", r"\s+") + r"\s*\n")
    return re.compile("".join(lines) + r"\Z")


@pytest.fixture
def shell(home, tmp_path):
    tools = Path(sys.executable).parent
    path = f"{tools}:{os.environ['PATH']}"
    return Shell(tmp_path, home.environment(PATH=path, PYTHONDONTWRITEBYTECODE="1"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(shell, page):
    for block in blocks(DOCS / page):
        if not block.is_run:
            continue
        if block.language == "python":
            assert block.title, f"a block of {page} that nothing runs:\n{block.text}"
            (shell.folder / block.title).write_text(block.text)
            continue
        assert block.language == "console", f"{page}: ```{block.language}"
        for typed, expected in STEP.findall(block.text):
            do(shell, typed, expected)


def do(shell: Shell, typed: str, expected: str) -> None:
    """Type a command, and compare what it prints with what a page says of it."""
    first, *more = typed.splitlines()
    heredoc = "".join(line[2:] + "\n" for line in more)
    command = f"{first} << 'END'\n{heredoc}END" if more else first
    status, printed = shell.run(command)
    is_error = expected.startswith("error:")
    assert (status != 0) is is_error, f"$ {command}\n{printed}"
    if expected:
        # Where the page of a code is found stands below every error; hints a page may leave out.
        if is_error and "hint:" not in expected:
            printed = re.split(r"^hint:", printed, flags=re.M)[0]
        printed = re.sub(r"`flyte explain \S+` tells more\s*\Z", "", printed).rstrip("\n") + "\n"
        assert pattern(expected).match(printed), f"$ {command}\n{printed}\nexpected:\n{expected}"


def test_the_code_of_readme_can_be_run(shell):
    """Its first block is an app, which test_examples.py serves; the others declare something."""
    texts = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    for text in texts[1:]:
        runs_as_told(text, shell)
    languages = {(block.language, block.is_run) for block in blocks(ROOT / "README.md")}
    # A block for a shell that nothing runs says why.
    assert languages == {("python", True), ("console", False)}


# --- Pages of codes -----------------------------------------------------------------------------

ERRORS = sorted(path.stem for path in (DOCS / "errors").glob("*.md") if path.stem != "index")

# What the pages call `app.py`, unless a page needs another one to fail as it tells.
WEB = """
import sys
import flyte.app
env = flyte.app.AppEnvironment(
    name="web", args=["python", "server.py"], include=["server.py"], parameters=[flyte.app.Parameter("model", "v1")]
)
"""
SERVER = "from http.server import *\nHTTPServer(('', 8080), SimpleHTTPRequestHandler).serve_forever()\n"


def web(more: str = "", args: str = "python server.py") -> str:
    return f"import flyte\nimport flyte.app\nenv = flyte.app.AppEnvironment(name='web', args={args!r}, include=['*.py'], {more})\n"


# Files of the pages that show what their error looks like.
SCENES = {
    "app.exited": {"app.py": web(), "server.py": 'import os\n\ntoken = os.environ["TOKEN"]\n'},
    "app.import_failed": {"app.py": "import torch\n"},
    "app.missing_command": {"app.py": web(args="streamlit run page.py").replace("'web'", "'page'")},
    "app.missing_module": {"app.py": web(), "server.py": "import yaml\n"},
    "bundle.empty": {".gitignore": "# none\n\n*.py\n", ".git/HEAD": "ref: refs/heads/main\n"},
    "image.build_failed": {
        "app.py": web("image=flyte.Image.from_debian_base().with_pip_packages('flask>=99')")
    },
    "image.invalid": {"app.py": web("image=flyte.Image.from_ref_name('gpu')")},
}
# What pages advise and a test cannot do; that the commands exist is looked at with all the others.
NOT_RUN = {
    "docker": "it speaks to a registry",
    "curl": "it asks somebody else's server, or one that is trusted",
    "ss": "it is not on every machine",
    "rm": "it is about the reader's own home",
    "ls": "it is about the reader's own home",
    "FLYTE_HOME=/tmp/fresh": "it would start a platform outside of the test's folder",
    "flyte local reset": "it asks whether it shall delete all",
    "flyte local trust": "it changes whom the machine trusts",
    "flyte build app.py": "it speaks to a registry",
    "flyte serve --root-dir": "test_bundles.py does it",
    "flyte serve app.py --health-check-path": "the app of the page has that path, ours has not",
    "flyte serve app.py --param": "the file of the page is not there",
    "flyte serve app.py --project team-b": "it takes a cluster that has no such project",
    "flyte get app web --project demo": "it takes a cluster",
    "flyte bundle ls app.py\nerror: cannot read": "tests may run as root, who reads all files",
    "flyte doctor\n✗ clock": "the clock is right",
}


@pytest.mark.parametrize("code", ERRORS)
def test_the_page_of_a_code_does_what_it_says(home, shell, code):
    home.flyte("delete", "secret", "api-key")
    for block in blocks(DOCS / "errors" / f"{code}.md"):
        if block.language == "python":
            runs_as_told(block.text, shell)
            continue
        assert block.language == "console", f"{code}: ```{block.language}"
        steps = [
            (typed, expected)
            for typed, expected in STEP.findall(block.text)
            if code in SCENES or not any(f"{typed}{expected}".startswith(one) for one in NOT_RUN)
        ]
        if not steps:
            continue
        files = {"app.py": WEB, "server.py": SERVER, **SCENES.get(code, {})}
        for name, text in files.items():
            (shell.folder / name).parent.mkdir(exist_ok=True)
            (shell.folder / name).write_text(text)
        if code == "client.unavailable":
            home.flyte("local", "stop")
        elif code not in SCENES:
            assert shell.run("flyte serve app.py")[0] == 0
        for typed, expected in steps:
            do(shell, typed, expected)


# What the code of a page takes for granted.
BEFORE = """
import sqlite3
from wsgiref.simple_server import demo_app as app, make_server
import flyte, flyte.app
from flyte.app import AppEnvironment, Parameter
from flyte.io import Dir, File
env = AppEnvironment(name="my-app", args="...", parameters=[Parameter("model", "v1")])
task = None
"""


def runs_as_told(text: str, shell: Shell) -> None:
    """Run code; where it ends with an exception, that is the one that the comment below it tells."""
    told = re.search(r"^# (\w+Error): (.*)", text, re.M)
    # It comes at the latest when the app is served.
    after = "flyte.with_servecontext(dry_run=True).serve(globals().get('b', env))" if told else ""
    if told and "image = " in text:
        after = "env.image = image; " + after
    (shell.folder / "page.py").write_text(f"{BEFORE}\n{text}\n{after}\n")
    status, printed = shell.run("python page.py")
    if not told:
        assert status == 0, printed
        return
    name, message = told.groups()
    assert status != 0, f"no {name}:\n{text}"
    message = re.escape(message).replace(re.escape("/home/ada/web"), r"[^`]+").replace(r"\.\.\.", ".*")
    assert re.search(rf"\b{name}: {message}", printed), printed


# --- Commands -----------------------------------------------------------------------------------


def commands_in(text: str) -> list[list[str]]:
    """The calls of `flyte` in a line for a shell."""
    found: list[list[str]] = []
    words: list[str] | None = None
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.whitespace_split = True
    begins = True
    for token in lexer:
        if token in ("$", "then", "do") or set(token) <= set("();<>|&"):
            words, begins = None, True
            continue
        if "$(" in token:
            found += commands_in(token[token.index("$(") + 2 :].rpartition(")")[0])
        if words is not None:
            words.append(token)
        elif begins and token == "flyte":
            words = []
            found.append(words)
        begins = begins and "=" in token
    return found


def test_calls_of_flyte_are_found():
    line = 'A=b flyte serve app.py | tail; curl "$(flyte local trust --print)" $(flyte serve)/x && cat flyte'
    assert commands_in(line) == [["serve", "app.py"], ["local", "trust", "--print"], ["serve"]]


def test_every_command_that_is_shown_can_be_typed(home):
    """The command line itself reads them: with `--help` behind, it does so and does nothing."""
    shown: dict[tuple[str, ...], str] = {}
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        for block in blocks(page):
            for line in (
                re.findall(r"^(?:\$|>) (.*)$", block.text, re.M) if block.language == "console" else ()
            ):
                # Not the usage lines of the reference.
                for words in (
                    commands_in(line) if not re.search(r"[\[<]\w+[\]>]|\[OPTIONS|SHELL", line) else ()
                ):
                    shown.setdefault(tuple(words), f"{page.name}: {line}")
        # And those in the text, but for the left side of the table of what is absent.
        text = re.sub(r"^```.*?^```$|^\| `flyte .*?\|", "", page.read_text(), flags=re.M | re.S)
        for line in re.findall(r"`(flyte [^`\n]+)`", text):
            if not re.search(r"\.\.\.|[\[<*]|TEMPLATE|SHELL", line):
                for words in commands_in(line):
                    shown.setdefault(tuple(words), f"{page.name}: {line}")
    assert len(shown) > 100

    def read(words: tuple[str, ...]) -> str | None:
        done = home.flyte(*words, "--help")
        return None if done.returncode == 0 else f"{shown[words]}\n  {done.stderr.splitlines()[:1]}"

    with ThreadPoolExecutor(4) as pool:
        wrong = [one for one in pool.map(read, shown) if one]
    assert not wrong, "\n".join(wrong)


def test_what_is_told_to_be_absent_is(home):
    text = (DOCS / "migrating.md").read_text()
    left = "".join(re.findall(r"^(\| `.*?) \|", text, re.M))
    absent = [
        line for line in re.findall(r"`flyte ([^`]+)`", left) if "..." not in line and line != "serve hello"
    ]
    assert len(absent) > 4
    there = [line for line in absent if home.flyte(*line.split(), "--help").returncode == 0]
    assert not there


# --- The site -----------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"- (\S+\.md)", (ROOT / "mkdocs.yml").read_text()))
    found = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    # The pages of codes are reached by their table.
    assert listed == {page for page in found if not re.match(r"errors/(?!index)", page)}


def test_the_site_is_built_without_a_complaint(tmp_path):
    """mkdocs, told to take warnings for errors; `make site` does the same into `site`."""
    uv = Path(sys.executable).with_name("uv")
    tool = [uv, "tool", "run", "--from", "mkdocs", "--with", "mkdocs-material", "mkdocs"]
    done = subprocess.run(
        [*tool, "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "quickstart" / "index.html").read_text()
    # No font, script or style of somebody else's server.
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page)
    assert not loaded, loaded


def test_links_lead_somewhere():
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+\.md)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", ["reference/cli.md", "reference/api.md", "errors/index.md"])
def test_what_is_generated_is_current(name):
    generate = [sys.executable, DOCS / "generate.py", "--print", name]
    done = subprocess.run(generate, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (DOCS / name).read_text() == done.stdout, "`make docs` writes it anew"


def test_every_code_that_python_raises_has_a_page():
    for name in dir(flyte.errors):
        value = getattr(flyte.errors, name)
        if isinstance(value, type) and issubclass(value, flyte.errors.Error):
            assert (DOCS / "errors" / f"{value._default_code}.md").is_file(), name


def test_exit_statuses_are_those_that_are_told(home):
    told = (DOCS / "reference" / "cli.md").read_text()
    assert dict(re.findall(r"^\| (\d+) \| (\w+)", told, re.M)).keys() == {"0", "1", "2", "70", "130"}
    assert home.flyte("explain").returncode == 0
    assert home.flyte("get", "app", "nobody").returncode == 1
    assert home.flyte("explain", "nothing").returncode == 2
