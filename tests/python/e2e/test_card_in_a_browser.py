"""The card as a person sees it: a real JupyterLab in headless Chromium, in its light and its dark theme.

`FLYTE_TEST_PICTURES=folder` keeps the screenshots.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import stores
from support import Project, get, until

CELLS = [
    """import flyte, flyte.app, web

env = flyte.app.AppEnvironment(name="pictured")

@env.server
def server():
    web.serve(lambda path: "here")""",
    "app = flyte.serve(env)",
    "app",
    "app.logs()",
    """broken = flyte.app.AppEnvironment(name="pictured-broken")

@broken.server
def server():
    raise ValueError("no <b>database</b> at a host whose name is long: " + "x" * 150)

try:
    flyte.serve(broken)
except flyte.errors.Error as error:
    print(error.code)""",
    "print('the last cell')",
]

# What a card looks like, as the browser has laid it out.
LOOK = """
() => {
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor.match(/[\\d.]+/g).map(Number);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const light = ([r, g, b]) => {
    const part = (c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  return [...document.querySelectorAll(".jp-OutputArea-output strong")].map((name) => {
    const card = name.parentElement.parentElement;
    const area = card.closest(".jp-OutputArea-output");
    const texts = [...card.querySelectorAll("*")].filter(
      (node) => [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim())
    );
    const contrasts = texts.map((node) => {
      const colour = getComputedStyle(node).color.match(/[\\d.]+/g).map(Number);
      const [a, b] = [light(colour), light(behind(node))].sort((x, y) => y - x);
      return [node.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)];
    });
    return {
      name: name.textContent,
      text: card.innerText,
      wider: card.scrollWidth > card.clientWidth + 1 || area.scrollWidth > area.clientWidth + 1,
      width: card.getBoundingClientRect().width,
      faint: contrasts.filter(([, ratio]) => ratio < 3),
      links: [...card.querySelectorAll("a")].map((link) => link.href),
      rows: [...card.querySelectorAll("tr")].map((row) => {
        const box = row.getBoundingClientRect();
        return [Math.round(box.top), Math.round(box.height)];
      }),
    };
  });
}
"""


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        stores.missing("`chromium`")
    return str(found)


@contextlib.contextmanager
def jupyterlab(project: Project, folder: Path, theme: str) -> Iterator[str]:
    """The address of a JupyterLab that shows the project."""
    pytest.importorskip("jupyterlab")
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Nobody is asked whether to fetch news.
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    port = stores.free_port()
    words = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--IdentityProvider.token=", "--ServerApp.password=", "--ServerApp.ip=127.0.0.1"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={project.folder}"),
        *("--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"),
    ]
    own = project.home.environment(
        HOME=str(folder),
        JUPYTERLAB_SETTINGS_DIR=str(folder / "settings"),
        JUPYTERLAB_WORKSPACES_DIR=str(folder / "workspaces"),
        JUPYTER_CONFIG_DIR=str(folder / "config"),
        JUPYTER_DATA_DIR=str(folder / "data"),
        JUPYTER_RUNTIME_DIR=str(folder / "runtime"),
        FLYTE_HOME=str(project.home.path),
    )
    with stores.running(words, port, **own):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_card_in_a_browser(project: Project, tmp_path_factory: Any, theme: str):
    from playwright.sync_api import sync_playwright

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    sheet = nbformat.v4.new_notebook(metadata=kernel, cells=cells)
    nbformat.write(sheet, project.folder / "card.ipynb")
    folder = tmp_path_factory.mktemp("jupyter")
    kept = Path(os.environ.get("FLYTE_TEST_PICTURES") or folder)
    kept.mkdir(parents=True, exist_ok=True)
    picture = kept / f"card-{theme.split()[-1].lower()}.png"
    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with jupyterlab(project, folder, theme) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=options)
        page = browser.new_page(viewport={"width": 1100, "height": 1500})
        page.goto(f"{address}/lab/tree/card.ipynb?reset", timeout=90_000)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
        # Before, running anything opens a dialog that asks for a kernel.
        page.wait_for_function("() => document.body.innerText.includes('| Idle')", timeout=90_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function(
            "() => [...document.querySelectorAll('.jp-OutputArea-output')]"
            ".some((one) => one.innerText.includes('the last cell'))",
            timeout=120_000,
        )
        page.mouse.move(0, 0)
        page.screenshot(path=str(picture))
        cards = page.evaluate(LOOK)
        is_dark = page.evaluate("() => document.body.dataset.jpThemeLight") == "false"
        link = page.locator(".jp-OutputArea-output a").first
        with page.context.expect_page() as opened:
            link.click()
        opened.value.wait_for_load_state()
        answered = opened.value.text_content("body") or ""
        browser.close()
    assert is_dark == theme.endswith("Dark")
    served, shown, failed = cards
    endpoint = project.home.app("pictured")["endpoint"]
    assert served["name"] == shown["name"] == "pictured" and failed["name"] == "pictured-broken"
    assert "active · revision 1" in served["text"] and "active" in shown["text"]
    assert "no <b>database</b>" in failed["text"]
    assert served["links"][0].rstrip("/") == endpoint and "here" in answered
    for card in cards:
        assert not card["wider"], card
        assert 400 < card["width"] <= 900, card
        # 3 to 1 is what large text and signs need; the faint rows are of steps that did not begin.
        assert not card["faint"], card
    # Five steps, one of which did two things; each stands in a line of its own.
    assert len(served["rows"]) == len(failed["rows"]) == 6
    assert max(height for _, height in served["rows"]) < 50, served["rows"]
    # A picture of nothing is small.
    assert picture.stat().st_size > 20_000
    until(lambda: get(endpoint)[0] == 200, 10)
