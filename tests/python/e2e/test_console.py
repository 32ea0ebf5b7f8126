"""The console in a real browser: reading, acting, following a log, and who is refused."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from support import Home, Project, get, until

# Would run, if it became markup anywhere.
HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\">'\"><b>"

SHOP = """
import sys
import flyte, flyte.app
import web
{extra}
env = flyte.app.AppEnvironment(
    name="shop",
    description="Sells words " + {hostile!r},
    env_vars={{"STAGE": {stage!r}, "API_KEY": "hunter2-key", "NOTE": {hostile!r},
               "DATABASE_URL": "postgres://me:hunter2-url@db/x"}},
    parameters=[flyte.app.Parameter("word", {hostile!r}), flyte.app.Parameter("admin_password", "hunter2-parameter")],
    links=[flyte.app.Link(path="/docs", title="Docs", is_relative=True),
           flyte.app.Link(path="javascript:alert(1)", title="Trap")],
    scaling=flyte.app.Scaling(replicas=1),
)

@env.server
def server(word, admin_password):
    print("\\x1b[1;31mred alert\\x1b[0m " + word)
    def answer(path):
        name, _, count = path.partition("?")
        for number in range(int(count or 0)):
            print(f"line {{number}} of {{name}}")
        sys.stdout.flush()
        return (500, "no") if name == "/bad" else "yes"
    web.serve(answer)
"""

BROKEN = """
import flyte, flyte.app
env = flyte.app.AppEnvironment(
    name="broken",
    args=["python", "-c", "print('before the end'); raise SystemExit(" + repr({hostile!r}) + ")"],
)
"""


# One app of each state that `shop` and `broken` are not in.
STATES = """
import flyte.app

def app(name, program, **scaling):
    return flyte.app.AppEnvironment(
        name=name, args=["python", "-c", program], include=["web.py"], scaling=flyte.app.Scaling(**scaling)
    )

served = "import web; web.serve(lambda path: 1)"
off = app("off", served)
idle = app("idle", served, replicas=(0, 1), scaledown_after=1)
busy = app("busy", "import time; time.sleep(600)")
"""


def browser_path() -> str:
    """Debian's Chromium; without it the tests cannot be run, which CI must not overlook."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        if os.environ.get("CI"):
            raise AssertionError("the tests of the console need chromium")
        pytest.skip("no chromium")
    return found


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def apps(home: Home, tmp_path_factory) -> Project:
    """Two revisions of `shop`, which serves, and `broken`, which does not."""
    from support import WEB

    project = Project(tmp_path_factory.mktemp("console"), home)
    project.write("web.py", WEB)
    project.write("extra.py", "WORD = 1\n")
    (project.folder / "shop.py").write_text(SHOP.format(hostile=HOSTILE, stage="one", extra=""))
    (project.folder / "again.py").write_text(SHOP.format(hostile=HOSTILE, stage="two", extra="import extra"))
    (project.folder / "broken.py").write_text(BROKEN.format(hostile=HOSTILE))
    serve = "import flyte, sys, importlib\nflyte.serve(importlib.import_module(sys.argv[1]).env)\n"
    (project.folder / "serve.py").write_text(serve)
    for name in ("shop", "again"):
        done = project.run("serve.py", name)
        assert done.returncode == 0, done.stderr
    assert project.run("serve.py", "broken").returncode == 1
    return project


@pytest.fixture(scope="module")
def base(apps: Project) -> str:
    return str(apps.home.status()["console"])


