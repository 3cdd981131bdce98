"""Contention: a step that lost to another run of itself is run again, until it is done.

Runs of drains and rebuilds beside each other lose nothing: one advances, the others raise
StaleCheckpoint or StaleRebuild and find less to do when they run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sluice.errors import StaleCheckpoint, StaleRebuild

T = TypeVar("T")
# Seconds. A rival that keeps winning for so long is a fault that somebody has to look at.
PATIENCE = 600.0
_SHORTEST, _LONGEST = 0.05, 2.0


def until_done(step: Callable[[], T]) -> T:
    """Run a step again, after a pause, as long as another run of it comes first.

    Raises:
        StaleCheckpoint, StaleRebuild: another run came first each time for PATIENCE.
    """
    deadline, pause = time.monotonic() + PATIENCE, _SHORTEST
    while True:
        try:
            return step()
        except (StaleCheckpoint, StaleRebuild):
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
