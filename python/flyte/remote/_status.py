"""States of an app, with the protocol's numbers."""

from __future__ import annotations

from enum import IntEnum


class DeploymentStatus(IntEnum):
    """What an app is doing.

    Example:
        >>> DeploymentStatus(7) is DeploymentStatus.ACTIVE
        True
        >>> str(DeploymentStatus.ACTIVE)
        'ACTIVE'
    """

    UNSPECIFIED = 0
    UNASSIGNED = 1
    ASSIGNED = 2
    PENDING = 3
    STOPPED = 4
    STARTED = 5
    FAILED = 6
    ACTIVE = 7
    SCALING_UP = 8
    SCALING_DOWN = 9
    DEPLOYING = 10

    def __str__(self) -> str:
        return self.name


class DesiredState(IntEnum):
    """What an app is meant to be doing.

    Example:
        >>> str(DesiredState.STOPPED)
        'STOPPED'
    """

    UNSPECIFIED = 0
    STOPPED = 1
    STARTED = 2
    ACTIVE = 3

    def __str__(self) -> str:
        return self.name