@pytest.fixture
def page(browser, base):
    """A page that must have said nothing on its console, nor asked anybody else for anything."""
    context = browser.new_context(base_url=base, viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(15_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    foreign: list[str] = []
    page.on("request", lambda request: None if request.url.startswith(base) else foreign.append(request.url))
    yield page
    assert page.title() != "pwned"
    context.close()
    assert not complaints, complaints
    assert not foreign, foreign


def path_of(name: str) -> str:
    return f"/v2/domain/development/project/local/apps/{name}"


def own(name: str, what: str) -> str:
    return f"/console/apps/local/development/{name}/{what}"


def open_app(page: Any, name: str) -> None:
    page.goto(path_of(name))
    # Not `wait_for_function`: its polling evaluates text, which the page's policy forbids.
    until(lambda: page.evaluate("document.getElementById('link').textContent") == "", 10, "the page is live")


def endpoint(apps: Project) -> str:
    return str(apps.home.app("shop")["endpoint"])


def test_the_list_shows_and_filters(page, apps):
    page.goto("/")
    rows = page.locator("#apps tr")
    assert rows.count() == 2
    assert page.get_by_role("row", name="shop").locator(".st").inner_text() == "Active"
    assert page.get_by_role("row", name="broken").locator(".st").inner_text() == "Failed"
    assert "2 apps" in page.locator("#sum").inner_text()
    page.keyboard.press("/")
    page.keyboard.type("failed local")
    assert page.locator("#apps tr:visible").count() == 1
    assert page.url.endswith("/?q=failed%20local")
    page.keyboard.press("Escape")
    assert page.locator("#apps tr:visible").count() == 2
    # A filter in the address is the server's to apply, and stays a live one.
    page.goto("/?q=shop")
    assert page.locator("#apps tr:visible").count() == 1
    page.locator("#q").fill("")
    until(lambda: page.locator("#apps tr:visible").count() == 2, what="all rows are there to filter")


def test_an_app_page_tells_all_and_keeps_secrets(page, apps):
    page.goto("/")
    page.get_by_role("link", name="shop", exact=True).click()
    page.wait_for_url("**/apps/shop")
    assert page.locator("#endpoint").get_attribute("href") == endpoint(apps)
    page.get_by_role("button", name="Copy").click()
    until(lambda: page.evaluate("navigator.clipboard.readText()") == endpoint(apps), what="it is copied")
    facts = page.locator("#facts").inner_text()
    assert "STAGE" in facts and "two" in facts and HOSTILE in facts
    for name in ("API_KEY", "admin_password"):
        assert re.search(rf"{name}\s+•+", facts), facts
    assert "postgres://me:••••••••@db/x" in facts
    assert "hunter2" not in page.content()
    assert page.get_by_role("link", name="/docs").get_attribute("href") == endpoint(apps) + "/docs"
    assert page.locator("a[href^='javascript']").count() == 0 and "javascript:alert(1)" in facts
    replica = page.locator("#replicas tbody tr").inner_text()
    assert str(apps.home.pid("shop")) in replica and "MiB" in replica
    assert "revision 2 is serving" in page.locator("#history").inner_text()
    assert page.locator("#log .c1.cb").first.inner_text() == "red alert"
    assert page.locator("img:not([alt=''])").count() == 0


def test_two_revisions_are_compared(page, apps):
    page.goto(path_of("shop"))
    page.get_by_role("link", name="compare revisions 1 and 2").click()
    rows = page.locator("section[aria-labelledby=h-s] tbody tr")
    rows.first.wait_for()
    told = " | ".join(rows.all_inner_texts())
    assert re.search(r"variable STAGE\s+one\s+two", told), told
    assert "code" in told and "API_KEY" not in told
    files = page.locator("section[aria-labelledby=h-f]").inner_text()
    assert re.search(r"extra\.py\s+added", files) and "again.py" in files and "web.py" not in files
    assert "3 files before, 4 files after; 3 differ" in files
    assert "hunter2" not in page.content()


def test_a_failed_app_says_why_at_the_top(page, apps):
    open_app(page, "broken")
    alert = page.locator("#failure")
    text = alert.inner_text()
    assert "exited with code 1" in text and "app.exited" in text and "Hint" in text
    assert "before the end" in alert.locator(".log").inner_text() and HOSTILE in text
    assert alert.bounding_box()["y"] < 400
    assert page.get_by_role("button", name="Try again").is_visible()
    page.get_by_role("button", name="Try again").click()
    until(lambda: "revision 2" in page.locator("#history").inner_text(), 20, "another attempt")
    until(lambda: page.locator("#state .st").inner_text() == "Failed", 20, "which fails as well")
    # What the first attempt wrote is not told again.
    assert page.locator("#failure .log").inner_text().count("before the end") == 1


def test_traffic_is_drawn(page, apps):
    open_app(page, "shop")
    for path in ("/a", "/b", "/bad"):
        get(endpoint(apps) + path)
    label = page.locator("#traffic svg").first
    until(lambda: "1 error" in page.locator("#traffic").inner_text(), 15, "the error is counted")
    assert "Requests per second over 10 minutes" in label.get_attribute("aria-label")
    assert re.search(r"p50\s+[\d.]+ ms", page.locator("#traffic").inner_text())
    assert page.locator("#traffic path.s1").get_attribute("d").startswith("M")


def test_the_log_is_followed_searched_and_paused(page, apps):
    open_app(page, "shop")
    log = page.locator("#log")
    get(endpoint(apps) + "/follow?30")
    page.get_by_text("line 29 of /follow").wait_for()
    assert log.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 5
    times = log.locator("time").all_inner_texts()
    assert len(times) == len({*log.locator("time").evaluate_all("all => all.map(e => e.dateTime)")})
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", one) for one in times)

    page.keyboard.press("/")
    page.keyboard.type("line 7 of")
    assert log.locator("div:visible").count() == 1
    assert page.evaluate("[...CSS.highlights.get('found')].map(r => r.toString())") == ["line 7 of"]
    assert re.match(r"1 of \d+ lines", page.locator("#count").inner_text())
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Pause").click()
    get(endpoint(apps) + "/paused?5")
    until(lambda: "5 new lines" in page.locator("#count").inner_text(), what="lines are held back")
    assert page.get_by_text("line 4 of /paused").count() == 0
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("line 4 of /paused").wait_for()

    replica = page.locator("#who option").nth(1).get_attribute("value")
    page.locator("#who").select_option(replica)
    shown = log.locator("div:visible").evaluate_all("all => [...new Set(all.map(e => e.dataset.r))]")
    assert shown == [replica]
    page.locator("#who").select_option("")
    page.get_by_role("button", name="Wrap").click()
    assert "wrap" in log.get_attribute("class")
    log.evaluate("e => e.scrollTop = 0")
    until(
        lambda: page.get_by_role("button", name="Follow").get_attribute("aria-pressed") == "false",
        what="scrolling up ends following",
    )


def test_a_flood_of_lines_is_bounded(page, apps):
    open_app(page, "shop")
    get(endpoint(apps) + "/flood?20000", timeout=60)
    page.get_by_text("line 19999 of /flood").wait_for(timeout=30_000)
    assert page.locator("#log > div").count() <= 2001
    # The page still answers at once.
    page.get_by_role("button", name="Pause").click(timeout=15000)


def test_each_action(page, apps):
    open_app(page, "shop")
    page.get_by_role("button", name="Deactivate").click()
    page.locator("#state .st", has_text="Deactivated").wait_for()
    assert get(endpoint(apps))[0] == 503
    assert "No replica runs" in page.locator("#replicas").inner_text()
    page.get_by_role("button", name="Activate").click()
    page.locator("#state .st", has_text="Active").wait_for(timeout=30_000)
    assert get(endpoint(apps)) == (200, '"yes"')
    page.get_by_role("button", name="Roll back to revision 1").click()
    page.locator("#state", has_text="revision 3").wait_for(timeout=30_000)
    assert re.search(r"STAGE\s+one", page.locator("#facts").inner_text())


def test_deleting_asks_and_escape_closes(page, apps):
    open_app(page, "broken")
    page.locator("#delete").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete broken?")
    assert dialog.is_visible()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.id") == "delete"
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Cancel").click()
    assert not dialog.is_visible() and "broken" in apps.home.names()


def test_a_row_that_comes_moves_no_button_under_a_hand(page, apps):
    """The page shifts while somebody is about to press: what is pressed stays what was meant."""
    home = apps.home
    apps.write("steps.py", "import flyte.app, web\n" + STEPS)
    for step in ("1", "2"):
        assert home.flyte("serve", "steps.py", "-e", f"STEP={step}", cwd=apps.folder).returncode == 0
    try:
        open_app(page, "steps")
        button = page.get_by_role("button", name="Roll back to revision 1")
        button.focus()
        focused = "document.activeElement.textContent"
        assert "to revision 1" in page.evaluate(focused)
        assert home.flyte("serve", "steps.py", "-e", "STEP=3", cwd=apps.folder).returncode == 0
        page.get_by_role("button", name="Roll back to revision 2").wait_for()
        assert "to revision 1" in page.evaluate(focused)
        page.keyboard.press("Enter")
        page.locator("#state", has_text="revision 4").wait_for(timeout=30_000)
        assert re.search(r"STEP\s+1", page.locator("#facts").inner_text())
        # A failed revision is newer than the one that serves: the way to it is not back.
        broken = home.flyte("serve", "steps.py", "-e", "STEP=fail", cwd=apps.folder)
        assert broken.returncode == 1, broken.stderr
        page.get_by_role("button", name="Roll forward to revision 5").wait_for()
    finally:
        # Its page would look for what is not there any more, which is an error on the browser's console.
        page.goto("about:blank")
        home.flyte("delete", "app", "steps")


STEPS = """
import os
env = flyte.app.AppEnvironment(name="steps", scaling=flyte.app.Scaling(replicas=1))

@env.server
def server():
    if os.environ["STEP"] == "fail":
        raise SystemExit(3)
    web.serve(lambda path: os.environ["STEP"])
"""


def test_a_button_amid_its_action_cannot_be_pressed_again(browser, base, apps):
    # Of its own, since a request that breaks off is an error on the browser's console.
    context = browser.new_context(base_url=base)
    page = context.new_page()
    open_app(page, "shop")
    held: list[Any] = []
    page.route("**/deactivate", lambda route: held.append(route))
    button = page.locator("#deactivate")
    button.click()
    until(lambda: page.evaluate("document.getElementById('deactivate').disabled"), what="it is under way")
    # The page is brought up to date meanwhile, more than once.
    with page.expect_response(lambda answer: answer.url.endswith("/shop")):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(200)
    assert button.is_disabled() and len(held) == 1
    held[0].abort()
    until(lambda: button.is_enabled(), what="it can be pressed again")
    assert "nothing was changed" in page.locator("#oops").inner_text()
    context.close()


def test_a_refusal_is_told_inside_the_dialog_and_mended(browser, base, apps):
    """The token of an earlier start of the platform: the dialog says so, and gets the new one."""
    apps.write("brief.py", "import flyte.app\nenv = flyte.app.AppEnvironment(name='brief', args=['false'])\n")
    assert apps.home.flyte("serve", "brief.py", cwd=apps.folder).returncode == 1
    context = browser.new_context(base_url=base)
    page = context.new_page()
    open_app(page, "brief")
    page.locator("#delete").click()
    with page.expect_response(lambda answer: answer.status == 403):
        page.evaluate(
            "(form => { form.token.value = '0'.repeat(64); form.querySelector('button').click(); })"
            "(document.getElementById('ask-form'))"
        )
    told = page.get_by_role("dialog").get_by_role("alert")
    until(lambda: "try again" in told.inner_text(), what="the refusal is told")
    assert "brief" in apps.home.names()
    until(
        lambda: page.evaluate("document.getElementById('ask-form').token.value") != "0" * 64,
        what="a new token",
    )
    assert page.get_by_role("dialog").is_visible()
    page.get_by_role("button", name="Delete the app").click()
    page.wait_for_url(base + "/")
    assert "brief" not in apps.home.names()
    context.close()


def test_a_failure_leads_to_the_page_of_its_code(page, apps):
    page.goto(path_of("broken"))
    page.locator("#failure").get_by_role("link", name="app.exited").click()
    page.wait_for_url("**/console/codes/app.exited")
    assert page.get_by_role("heading", level=1).inner_text() == "app.exited"
    assert page.get_by_role("heading", name="What to do").is_visible()
    assert page.locator("article li").count() > 2 and "```" not in page.content()


def test_the_shortcut_can_be_turned_off(page, apps):
    focused = "document.activeElement.id"
    page.goto("/")
    page.keyboard.press("/")
    assert page.evaluate(focused) == "q"
    page.get_by_role("button", name="Shortcut /").click()
    page.reload()
    page.keyboard.press("/")
    assert page.evaluate(focused) != "q"
    assert page.get_by_role("button", name="Shortcut /").get_attribute("aria-pressed") == "false"
    page.get_by_role("button", name="Shortcut /").click()
    page.locator("h1").click()
    page.keyboard.press("/")
    assert page.evaluate(focused) == "q"


def test_one_page_too_many_says_so_and_goes_on(browser, base, apps):
    parts = urlsplit(base)
    others = []
    for _ in range(64):
        connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=10)
        connection.request("GET", "/console/live", headers={"Host": parts.netloc})
        answer = connection.getresponse()
        assert answer.status == 200
        others += [answer, connection]
    context = browser.new_context(base_url=base)
    page = context.new_page()
    page.goto("/")
    link = page.locator("#link")
    until(lambda: "Too many pages" in link.inner_text(), what="it says why it is slow")
    for one in others:
        one.close()
    until(lambda: link.inner_text() == "", 20, "it is live again")
    context.close()


def test_everything_can_be_reached_by_keyboard(page, apps):
    open_app(page, "shop")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.textContent.trim())(document.activeElement)"))
        ring = "(s => s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2)"
        assert page.evaluate(f"{ring}(getComputedStyle(document.activeElement))"), reached[-1]
        if reached[-1] == "log":
            break
    for wanted in (
        "deactivate",
        "delete",
        "endpoint",
        "Copy",
        "find",
        "who",
        "pause",
        "follow",
        "wrap",
        "log",
    ):
        assert wanted in reached, reached


