"""The card that `flyte.serve` shows in a notebook, in real kernels."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

SHOP = """
import flyte, flyte.app, web

env = flyte.app.AppEnvironment(name="carded")

@env.server
def server():
    web.serve(lambda path: "here")
"""
BROKEN = """
import flyte, flyte.app

env = flyte.app.AppEnvironment(name="uncarded")

@env.server
def server():
    raise ValueError("no <b>database</b>")
"""
SILENT = """
import flyte, flyte.app, threading

env = flyte.app.AppEnvironment(name="silent")

@env.server
def server():
    threading.Event().wait()
"""


class Kept(NotebookClient):
    """Keeps each card as it was shown, and calls when one has come."""

    def __init__(self, sheet: Any, folder: Any) -> None:
        super().__init__(sheet, timeout=120, allow_errors=True, resources={"metadata": {"path": str(folder)}})
        self.cards: list[str] = []
        self.on_card: Any = lambda html: None
        self.on_text: Any = lambda text: None

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        shown = super().process_message(msg, cell, cell_index)
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.cards.append(msg["content"]["data"]["text/html"])
            self.on_card(self.cards[-1])
        if msg["msg_type"] == "stream":
            self.on_text(msg["content"]["text"])
        return shown


@pytest.fixture
def notebook(project, monkeypatch):
    for name, value in project.home.environment().items():
        monkeypatch.setenv(name, value)

    def make(*cells: str) -> Kept:
        sheet = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        return Kept(sheet, project.folder)

    return make


def outputs(client: Kept, index: int) -> list[Any]:
    return list(client.nb["cells"][index]["outputs"])


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.S))


@pytest.mark.parametrize("call", ["flyte.serve(env)", "await flyte.serve.aio(env)"])
def test_the_steps_go_on_in_one_output_that_ends_with_the_endpoint(notebook, home, call: str):
    client = notebook(SHOP, f"served = {call}", "served", "served.deactivate(wait=True); served")
    client.execute()
    (card,) = outputs(client, 1)
    assert card["output_type"] == "display_data", card
    endpoint = home.app("carded")["endpoint"]
    assert f'href="{endpoint}"' in card["data"]["text/html"]
    assert words(card["data"]["text/html"]).count("✓") == 5
    assert "active · revision 1" in words(card["data"]["text/html"])
    assert card["data"]["text/plain"].splitlines()[-1] == endpoint
    states = [words(html) for html in client.cards]
    assert "serving" in states[0] and "○ Activate" in states[0]
    assert any("✓ Deploy" in state and "○ URL" in state for state in states)
    # An app is shown as it is at that moment.
    shown = [words(outputs(client, index)[-1]["data"]["text/html"]) for index in (2, 3)]
    assert "active" in shown[0] and "stopped" in shown[1]
    assert all("local/development · revision 1" in text for text in shown)


def test_a_failure_stands_in_the_card_and_is_raised(notebook):
    client = notebook(BROKEN, "flyte.serve(env)")
    client.execute()
    card, error = outputs(client, 1)
    assert error["ename"] == "AppError"
    html = card["data"]["text/html"]
    assert "<b>" not in html and "no &lt;b&gt;database&lt;/b&gt;" in html
    assert "✗ Activate" in words(html) and "failed" in words(html)


@pytest.mark.parametrize("call", ["flyte.serve(env)", "await flyte.serve.aio(env)"])
def test_an_interrupt_ends_the_call_and_the_card_says_so(notebook, call: str):
    name = "silent-too" if "aio" in call else "silent"
    client = notebook(SILENT.replace("silent", name), call, "1 + 1")
    asked = threading.Event()

    def interrupt(html: str) -> None:
        if "✓ Deploy" in words(html) and not asked.is_set():
            asked.set()
            asyncio.ensure_future(client.km.interrupt_kernel())

    client.on_card = interrupt
    client.execute()
    card, error = outputs(client, 1)
    assert asked.is_set() and error["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert "cancelled" in words(card["data"]["text/html"]) and "– Activate" in words(
        card["data"]["text/html"]
    )
    assert outputs(client, 2)[0]["data"]["text/plain"] == "2"


CHATTY = """
import flyte, flyte.app, web

env = flyte.app.AppEnvironment(name="chatty")

@env.server
def server():
    for number in range(3):
        print("line", number, flush=True)
    web.serve(lambda path: "here")
"""


def printed(client: Kept, index: int) -> str:
    return "".join(out["text"] for out in outputs(client, index) if out.get("name") == "stdout")


def test_logs_are_shown_by_their_lines(notebook):
    client = notebook(CHATTY, "app = flyte.serve(env)", "app.logs(tail=100)")
    client.execute()
    lines = printed(client, 2).splitlines()
    assert [line for line in lines if line.startswith("line")] == ["line 0", "line 1", "line 2"]
    assert not [one for one in outputs(client, 2) if one["output_type"] == "execute_result"]


FOLLOWING = {
    "shown": "app.logs(follow=True)",
    "for": "for line in app.logs(follow=True): print(line, flush=True)",
    "async for": "async for line in app.logs(follow=True): print(line, flush=True)",
    "watch": "print('line 2', flush=True)\nawait app.watch.aio(wait_for='deactivated')",
}


@pytest.mark.parametrize("way", FOLLOWING)
def test_an_interrupt_ends_what_a_cell_follows(notebook, way: str):
    name = f"chatty-{way.replace(' ', '-')}"
    client = notebook(CHATTY.replace("chatty", name), "app = flyte.serve(env)", FOLLOWING[way], "1 + 1")
    asked = threading.Event()

    def interrupt(text: str) -> None:
        if "line 2" in text and not asked.is_set():
            asked.set()
            # The cell awaits what comes next by then, and nothing more comes.
            loop = asyncio.get_event_loop()
            loop.call_later(0.5, lambda: asyncio.ensure_future(client.km.interrupt_kernel()))

    client.on_text = interrupt
    client.execute()
    assert asked.is_set()
    errors = [out["ename"] for out in outputs(client, 2) if out["output_type"] == "error"]
    assert errors == [] if way == "shown" else errors in (["KeyboardInterrupt"], ["CancelledError"])
    assert outputs(client, 3)[0]["data"]["text/plain"] == "2"
