"""Photographs what people see: the console's pages in Chromium, commands on a terminal.

    python tests/screenshots.py [FOLDER] [--only WORD] [--traffic SECONDS]

`make screenshots` writes them into `docs/looks`, beside the page that tells what was changed after
looking at them. Nothing is staged: a platform of its own serves real apps, one of which fails, and
each command runs in a pseudo-terminal whose last screen is drawn as it stood. It is no test, since
whether something looks right is for eyes to say.
"""

from __future__ import annotations

import argparse
import html
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pyte
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent / "python"))

from support import WEB, Home, Project, get, until  # noqa: E402

FOLDER = Path(__file__).parents[1] / "docs" / "looks"

STORE = """
import random, sys, time
import flyte, flyte.app
import web

env = flyte.app.AppEnvironment(
    name="storefront",
    description="What customers see: the catalogue, the cart and the checkout",
    env_vars={env_vars!r},
    parameters=[flyte.app.Parameter("currency", {currency!r}), flyte.app.Parameter("model", "bestsellers-2026-11")],
    links=[flyte.app.Link(path="/docs", title="API", is_relative=True)],
    resources=flyte.Resources(cpu=1, memory="512Mi"),
    scaling=flyte.app.Scaling(replicas=(1, 3), metric=flyte.app.Scaling.Concurrency(8)),
)

@env.server
def server(currency: str, model: str):
    print(f"\\x1b[32mINFO\\x1b[0m     loaded model {{model}} in 412 ms, prices in {{currency}}")
    def answer(path):
        name, _, slow = path.partition("?")
        time.sleep(random.lognormvariate(0, 0.6) * 0.006 * (9 if slow else 1))
        status = 500 if name == "/checkout" else 200
        level = "\\x1b[31mERROR\\x1b[0m   " if status == 500 else "\\x1b[32mINFO\\x1b[0m    "
        sys.stdout.write(f"{{level}} GET {{name}} {{status}}\\n")
        sys.stdout.flush()
        return status, {{"path": name}}
    web.serve(answer)
"""

# Each revision of the storefront: variables, and what its parameter says.
REVISIONS = (
    ({"STAGE": "production", "STRIPE_API_KEY": "sk_live_51H8"}, "EUR"),
    ({"STAGE": "production", "STRIPE_API_KEY": "sk_live_51H8", "CART_LIMIT": "50"}, "EUR"),
    ({"STAGE": "production", "STRIPE_API_KEY": "sk_live_51H8", "CART_LIMIT": "50"}, "USD"),
)

SEARCH = """
import flyte.app, web
env = flyte.app.AppEnvironment(name="catalog-search", scaling=flyte.app.Scaling(replicas=(0, 2), scaledown_after=1))

@env.server
def server():
    web.serve(lambda path: "found")
"""

SIGN_IN = """
import flyte.app, web
env = flyte.app.AppEnvironment(name="sign-in", scaling=flyte.app.Scaling(replicas=1))

@env.server
def server():
    web.serve(lambda path: "welcome")
"""

REPORT = '''
"""Sends the numbers of the night."""

import flyte.app

env = flyte.app.AppEnvironment(name="nightly-report")


@env.server
def server():
    print("reading 3 sources")
    import polars

    polars.read_csv("sales.csv")
'''

FIRST = """
import flyte
import flyte.app

env = flyte.app.AppEnvironment(
    name="hello",
    args=["python", "-m", "uvicorn", "--port", "8080", "hello:api"],
    image=flyte.Image.from_debian_base().with_pip_packages("fastapi", "uvicorn"),
    include=["hello.py"],
)
"""

HELLO = """
from fastapi import FastAPI

api = FastAPI()


@api.get("/")
async def hello() -> str:
    return "hello"
"""


# --- The console --------------------------------------------------------------------------------


def page_of(name: str) -> str:
    return f"/v2/domain/development/project/local/apps/{name}"


def populate(home: Home, folder: Path) -> None:
    """Four apps, one of each kind."""
    project = Project(folder, home)
    project.write("web.py", WEB)
    project.write("search.py", SEARCH)
    project.write("signin.py", SIGN_IN)
    project.write("report.py", REPORT)
    for variables, currency in REVISIONS:
        (folder / "store.py").write_text(STORE.format(env_vars=variables, currency=currency).lstrip())
        serve(home, folder, "store.py")
    for name in ("search.py", "signin.py"):
        serve(home, folder, name)
    home.flyte("update", "app", "sign-in", "--deactivate", "--wait")
    assert home.flyte("serve", "report.py", cwd=folder).returncode == 1


def serve(home: Home, folder: Path, name: str) -> None:
    done = home.flyte("serve", name, cwd=folder)
    assert done.returncode == 0, done.stderr


