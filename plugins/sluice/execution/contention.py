"""Contention: retries of a step that lost to another run of itself.

Concurrent drains and rebuilds lose nothing: one advances, the others raise StaleCheckpoint or
StaleRebuild and have less to do when they are retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sluice.errors import StaleCheckpoint, StaleRebuild

T = TypeVar("T")
# Seconds. A step that loses for longer has a fault that needs a person.
PATIENCE = 600.0
_SHORTEST, _LONGEST = 0.05, 2.0


def until_done(step: Callable[[], T], patience: float | None = None) -> T:
    """Run a step; retry it, after a pause, while another run of it comes first.

    Args:
        patience: seconds. Default: PATIENCE.

    Raises:
        StaleCheckpoint, StaleRebuild: another run came first for as long.
    """
    deadline, pause = time.monotonic() + (PATIENCE if patience is None else patience), _SHORTEST
    while True:
        try:
            return step()
        except (StaleCheckpoint, StaleRebuild):
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
