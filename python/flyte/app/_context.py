"""Where an app runs, as the platform tells it through environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class AppContext:
    """Where an app runs.

    Args:
        mode: `"local"` on the local platform, `"remote"` on a cluster.
        project: project of the app.
        raw_data_path: folder or object-store prefix where the app may write data.
        domain: domain of the app, such as `"development"`.
    """

    mode: str = "remote"
    project: str = ""
    raw_data_path: str = ""
    domain: str = ""


def ctx() -> AppContext:
    """Return where this app runs; read anew at each call.

    Example:
        >>> import flyte.app
        >>> flyte.app.ctx().mode
        'remote'
    """
    return AppContext(
        mode=os.environ.get("_RUN_MODE", "remote"),
        project=os.environ.get("FLYTE_INTERNAL_EXECUTION_PROJECT", ""),
        raw_data_path=os.environ.get("_FLYTE_APP_RAW_DATA_PATH", ""),
        domain=os.environ.get("FLYTE_INTERNAL_EXECUTION_DOMAIN", ""),
    )
