"""The duties of the first process of a container, which no other process can take over.

The kernel gives it every orphan to bury, and delivers no signal to it that it has no handler for.
So the app runs in a child, and this process forwards signals, buries, and ends as the child does.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)


def continue_in_child() -> None:
    """Fork, and return in the child; the parent stays the first process until the child ends.

    Must be called before threads are started.

    Example:
        >>> if os.getpid() == 1:
        ...     continue_in_child()
    """
    child = 0
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if child:
            _send(child, number)
        else:
            early.append(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    child = os.fork()
    if child == 0:
        _lead_group()
        for number, handler in before.items():
            signal.signal(number, handler)
    for pending in early:
        _send(child or os.getpid(), pending)
    if child:
        _bury(child)


def _send(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass


def _lead_group() -> None:
    """A group of its own, so that Ctrl-C at a terminal does not come twice."""
    os.setpgid(0, 0)
    if os.isatty(0):
        # Taking the terminal over is something that only a group in its foreground may do unasked.
        handler = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, handler)


def _bury(child: int) -> None:
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            # As a shell tells of a signal.
            os._exit(code if code >= 0 else 128 - code)
