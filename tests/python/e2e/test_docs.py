"""The documentation does what it says: its blocks are run as they stand, its references are current.

A `python` block with a title is the file of that name; the commands of a `console` block are run
one after the other in that folder, and what they print is compared with the lines below them.
There, `PORT` is any port, `...` any text, and a line `...` any lines. Blanks may differ in width. A
block behind `<!-- not run: REASON -->` is left alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
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
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode == 0:
            return 0, done.stdout
        # What went well before the error is progress, which pages do not show.
        return done.returncode, done.stdout + done.stderr[max(done.stderr.find("error:"), 0) :]


def pattern(expected: str) -> re.Pattern[str]:
    """What the lines of a page say of what is printed."""
    lines = []
    for line in expected.splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        words = re.escape(" ".join(line.split())).replace("PORT", r"\d+").replace(r"\.\.\.", ".*")
        lines.append(words.replace(r"\ ", r"\s+") + r"\s*\n")
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
            first, *more = typed.splitlines()
            heredoc = "".join(line[2:] + "\n" for line in more)
            command = f"{first} << 'END'\n{heredoc}END" if more else first
            status, printed = shell.run(command)
            is_error = expected.startswith("error:")
            assert (status != 0) is is_error, f"$ {command}\n{printed}"
            if expected:
                printed = printed.rstrip("\n") + "\n"
                assert pattern(expected).match(printed), f"$ {command}\n{printed}\nexpected:\n{expected}"


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"- (\S+\.md)", (ROOT / "mkdocs.yml").read_text()))
    found = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    # The pages of codes are reached by their table.
    assert listed == {page for page in found if not re.match(r"errors/(?!index)", page)}


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
