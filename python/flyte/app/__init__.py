"""Declare apps: `AppEnvironment` and the small types that describe one.

Example:
    >>> from flyte.app import AppEnvironment, Scaling
    >>> env = AppEnvironment(name="hello", args="python main.py", scaling=Scaling(replicas=(0, 3)))
"""

from __future__ import annotations

from .._lazy import hooks as _hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._serving import DeployedAppEnvironment as DeployedAppEnvironment
    from . import extras as extras
    from ._connector import ConnectorEnvironment as ConnectorEnvironment
    from ._context import AppContext as AppContext
    from ._context import ctx as ctx
    from ._environment import AppEnvironment as AppEnvironment
    from ._parameter import AppEndpoint as AppEndpoint
    from ._parameter import ArtifactValue as ArtifactValue
    from ._parameter import Parameter as Parameter
    from ._parameter import RunOutput as RunOutput
    from ._runtime_parameters import get_parameter as get_parameter
    from ._types import Domain as Domain
    from ._types import Link as Link
    from ._types import Port as Port
    from ._types import Scaling as Scaling
    from ._types import Subdomain as Subdomain
    from ._types import Timeouts as Timeouts

_NAMES = {
    "AppContext": "flyte.app._context",
    "AppEndpoint": "flyte.app._parameter",
    "AppEnvironment": "flyte.app._environment",
    "ArtifactValue": "flyte.app._parameter",
    "ConnectorEnvironment": "flyte.app._connector",
    "DeployedAppEnvironment": "flyte._serving",
    "Domain": "flyte.app._types",
    "Link": "flyte.app._types",
    "Parameter": "flyte.app._parameter",
    "Port": "flyte.app._types",
    "RunOutput": "flyte.app._parameter",
    "Scaling": "flyte.app._types",
    "Subdomain": "flyte.app._types",
    "Timeouts": "flyte.app._types",
    "ctx": "flyte.app._context",
    "get_parameter": "flyte.app._runtime_parameters",
}

# Hidden from type checkers, which would take every misspelled name for one that exists.
if not TYPE_CHECKING:
    __getattr__, __dir__ = _hooks("flyte.app", _NAMES, ("extras",))

__all__ = [
    "AppContext",
    "AppEndpoint",
    "AppEnvironment",
    "ArtifactValue",
    "ConnectorEnvironment",
    "DeployedAppEnvironment",
    "Domain",
    "Link",
    "Parameter",
    "Port",
    "RunOutput",
    "Scaling",
    "Subdomain",
    "Timeouts",
    "ctx",
    "get_parameter",
]
