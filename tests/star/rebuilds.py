"""A rebuild of any kind, which may be killed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sluice.errors import StaleRebuild, WrongUsage
from sluice.star.rebuild import Rebuild
from tests.star.store import day


class KilledError(Exception):
    """The rebuild ends here."""


def run(rebuild: Rebuild, kind: str) -> None:
    """One rebuild, which may find that it came too late or has nothing to go back to."""
    calls: dict[str, Callable[[], Any]] = {
        "incremental": rebuild.run,
        "full": lambda: rebuild.run(full=True),
        "days": lambda: rebuild.backfill(day(0), day(2)),
        "rollback": rebuild.rollback,
    }
    with suppress(StaleRebuild, WrongUsage):
        calls[kind]()
