"""Claims on runs that are at work: locks in PostgreSQL, which end with their process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sluice.capture import slot as slots
from sluice.settings import PostgresSettings


@contextmanager
def claims(settings: PostgresSettings) -> Iterator[Callable[[str], bool]]:
    """What claims a run by its id, a hexadecimal text; False where another process has claimed it.

    Claims end with the context.
    """
    with slots.session(settings) as cursor:

        def claim(run: str) -> bool:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [int(run[:15], 16)])
            return bool(cursor.fetchone()[0])

        yield claim
