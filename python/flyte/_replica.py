"""Whether this process is a replica of an app.

A replica runs the user's declarations a second time, on a machine where the files they name may be
absent. Declarations ask here before they look for one.
"""

from __future__ import annotations

import os


def in_replica() -> bool:
    """Return whether declarations must not look for files."""
    return bool(os.environ.get("_FLYTE_IN_REPLICA"))
