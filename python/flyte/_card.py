"""What a notebook shows while an app is served, and of an app: HTML that needs no script.

A card is one output of its cell that is written anew as the steps go on. Reports come from threads
of the native core, in which the cell would not be known: they are shown in the context of the call.
"""

from __future__ import annotations

import sys
import threading
import time
from contextvars import copy_context
from html import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from flyte.remote import App

STEPS = ("Bundle", "Image", "Deploy", "Activate", "URL")
_BETWEEN_SECONDS = 0.1
"""Lines of an installer come faster than anybody reads."""

# Colours that can be read on white and on black; the rest is the notebook's own.
_GREEN, _RED, _BLUE, _GREY = "#2e9e5b", "#d1434b", "#3b82d6", "#808890"
_LOOKS = {
    "waiting": ("○", _GREY),
    "running": ("", _BLUE),
    "done": ("✓", _GREEN),
    "failed": ("✗", _RED),
    "stopped": ("–", _GREY),
}
_STYLE = """<style>
@keyframes flyte-turn { to { transform: rotate(360deg) } }
.flyte-turn { display: inline-block; width: .7em; height: .7em; border-radius: 50%;
  border: 2px solid #3b82d6; border-right-color: transparent; animation: flyte-turn .9s linear infinite }
@media (prefers-reduced-motion: reduce) { .flyte-turn { animation: none } }
</style>"""
_BOX = (
    "box-sizing:border-box;max-width:52em;border:1px solid rgba(128,136,144,.45);border-radius:8px;"
    "padding:.75em 1em;margin:.3em 0;line-height:1.5;font-size:14px;"
    "font-family:system-ui,-apple-system,'Segoe UI',sans-serif"
)
_CELL = "border:none;background:none;padding:.1em 0;vertical-align:top;text-align:left;line-height:1.5"


def open_card(name: str) -> Card | None:
    """Return a card for the app that is about to be served; `None` where no notebook would show it.

    Args:
        name: name of the app.

    Example:
        >>> open_card("hello") is None      # not in a notebook
        True
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    # A shell in a terminal has no kernel, and lines are what it can show.
    if not hasattr(shell, "kernel"):
        return None
    return Card(name)


def keep_awake(future: Any) -> None:
    """Keep the kernel's event loop from sleeping until `future` is done.

    An interrupt of an awaiting cell is only noticed by a loop that wakes up: ipykernel leaves it to
    the loop, and does not wake it.

    Args:
        future: what a cell waits for.
    """
    loop = future.get_loop()
    timer: Any = None

    def tick() -> None:
        nonlocal timer
        timer = loop.call_later(_BETWEEN_SECONDS, tick)

    tick()
    future.add_done_callback(lambda _: timer.cancel())


def print_lines(lines: Iterable[str]) -> None:
    """Show what an app writes, for as long as it comes; an interrupt of the cell is how one ends it.

    Args:
        lines: what `App.logs` returned.
    """
    try:
        for line in lines:
            print(line, flush=True)
    except KeyboardInterrupt:
        pass


class _Step:
    """One of the five steps, for one app or for several."""

    def __init__(self) -> None:
        self.begun = 0
        self.state = "waiting"
        self.details: list[tuple[str, float]] = []
        self.line = ""


class Card:
    """The steps of one call of `serve`, shown by IPython.

    Args:
        name: name of the app.

    Example:
        >>> card = Card("hello")
        >>> card.take("started", "Bundle", "", 0.0)     # doctest: +SKIP
        >>> card.failed("the disk is full")             # doctest: +SKIP
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._steps = {title: _Step() for title in STEPS}
        self._notes: list[str] = []
        self._end: tuple[str, str, str] | None = None
        self._app: tuple[str, str] | None = None
        self._context = copy_context()
        self._lock = threading.Lock()
        self._handle: Any = None
        self._shown = 0.0

    def take(self, kind: str, step: str, text: str, seconds: float) -> None:
        """Show a report of the core; called from any thread.

        Args:
            kind: `started`, `finished`, `note`, `line`.
            step: title of the step, where it is of one.
            text: what there is to tell.
            seconds: how long the step took, when it is finished.
        """
        with self._lock:
            if kind == "started":
                self._steps[step].begun += 1
                self._steps[step].state = "running"
            elif kind == "finished":
                self._finish(self._steps[step], text, seconds)
            elif kind == "note":
                self._notes.append(text)
            else:
                self._tell(step, text)
            self._show(at_once=kind != "line")

    def _finish(self, step: _Step, text: str, seconds: float) -> None:
        step.begun = max(0, step.begun - 1)
        step.details.append((text, seconds))
        step.line = ""
        if not step.begun:
            step.state = "done"

    def _tell(self, step: str, text: str) -> None:
        running = [title for title in STEPS if self._steps[title].state == "running"]
        if step in running or running:
            self._steps[step if step in running else running[-1]].line = text

    def served(self, endpoint: str, url: str, revision: int) -> None:
        """Show that the app answers.

        Args:
            endpoint: where.
            url: its page on the platform; empty after a dry run.
            revision: its revision; 0 after a dry run.
        """
        state = f"active · revision {revision}" if revision else "dry run"
        with self._lock:
            self._end = (state, _GREEN if revision else _GREY, "")
            self._app = (endpoint, url) if revision else None
            self._show(at_once=True)

    def failed(self, text: str) -> None:
        """Show why the app is not served.

        Args:
            text: the error as it is raised too.
        """
        self._stop("failed", ("failed", _RED, text))

    def cancelled(self) -> None:
        """Show that somebody ended the call."""
        self._stop("stopped", ("cancelled", _GREY, ""))

    def _stop(self, state: str, end: tuple[str, str, str]) -> None:
        with self._lock:
            for step in self._steps.values():
                if step.state == "running":
                    step.state = state
            self._end = end
            self._show(at_once=True)

    def _show(self, at_once: bool) -> None:
        now = time.monotonic()
        if not at_once and now - self._shown < _BETWEEN_SECONDS:
            return
        self._shown = now
        self._context.run(self._display, {"text/html": self.html(), "text/plain": self.text()})

    def _display(self, bundle: dict[str, str]) -> None:
        from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call, unused-ignore]
        else:
            self._handle.update(bundle, raw=True)

    def html(self) -> str:
        """Return the card as it stands."""
        state, colour, reason = self._end or ("serving …", _BLUE, "")
        rows = "".join(_row(title, self._steps[title]) for title in STEPS)
        parts = [_head(self._name, state, colour)]
        parts.append(
            f'<table style="border:none;border-collapse:collapse;width:100%;margin:0;table-layout:auto;'
            f'font-size:13px">{rows}</table>'
        )
        parts += [f'<div style="color:{_GREY}">note: {escape(note)}</div>' for note in self._notes]
        if reason:
            parts.append(
                f'<pre style="margin:.6em 0 0;padding:.4em .8em;border-left:3px solid {_RED};background:'
                f'rgba(209,67,75,.09);white-space:pre-wrap;font:12.5px/1.5 ui-monospace,monospace">'
                f"{escape(reason)}</pre>"
            )
        if self._app:
            parts.append(_links(*self._app))
        return f'{_STYLE}<div style="{_BOX}">{"".join(parts)}</div>'

    def text(self) -> str:
        """Return the same as lines, for what shows no HTML."""
        state, _, reason = self._end or ("serving", "", "")
        lines = [f"{self._name}: {state}", *self._lines(), *(f"note: {note}" for note in self._notes)]
        lines += [line for line in (reason, self._app[0] if self._app else "") if line]
        return "\n".join(lines)

    def _lines(self) -> Iterator[str]:
        for title, step in self._steps.items():
            mark = _LOOKS[step.state][0] or "·"
            if step.state != "waiting" and not step.details:
                yield f"{mark} {title:9} {step.line}".rstrip()
            for detail, seconds in step.details:
                yield f"{mark} {title:9} {detail}  ({_duration(seconds)})"


