"""Gradio apps: the demo is declared, flyte launches it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..._mistake import wrong_type
from .._environment import AppEnvironment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


@dataclass(repr=False)
class GradioAppEnvironment(AppEnvironment):
    """A Gradio demo on the port of the environment.

    A function decorated with `server` replaces it. The other fields are those of `AppEnvironment`.

    Args:
        demo: a `gradio.Blocks` or `Interface`, or a function that makes one. A function that imports
            gradio inside keeps it out of the program that deploys.
        launch_args: more arguments of `demo.launch`.

    Raises:
        TypeError: `demo` is neither.

    Example:
        >>> def demo():
        ...     import gradio
        ...     return gradio.Interface(str.upper, "text", "text")
        >>> env = GradioAppEnvironment(name="upper", demo=demo)
    """

    type: str | None = field(default="Gradio", kw_only=True)
    demo: Any = field(kw_only=True)
    launch_args: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        # A demo can be called as well; launching is what tells it from a function.
        if not hasattr(self.demo, "launch") and not callable(self.demo):
            raise wrong_type(
                "Expected demo to be of type gradio.Blocks or a function that makes one, "
                f"got {type(self.demo)}",
                "write `demo=gradio.Interface(...)`, or a function that returns it",
            )
        super().__post_init__()
        self._server = self._default_server = self._serve_with_gradio

    def _serve_with_gradio(self) -> None:
        make: Callable[[], Any] = self.demo
        demo = self.demo if hasattr(self.demo, "launch") else make()
        options = {
            "server_name": "0.0.0.0",
            "server_port": self.get_port().port,
            # Nobody sits here, and an app is no address for the whole world unasked.
            "inbrowser": False,
            "share": False,
            **self.launch_args,
        }
        demo.launch(**options)
