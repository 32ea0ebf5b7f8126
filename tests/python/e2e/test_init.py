"""`flyte init`: each template is written, served as it is, and answers; nothing is overwritten."""

from __future__ import annotations

import json

import pytest
from support import get

ANSWERS = {
    "plain": ("/ada", '{"hello": "ada"}'),
    "fastapi": ("/?name=ada", '{"hello":"ada"}'),
    "flask": ("/?name=ada", '"hello":"ada"'),
    "streamlit": ("/", "<title>Streamlit</title>"),
    "gradio": ("/", "gradio"),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("template", ANSWERS)
def test_a_template_is_served_as_it_is_written(home, tmp_path, template):
    folder = tmp_path / f"My {template}"
    written = home.flyte("init", template, folder)
    assert written.returncode == 0, written.stderr
    assert f"the app `my-{template}`" in written.stdout
    assert "flyte serve" in written.stderr
    # As the text that was printed says: in that folder, without naming the file.
    served = home.flyte("serve", cwd=folder, timeout=500)
    assert served.returncode == 0, served.stderr
    path, expected = ANSWERS[template]
    status, body = get(served.stdout.strip() + path)
    assert (status, expected in body) == (200, True), body[:500]
    assert home.flyte("delete", "app", f"my-{template}").returncode == 0


def test_nothing_is_overwritten(home, tmp_path):
    (tmp_path / "app.py").write_text("mine = 1\n")
    done = home.flyte("init", "flask", cwd=tmp_path)
    assert done.returncode == 2
    assert "never overwrites" in done.stderr
    assert (tmp_path / "app.py").read_text() == "mine = 1\n"


def test_init_as_json_in_the_current_folder(home, tmp_path):
    folder = tmp_path / "2048"
    folder.mkdir()
    done = home.flyte("init", "--output", "json", cwd=folder)
    assert json.loads(done.stdout) == {"name": "hello", "files": ["./app.py"]}
    assert (folder / "app.py").is_file()


def test_an_unknown_template_is_refused_with_those_that_there_are(home, tmp_path):
    done = home.flyte("init", "fastpai", tmp_path / "x")
    assert done.returncode == 2
    assert "fastapi" in done.stderr and "gradio" in done.stderr
    assert not (tmp_path / "x").exists()
