"""Reads the end of PostgreSQL's WAL, which bounds the positions of events; see origin.py."""

from __future__ import annotations

from sluice.clients.postgres import TIMELINE, opened
from sluice.drain.origin import WalEnd
from sluice.events.positions import parse_lsn
from sluice.settings import PostgresSettings

# The insert LSN is at or after everything that the server has sent. A standby has no such bound:
# events of its primary may be ahead of its replay.
_WAL_END = f"""
SELECT system_identifier || '/' || {TIMELINE},
    pg_current_wal_insert_lsn()::text
FROM pg_control_system() WHERE NOT pg_is_in_recovery()
"""


def wal_end(settings: PostgresSettings) -> WalEnd | None:
    """Return the current end of the WAL; None where the server is in recovery.

    Raises:
        Unreachable: PostgreSQL does not answer.
    """
    with opened(settings) as connection, connection.cursor() as cursor:
        cursor.execute(_WAL_END)
        row = cursor.fetchone()
    return None if row is None else WalEnd(server=row[0], lsn=parse_lsn(row[1]))
