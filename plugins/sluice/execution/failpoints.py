"""Failpoints: named places between two effects of a run, at which tests kill it."""

from __future__ import annotations

from collections.abc import Callable

Reached = Callable[[str], None]


def go_on(_: str) -> None:
    """Ignore a failpoint."""