@contextmanager
def traffic(endpoint: str) -> Iterator[None]:
    """People who visit until the end of it."""
    is_over = threading.Event()

    def visit(number: int) -> None:
        paths = ["/", "/catalogue", "/catalogue?slow", "/cart"] * 9 + ["/checkout"]
        while not is_over.wait(0.02 + 0.02 * number):
            path = paths.pop(0)
            paths.append(path)
            with_errors(lambda path=path: get(endpoint + path))

    visitors = [threading.Thread(target=visit, args=(number,), daemon=True) for number in range(6)]
    for visitor in visitors:
        visitor.start()
    yield
    is_over.set()
    for visitor in visitors:
        visitor.join(5)


def with_errors(call: Any) -> None:
    try:
        call()
    except (OSError, urllib.error.URLError):
        pass


def photograph(browser: Browser, base: str, folder: Path, only: str) -> None:
    """Each page, in the form of each kind of reader."""

    def whole(page: Page) -> None:
        page.wait_for_timeout(400)

    def asked(page: Page) -> None:
        page.locator("#delete").click()

    def searched(page: Page) -> None:
        page.locator("#find").fill("error")
        page.locator("#log").scroll_into_view_if_needed()
        page.wait_for_timeout(300)

    store, report, search, off = (
        page_of(name) for name in ("storefront", "nightly-report", "catalog-search", "sign-in")
    )
    compare = "/console/apps/local/development/storefront/compare?from=2&to=3"
    lines = "/console/apps/local/development/storefront/logs"
    wide, narrow = (1280, 860), (400, 860)
    shots = [
        ("list", "/", "light", wide, True, whole),
        ("list-dark", "/", "dark", wide, True, whole),
        ("list-narrow", "/", "light", narrow, True, whole),
        ("list-no-match", "/?q=nothing", "light", wide, False, whole),
        ("app", store, "light", wide, True, whole),
        ("app-dark", store, "dark", wide, True, whole),
        ("app-narrow", store, "light", narrow, True, whole),
        ("app-failed", report, "light", wide, True, whole),
        ("app-failed-dark", report, "dark", wide, False, whole),
        ("app-failed-narrow", report, "light", narrow, False, whole),
        ("app-at-zero", search, "light", wide, False, whole),
        ("app-deactivated", off, "light", wide, False, whole),
        ("delete", store, "light", wide, False, asked),
        ("delete-narrow", store, "dark", narrow, False, asked),
        ("log-search", store, "light", wide, False, searched),
        ("log-page", lines, "light", wide, False, whole),
        ("compare", compare, "light", wide, False, whole),
        ("code", "/console/codes/app.missing_module", "light", wide, False, whole),
        ("nowhere", "/nowhere", "light", wide, False, whole),
    ]
    for name, path, scheme, (width, height), is_full, prepare in shots:
        if only not in name:
            continue
        context = browser.new_context(
            base_url=base,
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            device_scale_factor=2 if width < 500 else 1,
        )
        page = context.new_page()
        page.goto(path)
        prepare(page)
        page.screenshot(path=folder / f"{name}.png", full_page=is_full)
        context.close()
        keep(folder / f"{name}.png")


# --- The terminal -------------------------------------------------------------------------------

# High enough for the longest page, so that nothing scrolls away; what is empty is not drawn.
COLUMNS, ROWS = 100, 70


