"""Connectors: apps that clusters call over gRPC to run work elsewhere."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from ._environment import AppEnvironment
from ._types import Port


@dataclass(repr=False)
class ConnectorEnvironment(AppEnvironment):
    """A connector service; listens for gRPC on port 8080 unless told otherwise.

    Without `args` it runs the connector program `c0` with the modules in `include`. The fields are
    those of `AppEnvironment`.

    Example:
        >>> ConnectorEnvironment(name="batch", include=["connectors/batch.py"]).container_args()[-1]
        'connectors.batch'
    """

    type: str | None = "connector"
    port: int | Port = Port(8080, "h2c")

    @staticmethod
    def _as_port(port: object) -> Port:
        # A connector speaks HTTP/2 only, whichever number it is given.
        known = AppEnvironment._as_port(port)
        return known if isinstance(port, Port) else Port(known.port, "h2c")

    def container_args(self, ctx: object = None) -> list[str]:
        """Return the arguments of the connector's process, split into items.

        Args:
            ctx: ignored; there for code that passes the context of a deployment.
        """
        args = self._args()
        return [] if args is None else args

    def _args(self) -> list[str] | None:
        if self.args is not None:
            return super()._args()
        args = ["c0", "--port", str(self.get_port().port), "--prometheus_port", "9092"]
        modules = [_module(path) for path in self.include]
        return [*args, "--modules", *modules] if modules else args


def _module(path: str) -> str:
    return posixpath.normpath(path).removesuffix(".py").replace("/", ".")
