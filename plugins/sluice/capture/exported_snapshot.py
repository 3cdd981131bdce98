"""A snapshot of PostgreSQL at an exact point of the WAL, exported by a temporary slot."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from sluice.capture.holders import holders
from sluice.errors import NotReady
from sluice.events.positions import parse_lsn
from sluice.settings import RelaySettings

# Seconds that a snapshot waits for earlier transactions.
PATIENCE = 60.0
_FIND = "look at pg_stat_activity and pg_prepared_xacts, for a standby on its primary"


def export_snapshot(holder: Any, cursor: Any, relay: RelaySettings) -> tuple[str, int]:
    """Begin a transaction on `cursor` that sees exactly the commits before an LSN.

    Waits for running transactions.

    Args:
        holder: a replication session; the WAL after the LSN is kept until it ends.

    Returns:
        The temporary slot that keeps the WAL, and the LSN.

    Raises:
        NotReady: an open transaction did not end within PATIENCE, or no slot is left.
    """
    temporary = f"{relay.slot[:40]}_snapshot_{holder.connection.info.backend_pid}"
    with _patience(holder, cursor):
        try:
            holder.execute(
                f'CREATE_REPLICATION_SLOT "{temporary}" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT'
            )
        except psycopg2.errors.ConfigurationLimitExceeded as error:
            raise NotReady(
                "PostgreSQL has no replication slot left for a snapshot",
                remedy="raise max_replication_slots, drop unused slots, or lower"
                " SLUICE_COPY_READERS; then run it again",
            ) from error
    _, point, exported, _ = holder.fetchone()
    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    cursor.execute("SET TRANSACTION SNAPSHOT %s", [exported])
    return temporary, parse_lsn(point)


@contextmanager
def _patience(holder: Any, cursor: Any) -> Iterator[None]:
    timer = threading.Timer(PATIENCE, holder.connection.cancel)
    timer.start()
    try:
        yield
    except psycopg2.errors.QueryCanceled as error:
        own = [session.connection.info.backend_pid for session in (holder, cursor)]
        transactions = holders(cursor, own)
        named = "; ".join(what for what, _ in transactions) or "none that this server shows"
        remedies = "; ".join(remedy for _, remedy in transactions)
        raise NotReady(
            f"PostgreSQL created no slot in {PATIENCE:.0f} s, as a transaction is open: {named}",
            remedy=f"{remedies or _FIND}; then run it again",
        ) from error
    finally:
        timer.cancel()
