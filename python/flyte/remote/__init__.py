"""What exists on the control plane: apps that were served before.

Example:
    >>> from flyte.remote import App
    >>> app = App.get("my-app")     # doctest: +SKIP
    >>> app.is_active()             # doctest: +SKIP
    True
"""

from __future__ import annotations

from ._app import App
from ._auth_metadata import auth_metadata
from ._status import DeploymentStatus, DesiredState

__all__ = ["App", "DeploymentStatus", "DesiredState", "auth_metadata"]
