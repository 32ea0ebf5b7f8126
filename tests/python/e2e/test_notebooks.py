"""Apps that stand in no file: real kernels, real prompts, and what their apps find again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support import get, get_json

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def notebook(project, monkeypatch):
    """Runs the cells of a notebook in `<project>/notebooks`; returns what each printed."""
    for name, value in project.home.environment().items():
        monkeypatch.setenv(name, value)
    project.write("notebooks/web.py", (project.folder / "web.py").read_text())
    (project.folder / "web.py").unlink()
    folder = project.folder / "notebooks"

    def run(*cells: str, cwd: Path = folder, **more: str) -> list[str]:
        sheet = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        client = NotebookClient(sheet, timeout=60, resources={"metadata": {"path": str(cwd)}})
        client.execute(env={**os.environ, **more})
        return [
            "".join(o["text"] for o in cell["outputs"] if o.get("name") == "stdout")
            for cell in sheet["cells"]
        ]

    return run


def cells_of(name: str) -> list[str]:
    return [cell["source"] for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)["cells"]]


# A cell that prints how the app was started.
COMMAND_LINE = """
import json, subprocess, sys
status = subprocess.run(
    [sys.executable, "-m", "flyte._cli", "local", "status", "-o", "json"], capture_output=True, text=True
)
app = next(app for app in json.loads(status.stdout)["apps"] if app["name"] == "by-file")
print(open(f"/proc/{app['replicas'][0]['pid']}/cmdline").read())
"""


def command_line(home, name: str) -> list[str]:
    return Path(f"/proc/{home.pid(name)}/cmdline").read_text().split("\0")


# --- notebooks ----------------------------------------------------------------------------------


def test_an_app_finds_what_its_notebook_found(notebook, project, home):
    project.write(
        "mylib/__init__.py", "def shout(text):\n    from mylib.loud import up\n    return up(text)\n"
    )
    project.write("mylib/loud.py", "def up(text):\n    return text.upper()\n")
    project.write("notebooks/lazy.py", "VALUE = 7\n")
    project.write("notebooks/data/one.csv", "1,2\n")
    cells = cells_of("shop")
    *_, first, revisions, second = notebook(*cells)
    answer = {
        "word": "hello",
        "known": True,
        "item": {"name": "pear", "count": 5},
        "colour": "RED",
        "price": 4,
        "currencies": ["CHF", "EUR", "SEK", "USD"],
        "lazy": 7,
        "file": "1,2\n",
        "connected": True,
        "stock": '"stock of SHOP"',
    }
    assert json.loads(first) == answer
    assert json.loads(revisions) == [1, 1]
    assert json.loads(second) == {**answer, "word": "bye"}
    assert home.app("shop")["revision"] == 2
    stock = home.pid("stock")
    # In another kernel, whose words hash otherwise, with all cells executed twice: the one app gets
    # its first value back, and for the other there is nothing to do.
    *_, revisions = notebook(*cells[:3], *cells[1:3], cells[4], PYTHONHASHSEED="7")
    assert json.loads(revisions) == [3, 3]
    assert home.pid("stock") == stock


def test_a_fastapi_app_of_a_notebook(notebook):
    cells = cells_of("api")
    # The class of the model is made anew, and the app is still the same.
    *_, first, _, second = notebook(*cells, *cells[1:])
    assert first == second == '{"name":"pear kept 7","count":42} 1'


def test_an_app_of_a_module_goes_by_file(notebook, project, home):
    project.write(
        "notebooks/shop.py",
        """
        import flyte.app
        import web

        env = flyte.app.AppEnvironment(name="by-file")

        @env.server
        def server():
            web.serve(lambda path: __name__)
        """,
    )
    from_file, words, from_cell, more_words = notebook(
        "import flyte, shop, web\n"
        "from urllib.request import urlopen\n"
        "print(urlopen(flyte.serve(shop.env).endpoint).read().decode(), end='')",
        COMMAND_LINE,
        # A function that a cell replaces stands in no file any more.
        "@shop.env.server\n"
        "def server(): web.serve(lambda path: 'of the cell')\n"
        "print(urlopen(flyte.serve(shop.env).endpoint).read().decode(), end='')",
        COMMAND_LINE,
    )
    assert from_file == '"shop"'
    assert "--tgz" in words
    assert "--pkl" not in words
    assert from_cell == '"of the cell"'
    assert "--pkl" in more_words
    assert "--tgz" in more_words


def test_include_starts_from_the_notebooks_folder(notebook, project):
    project.write("notebooks/data/one.csv", "beside the notebook")
    (endpoint,) = notebook(
        "import sys; sys.path.insert(0, 'notebooks')\n"
        "import flyte, flyte.app, web\n"
        "env = flyte.app.AppEnvironment(name='included', include=['data'])\n"
        "@env.server\n"
        "def server(): web.serve(lambda path: open('notebooks/data/one.csv').read())\n"
        "print(flyte.serve(env).endpoint, end='')",
        # As PyCharm starts kernels: further up.
        cwd=project.folder,
        JPY_SESSION_NAME=str(project.folder / "notebooks" / "x.ipynb"),
    )
    assert get_json(endpoint) == "beside the notebook"


# --- prompts ------------------------------------------------------------------------------------

TYPED = """\
import flyte, flyte.app, helper
env = flyte.app.AppEnvironment(name="NAME", include=["data"])
words = ["from", "nowhere"]
@env.server
def server():
    import web
    web.serve(lambda path: [*words, helper.VALUE, open("data/one.csv").read()])

