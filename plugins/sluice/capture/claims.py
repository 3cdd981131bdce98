"""Claims on active runs: advisory locks in PostgreSQL, which end with their process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sluice.capture import slot as slots
from sluice.settings import PostgresSettings


@contextmanager
def claims(settings: PostgresSettings) -> Iterator[Callable[[str], bool]]:
    """Open a session for claims, which end with the context.

    It yields a function that claims a run by its hexadecimal id; False where another process did.
    """
    with slots.session(settings) as cursor:

        def claim(run: str) -> bool:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [int(run[:15], 16)])
            return bool(cursor.fetchone()[0])

        yield claim