def test_it_reads_without_script(browser, base, apps):
    context = browser.new_context(base_url=base, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    page.locator("#q").fill("broken")
    page.get_by_role("button", name="Filter").click()
    assert page.locator("#apps tr").count() == 1
    page.get_by_role("link", name="broken", exact=True).click()
    assert "exited with code 1" in page.locator("#failure").inner_text()
    assert not page.locator("#pause").is_visible()
    page.get_by_role("link", name="Plain page of the last lines").click()
    page.get_by_label("Search").fill("before")
    page.get_by_role("button", name="Show").click()
    assert page.locator(".log div").all_inner_texts()[0].endswith("before the end")
    page.go_back()
    page.goto(path_of("broken"))
    page.locator("#delete").click()
    page.get_by_role("button", name="Delete the app").click()
    page.wait_for_url(base + "/")
    assert apps.home.names() == ["shop"]
    context.close()
    # For the tests behind this one.
    assert apps.run("serve.py", "broken").returncode == 1


def contents_of_axe() -> str:
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


@pytest.fixture
def states(apps):
    """`off`, `idle` and `busy`, which are what they are called."""
    apps.write("states.py", STATES)
    home = apps.home
    for name in ("off", "idle"):
        done = home.flyte("serve", "states.py", name, cwd=apps.folder)
        assert done.returncode == 0, done.stderr
    home.flyte("update", "app", "off", "--deactivate", "--wait")
    apps.write(
        "busy.py", "import flyte, states\nflyte.with_servecontext(activate_timeout=600).serve(states.busy)\n"
    )
    apps.start("busy.py")
    until(lambda: "busy" in home.names() and home.app("busy")["status"] == "DEPLOYING", 30, "an app is busy")
    until(lambda: not home.app("idle")["replicas"], 60, "an app is at zero")
    yield
    apps.close()
    for name in ("off", "idle", "busy"):
        assert home.flyte("delete", "app", name).returncode == 0


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_hard_to_use(browser, base, apps, states, scheme, width):
    context = browser.new_context(
        base_url=base,
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": width, "height": 800},
    )
    page = context.new_page()
    found: dict[str, Any] = {}
    grounds = set()
    words = set()
    apps_of = [path_of(name) for name in ("shop", "broken", "off", "idle", "busy")]
    compare, lines = own("shop", "compare?from=1&to=2"), own("shop", "logs?q=red")
    delete = own("shop", "delete")
    for path in ("/", *apps_of, compare, lines, delete, "/console/codes/app.exited", "/nowhere", "dialog"):
        page.goto(path_of("shop") if path == "dialog" else path)
        if path == "dialog":
            page.locator("#delete").click()
            # What a refusal looks like there.
            page.evaluate("document.querySelector('dialog [role=alert]').textContent = 'no'")
        page.evaluate(contents_of_axe())
        result = page.evaluate("axe.run({resultTypes: ['violations']})")
        for one in result["violations"]:
            found[f"{path} {one['id']} ({one['impact']})"] = [node["html"][:120] for node in one["nodes"]][:3]
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        if path == "/":
            words = set(page.locator("#apps .st").all_inner_texts())
    context.close()
    assert not found, json.dumps(found, indent=1)
    assert grounds == {"rgb(250, 250, 250)" if scheme == "light" else "rgb(15, 15, 18)"}
    assert words == {"Active", "Failed", "Deactivated", "At zero", "Deploying"}


def test_a_narrow_screen_scrolls_one_way_only(browser, base, apps):
    context = browser.new_context(base_url=base, viewport={"width": 400, "height": 800})
    page = context.new_page()
    for path in ("/", path_of("shop"), path_of("broken"), own("shop", "compare?from=1&to=2")):
        page.goto(path)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 400, (path, wide)
    context.close()


def test_pages_are_small_and_stay_where_they_are(browser, base, apps):
    """Everything a page loads, and how far its parts move while it does."""
    context = browser.new_context(base_url=base)
    page = context.new_page()
    weights = {}
    for path in ("/", path_of("shop"), path_of("broken")):
        page.add_init_script(
            "window.moved = 0; new PerformanceObserver(list => {"
            "for (const one of list.getEntries()) window.moved += one.value;"
            "}).observe({type: 'layout-shift', buffered: true});"
        )
        page.goto(path)
        until(lambda: page.evaluate("performance.getEntriesByType('paint').length") > 0, 10, "painted")
        sizes = "performance.getEntries().filter(e => e.decodedBodySize).map(e => e.decodedBodySize)"
        weights[path.rpartition("/")[2]] = sum(page.evaluate(sizes))
        assert page.evaluate("window.moved") < 0.01
    context.close()
    print("bytes of html, css, script and icon:", weights)
    assert max(weights.values()) < 60_000, weights


# --- Who is refused ------------------------------------------------------------------------------


def ask(base: str, method: str, path: str, headers: dict[str, str], body: str = "") -> tuple[int, Any, str]:
    """A request with exactly these headers."""
    parts = urlsplit(base)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": parts.netloc, "Content-Length": str(len(body)), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


@pytest.fixture(scope="module")
def token(base, apps):
    _, text = get(base + path_of("shop"))
    return re.search(r'name="token" value="([0-9a-f]{64})"', text)[1]


def test_only_a_page_of_ours_changes_anything(base, apps, token):
    ours = {"Origin": base, "Accept": "application/json"}
    good = urlencode({"token": token})
    refused = [
        ({"Accept": "application/json"}, good),
        ({**ours, "Origin": "http://evil.example"}, good),
        ({**ours, "Origin": endpoint(apps)}, good),
        ({**ours, "Origin": "null"}, good),
        ({**ours, "Sec-Fetch-Site": "cross-site"}, good),
        ({**ours, "Sec-Fetch-Site": "same-site"}, good),
        ({**ours, "Host": "evil.example"}, good),
        (ours, ""),
        (ours, urlencode({"token": "0" * 64})),
        (ours, urlencode({"token": token[:-1]})),
    ]
    for action in ("activate", "deactivate", "rollback", "delete"):
        for headers, body in refused:
            status, _, text = ask(base, "POST", own("shop", action), headers, body)
            assert status == 403, (action, headers, body, text)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(base, method, own("shop", "delete"), ours, good)[0] == 403
    assert ask(base, "GET", own("shop", "deactivate"), {})[0] == 405
    assert apps.home.app("shop")["status"] == "ACTIVE"
    # The same with the token and from the page itself is done.
    status, _, text = ask(base, "POST", own("shop", "activate"), ours, good)
    assert (status, json.loads(text)["message"]) == (200, "shop is being activated")
    status, _, text = ask(base, "POST", own("shop", "rollback"), ours, good + "&revision=99")
    assert status == 400 and "has no revision 99" in text
    assert ask(base, "POST", own("nobody", "deactivate"), ours, good)[0] == 404


def test_other_names_and_frames_are_refused(base, apps):
    for host in ("evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", ""):
        for path in (
            "/",
            path_of("shop"),
            own("shop", "live"),
            own("shop", "logs"),
            "/metrics",
            "/console/style.css",
        ):
            status, _, text = ask(base, "GET", path, {"Host": host})
            assert status in (400, 403) and "shop" not in text, (host, path)
    for dest in ("iframe", "frame", "embed", "object"):
        framed = {"Sec-Fetch-Dest": dest, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "cross-site"}
        assert ask(base, "GET", "/", framed)[0] == 403
    assert ask(base, "GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})[0] == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert ask(base, "GET", "/", link)[0] == 200


def test_every_answer_says_what_it_may_do(base, apps):
    for path in (
        "/",
        path_of("shop"),
        "/nowhere",
        path_of("nobody"),
        own("shop", "logs"),
        "/console/script.js",
    ):
        _, headers, _ = ask(base, "GET", path, {})
        policy = headers["Content-Security-Policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    _, _, text = ask(base, "GET", path_of("shop"), {})
    assert not re.search(r"<[^>]+\s(style|on\w+)=|<script>|<style", text)


def test_a_foreign_page_can_neither_read_nor_frame_nor_post(browser, base, apps):
    """The app itself is a page of another origin on this machine, and as hostile as they come."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(endpoint(apps))
    read = "url => fetch(url).then(a => a.text(), e => 'refused')"
    assert page.evaluate(read, base + "/") == "refused"
    page.evaluate(
        "url => { const f = document.createElement('iframe'); f.src = url; document.body.append(f);"
        " return new Promise(done => f.onload = done) }",
        base + "/",
    )
    assert "shop" not in page.frames[1].content()
    with page.expect_navigation():
        page.evaluate(
            "url => { const f = document.createElement('form'); f.method = 'post'; f.action = url;"
            " document.body.append(f); f.submit() }",
            base + own("shop", "deactivate"),
        )
    assert "another site asked for a change" in page.content()
    assert apps.home.app("shop")["status"] == "ACTIVE"
    context.close()


def test_nobody_else_on_the_network_reaches_it(base, apps):
    port = urlsplit(base).port
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line
    ]
    own = [address for address in listening if address.endswith(f":{port:04X}")]
    assert own == [f"0100007F:{port:04X}"]
    outside = socket.gethostbyname_ex(socket.gethostname())[2]
    for address in (one for one in outside if not one.startswith("127.")):
        with pytest.raises(OSError):
            socket.create_connection((address, port), timeout=2)


def test_paths_below_an_app_lead_to_the_app(base, apps):
    for below in ("/some/path", "/some/", "/a%3Fb%2Fc/d?x=1&y=%20/e"):
        status, headers, _ = ask(base, "GET", path_of("shop") + below, {})
        assert (status, headers["Location"]) == (307, endpoint(apps) + below)
