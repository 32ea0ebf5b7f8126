"""The logger of this package; a module of its own because `logging` is slow to import."""

from __future__ import annotations

import logging

logger = logging.getLogger("flyte")
"""Everything that this package reports goes through this logger."""
