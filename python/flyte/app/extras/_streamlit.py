"""Streamlit apps: a script of pages, run by streamlit in the image."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

from ..._mistake import mistake
from .._environment import AppEnvironment


@dataclass(repr=False)
class StreamlitAppEnvironment(AppEnvironment):
    """A Streamlit app on the port of the environment.

    Streamlit is needed in the image only. The script travels with the app, as if it stood in
    `include`. A function decorated with `server` replaces streamlit. The other fields are those of
    `AppEnvironment`.

    Args:
        script: the page to run, relative to the file that declares the app.
        streamlit_args: more arguments of `streamlit run`.
        script_args: what the script finds in `sys.argv`.

    Raises:
        ValueError: no script is named.

    Example:
        >>> env = StreamlitAppEnvironment(name="pages", script="pages.py")
        >>> env.include
        ('pages.py',)
    """

    type: str | None = field(default="Streamlit", kw_only=True)
    script: str = field(kw_only=True)
    streamlit_args: list[str] = field(default_factory=list, kw_only=True)
    script_args: list[str] = field(default_factory=list, kw_only=True)

    def __post_init__(self) -> None:
        if not self.script:
            raise mistake(
                "script must name the file that streamlit runs",
                'write `script="main.py"`, relative to the file that declares the app',
            )
        self.include = tuple(dict.fromkeys([*self.include, self.script]))
        super().__post_init__()
        self._server = self._default_server = self._serve_with_streamlit

    def _serve_with_streamlit(self) -> None:
        from . import _process

        _process.run(self._streamlit_command())

    def _streamlit_command(self) -> list[str]:
        options = {
            "server.port": str(self.get_port().port),
            "server.address": "0.0.0.0",
            # No browser here, and nobody who could answer a question.
            "server.headless": "true",
            "browser.gatherUsageStats": "false",
        }
        words = [sys.executable, "-m", "streamlit", "run", self._place()]
        words += [word for name, value in options.items() for word in (f"--{name}", value)]
        return [*words, *self.streamlit_args, "--", *self.script_args]

    def _place(self) -> str:
        """The script beside the file that declares the app, wherever the bundle was unpacked."""
        folder = os.path.dirname(self._declaring_file) if self._declaring_file else ""
        return os.path.join(folder, self.script)