def app_html(app: App) -> str:
    """Return an app as a notebook shows it, with what the platform says of it now.

    Args:
        app: the app.

    Example:
        >>> app_html(app)       # doctest: +SKIP
        '<div ...'
    """
    from .errors import Error

    reason = ""
    try:
        app._probe()
        state = app.deployment_status.name.lower()
    except Error as error:
        state, reason = "not there", error.message
    colour = {"active": _GREEN, "started": _GREEN, "failed": _RED, "not there": _RED}.get(state, _GREY)
    where = f"{app.project}/{app.domain} · revision {app.revision}"
    below = f'<div style="color:{_GREY}">{escape(where)}</div>'
    if reason:
        below += f'<div style="color:{_RED}">{escape(reason)}</div>'
    return f'<div style="{_BOX}">{_head(app.name, state, colour)}{below}{_links(app.endpoint, app.url)}</div>'


def _head(name: str, state: str, colour: str) -> str:
    return (
        '<div style="display:flex;justify-content:space-between;gap:1em;margin-bottom:.35em">'
        f"<strong>{escape(name)}</strong>"
        f'<span style="color:{colour};font-weight:600;white-space:nowrap">{escape(state)}</span></div>'
    )


def _row(title: str, step: _Step) -> str:
    mark, colour = _LOOKS[step.state]
    sign = mark or '<span class="flyte-turn"></span>'
    faint = f"color:{_GREY}" if step.state == "waiting" else ""
    # A line for each, so that a time stands beside what took it also where that is broken in two.
    told = [
        (escape(detail), "" if title == STEPS[-1] else _duration(seconds)) for detail, seconds in step.details
    ]
    if step.line and step.state != "done":
        told.append((f'<span style="color:{_GREY}">{escape(step.line)}</span>', ""))
    lines = []
    for number, (text, took) in enumerate(told or [("", "")]):
        head = (sign, title) if number == 0 else ("", "")
        lines.append(
            f'<tr style="background:none;{faint}">'
            f'<td style="{_CELL};width:1.6em;color:{colour};font-weight:700">{head[0]}</td>'
            f'<td style="{_CELL};width:6em">{head[1]}</td>'
            f'<td style="{_CELL};overflow-wrap:anywhere">{text}</td>'
            f'<td style="{_CELL};text-align:right;white-space:nowrap;padding-left:1em;color:{_GREY}">'
            f"{took}</td></tr>"
        )
    return "".join(lines)


def _links(endpoint: str, url: str) -> str:
    parts = [_link(endpoint, endpoint, "font-weight:600")] if endpoint else []
    if url:
        parts.append(_link(url, "console", f"color:{_GREY}"))
    return f'<div style="margin-top:.5em;display:flex;gap:1.2em;flex-wrap:wrap">{"".join(parts)}</div>'


def _link(address: str, text: str, style: str) -> str:
    return f'<a href="{escape(address)}" target="_blank" rel="noopener" style="{style}">{escape(text)}</a>'


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
