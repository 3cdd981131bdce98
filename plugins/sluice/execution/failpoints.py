"""Failpoints: named places between two effects of a run, at which tests kill it."""

from __future__ import annotations

from collections.abc import Callable

Reached = Callable[[str], None]


def ignore(_: str) -> None:
    """Ignore a failpoint."""