print(flyte.serve(env).endpoint)
"""

PROMPTS = {
    "command": ["-c", TYPED],
    "stdin": ["-"],
    "interactive": ["-i", "-q"],
    "ipython": [
        "-m",
        "IPython",
        "--simple-prompt",
        "--no-banner",
        "--quick",
        "--HistoryManager.enabled=False",
    ],
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_functions_typed_at_a_prompt(project, prompt):
    project.write("helper.py", "import deeper\nVALUE = deeper.VALUE\n")
    project.write("deeper.py", "VALUE = 3\n")
    project.write("data/one.csv", "1")
    words = [word.replace("NAME", prompt) for word in PROMPTS[prompt]]
    typed = TYPED.replace("NAME", prompt)
    done = subprocess.run(
        [sys.executable, *words],
        input="" if prompt == "command" else typed,
        env=project.home.environment(),
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    endpoints = [word for word in done.stdout.split() if word.startswith("http")]
    assert len(endpoints) == 1, done.stdout + done.stderr
    assert get(endpoints[0]) == (200, '["from", "nowhere", 3, "1"]')


def test_a_module_that_lies_nowhere_near_is_copied_into_the_pickle(project):
    project.write("here/web.py", (project.folder / "web.py").read_text())
    project.write("elsewhere/far.py", "WORD = 'far'\ndef say(): return WORD\n")
    code = (
        "import sys; sys.path.append('../elsewhere')\n"
        "import flyte, flyte.app, far, web\n"
        "env = flyte.app.AppEnvironment(name='near')\n"
        "@env.server\n"
        "def server(): web.serve(lambda path: far.say())\n"
        "print(flyte.serve(env).endpoint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        # What both are in is the user's home, which is no project.
        env=project.home.environment(HOME=str(project.folder)),
        cwd=project.folder / "here",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert get(done.stdout.strip()) == (200, '"far"'), done.stderr


def test_a_prompt_after_a_script_serves_the_script(project, home):
    project.write(
        "script.py",
        """
        import flyte
        import flyte.app
        import web

        env = flyte.app.AppEnvironment(name="after")

        @env.server
        def server():
            web.serve(lambda path: "of the script")
        """,
    )
    done = subprocess.run(
        [sys.executable, "-i", "script.py"],
        input="print(flyte.serve(env).endpoint)\n",
        env=home.environment(),
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert get(done.stdout.strip()) == (200, '"of the script"'), done.stderr
    assert "script:@after" in command_line(home, "after")


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (
            "flyte.Image.from_debian_base(python_version=(3, 99))",
            "",
            "is pickled by Python {here}, but its image has Python 3.99",
        ),
        ("'auto'", "interactive_mode=False", "was made without a file, so a replica can only get it pickled"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(project, fresh_home, image, options, message):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import flyte, flyte.app\n"
            f"env = flyte.app.AppEnvironment(name='refused', image={image})\n"
            "@env.server\n"
            "def server(): pass\n"
            f"flyte.with_servecontext({options}).serve(env)",
        ],
        env=fresh_home.environment(),
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    here = ".".join(map(str, sys.version_info[:2]))
    assert message.format(here=here) in done.stderr, done.stderr
    assert "hint: " in done.stderr
    assert not (fresh_home.path / "run").exists()
    assert not (fresh_home.path / "envs").exists()
