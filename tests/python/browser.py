"""A browser that logs in: headless Chromium, told what to do over a pipe.

`BROWSER="python browser.py"` makes it the browser that flyte opens. It follows the provider's pages
as a person does (fills in a name, presses the button) until the last page says that it is over.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from typing import Any

# Fills in what a page asks for and presses its button, once for each page.
STEP = """
(() => {
  const text = document.body ? document.body.innerText : "";
  if (document.readyState !== "complete" || window.pressed) return text;
  const fill = (name, value) => {
    const field = document.querySelector(`input[name=${name}]`);
    if (field && !field.value) field.value = value;
  };
  fill("login", "PERSON");
  fill("password", "secret");
  const button = document.querySelector("button[type=submit]:not([value=no]), input[type=submit]");
  if (button) { window.pressed = true; button.click(); }
  return text;
})()
"""

# What the last pages say: ours, and the provider's after a code was confirmed.
DONE = ("You are logged in", "The login failed", "Sign-in Success")


class Chromium:
    """One headless browser with one page."""

    def __init__(self, profile: str) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        self._buffer = b""
        self._last = 0

        def wire() -> None:
            # The browser reads from descriptor 3 and writes to 4.
            reader, writer = os.dup(to_browser), os.dup(from_browser)
            os.dup2(reader, 3)
            os.dup2(writer, 4)

        self._process = subprocess.Popen(
            [
                "chromium",
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--ignore-certificate-errors",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            preexec_fn=wire,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Send one command and wait for what comes of it; `None` when the page went away."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                return answer.get("result")

    def _read(self) -> Any:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], 60)[0]:
                raise SystemExit("the browser says nothing")
            part = os.read(self._in, 65536)
            if not part:
                raise SystemExit("the browser ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        """End the browser."""
        self.call("Browser.close")
        self._process.wait(60)


def visit(url: str, person: str) -> str:
    """Go through the pages that begin at `url`; return what the last one says."""
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        browser = Chromium(profile)
        target = browser.call("Target.createTarget", url=url)["targetId"]
        session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        step = STEP.replace("PERSON", person)
        deadline = time.monotonic() + 90
        text = ""
        while time.monotonic() < deadline:
            result = browser.call("Runtime.evaluate", session, expression=step, returnByValue=True)
            text = ((result or {}).get("result") or {}).get("value") or text
            if any(done in text for done in DONE):
                break
            time.sleep(0.02)
        browser.close()
        return text


if __name__ == "__main__":
    said = visit(sys.argv[-1], os.environ.get("BROWSER_PERSON", "ada"))
    log = os.environ.get("BROWSER_LOG")
    if log:
        with open(log, "a") as file:
            file.write(said + "\n")
    sys.exit(0 if any(done in said for done in DONE) else 1)