def on_terminal(
    home: Home, words: list[str], cwd: Path, columns: int = COLUMNS, rows: int = ROWS
) -> pyte.Screen:
    """Run a command on a terminal to its end, whatever that is; its screen then."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    stream.feed(b"\x1b[1;32m$\x1b[0m " + " ".join(words).encode() + b"\r\n")
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    hidden = ("CI", "NO_COLOR")
    environment = {name: value for name, value in home.environment().items() if name not in hidden}
    process = subprocess.Popen(
        [Path(sys.executable).with_name(words[0]), *words[1:]],
        env={**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                break
            stream.feed(piece)
    process.wait(20)
    return screen


# Names of pyte, in the colours of a common dark theme.
COLOURS = {
    "default": "#d4d4d8", "black": "#71717a", "red": "#f87171", "green": "#4ade80", "brown": "#facc15",
    "blue": "#82b4ff", "magenta": "#e879f9", "cyan": "#67e8f9", "white": "#f4f4f5", "brightblack": "#8a8a93",
    "brightred": "#fca5a5", "brightgreen": "#86efac", "brightbrown": "#fde047", "brightblue": "#a5c8ff",
    "brightmagenta": "#f0abfc", "brightcyan": "#a5f3fc", "brightwhite": "#ffffff",
}  # fmt: skip


def drawn(screen: pyte.Screen, title: str) -> str:
    """A screen as a page that looks like a terminal."""
    rows = []
    for number in range(screen.lines):
        cells = [screen.buffer[number][column] for column in range(screen.columns)]
        row, before, run = [], None, ""
        for cell in [*cells, None]:
            look = cell and (cell.fg, cell.bold, cell.italics, cell.underscore)
            if look != before and run:
                row.append(span(run, before))
                run = ""
            before = look
            run += cell.data if cell else ""
        rows.append("".join(row).rstrip())
    while rows and not screen.display[len(rows) - 1].strip():
        rows.pop()
    return (
        "<!doctype html><meta charset=utf-8><style>body{margin:0;padding:24px;background:#52525b;width:max-content}"
        "div{background:#18181b;border-radius:10px;overflow:hidden;box-shadow:0 8px 24px #0006}"
        "b.bar{display:block;background:#27272a;color:#a1a1aa;font:13px sans-serif;padding:8px 14px;text-align:center}"
        f"pre{{margin:0;padding:14px 16px 18px;color:#d4d4d8;font:14px/1.35 monospace;width:{screen.columns}ch}}</style>"
        f"<div><b class=bar>{html.escape(title)}</b><pre>" + "\n".join(rows) + "</pre></div>"
    )


def span(text: str, look: Any) -> str:
    colour, is_bold, is_italic, is_under = look
    shade = COLOURS.get(colour, f"#{colour}")
    style = f"color:{shade}"
    style += ";font-weight:700" if is_bold else ""
    style += ";font-style:italic" if is_italic else ""
    style += ";text-decoration:underline" if is_under else ""
    return f'<span style="{style}">{html.escape(text)}</span>'


def keep(path: Path) -> None:
    """Make a picture small. Rare colours stay: that of a state is on a few letters."""
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    print(path, f"{path.stat().st_size / 1024:.0f} KiB")


def draw(browser: Browser, screen: pyte.Screen, name: str, folder: Path) -> None:
    page = browser.new_page(device_scale_factor=1.5)
    page.set_content(drawn(screen, f"{screen.columns} columns"))
    page.locator("body").screenshot(path=folder / f"{name}.png")
    page.close()
    keep(folder / f"{name}.png")


def film(browser: Browser, home: Home, folder: Path, scratch: Path, only: str) -> None:
    """A first serve with its image, the same again, a failing one, and what helps with it."""
    project = Project(scratch, home)
    project.write("app.py", FIRST)
    project.write("hello.py", HELLO)
    broken = Project(scratch / "broken", home)
    broken.write("report.py", REPORT)
    shots = [
        ("terminal-first-serve", ["flyte", "serve"], project, COLUMNS),
        ("terminal-again", ["flyte", "serve"], project, COLUMNS),
        ("terminal-failing-serve", ["flyte", "serve", "report.py"], broken, COLUMNS),
        ("terminal-failing-narrow", ["flyte", "serve", "report.py"], broken, 50),
        ("terminal-list", ["flyte", "get", "app"], project, COLUMNS),
        ("terminal-help", ["flyte", "--help"], project, COLUMNS),
        ("terminal-explain", ["flyte", "explain", "app.missing_module"], project, COLUMNS),
    ]
    for name, words, where, columns in shots:
        if only in name or name == "terminal-first-serve":
            draw(browser, on_terminal(home, words, where.folder, columns=columns), name, folder)


# --- All of it ----------------------------------------------------------------------------------


@contextmanager
def a_home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="fh-", dir="/tmp", ignore_cleanup_errors=True) as path:
        home = Home(Path(path))
        try:
            yield home
        finally:
            home.flyte("local", "stop")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--only", default="", help="names with this word in them")
    parser.add_argument(
        "--traffic", type=float, default=60, help="seconds of visits before the pages are shown"
    )
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory(prefix="flyte-looks-") as scratch:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--font-render-hinting=none"],
        )
        if not asked.only.startswith("terminal"):
            with a_home() as home:
                console(browser, home, asked, Path(scratch) / "console")
        if not asked.only or "terminal" in asked.only:
            with a_home() as home:
                film(browser, home, asked.folder, Path(scratch) / "terminal", asked.only)
        browser.close()


def console(browser: Browser, home: Home, asked: argparse.Namespace, scratch: Path) -> None:
    home.flyte("local", "start")
    if "empty" in asked.only or not asked.only:
        page = browser.new_page(viewport={"width": 1280, "height": 400})
        page.goto(str(home.status()["console"]))
        page.screenshot(path=asked.folder / "list-empty.png")
        page.close()
        keep(asked.folder / "list-empty.png")
    scratch.mkdir()
    populate(home, scratch)
    base = str(home.status()["console"])
    with traffic(str(home.app("storefront")["endpoint"])):
        time.sleep(asked.traffic)
        until(lambda: not home.app("catalog-search")["replicas"], 90, "an app is at zero")
        photograph(browser, base, asked.folder, asked.only)


if __name__ == "__main__":
    main()
