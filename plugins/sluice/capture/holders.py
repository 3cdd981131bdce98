"""Transactions that a new slot has to wait for, in all databases, prepared ones included.

The creation of a slot waits for every transaction of the cluster that has changed something. A
session's is in pg_stat_activity. A prepared transaction has no session, and stays until it is ended
by its name. A role without the right to see other users' sessions does not see since when.
"""

from __future__ import annotations

from typing import Any

_HOLDERS = """
SELECT format('transaction %%L, prepared by %%s in database %%s %%s ago', gid, owner, database,
        justify_interval(date_trunc('second', clock_timestamp() - prepared))),
    format('connect to database %%I and run COMMIT PREPARED %%L, or ROLLBACK PREPARED %%L',
        database, gid, gid), prepared
FROM pg_prepared_xacts
UNION ALL
SELECT format('pid %%s of %%s in database %%s%%s%%s', pid, usename, datname,
        coalesce(', open for ' || justify_interval(
            date_trunc('second', clock_timestamp() - xact_start)), ''),
        coalesce(', ' || nullif(state, '') || ' since ' || to_char(
            greatest(query_start, state_change) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
            || ' UTC: ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 80), '')),
    format('let it end, or run SELECT pg_terminate_backend(%%s)', pid), xact_start
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> ALL(%s)
ORDER BY 3 NULLS LAST LIMIT 3
"""


def holders(cursor: Any, own: list[int]) -> list[tuple[str, str]]:
    """Return (description, remedy) of the oldest transactions that a slot waits for.

    Args:
        own: pids of the caller's sessions, which are left out.
    """
    cursor.execute(_HOLDERS, [own])
    return [(what, remedy) for what, remedy, _ in cursor.fetchall()]
