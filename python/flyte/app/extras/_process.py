"""Running another program as the server of an app, with the ends that a server function has."""

from __future__ import annotations

import subprocess

_PATIENCE_SECONDS = 10.0


def run(words: list[str]) -> None:
    """Run a program until it ends or the app is told to stop.

    Args:
        words: the program and its arguments.

    Raises:
        RuntimeError: the program ended with an error.

    Example:
        >>> run(["true"])
    """
    with subprocess.Popen(words) as process:
        try:
            status = process.wait()
        except BaseException:
            # Told to stop, which arrives as an exception in a server function.
            process.terminate()
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if status != 0:
        raise RuntimeError(f"`{words[0]}` ended with status {status}")
