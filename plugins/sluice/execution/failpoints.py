"""Where a run stands between two effects, told as it is reached: tests kill it at each."""

from __future__ import annotations

from collections.abc import Callable

Reached = Callable[[str], None]


def go_on(_: str) -> None:
    """Nobody waits for the point."""
