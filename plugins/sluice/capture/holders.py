"""Transactions that a new slot has to wait for: of whichever database, prepared ones among them.

Making a slot waits for every transaction of the cluster that has changed something. A session's is
in pg_stat_activity; one that was prepared for a two-phase commit has no session, and stays until
somebody ends it by its name. A role that may not see other users' sessions sees that they are
there, not since when.
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
            greatest(query_start, state_change) AT TIME ZONE 'UTC', 'HH24:MI:SS') || ' UTC: '
            || left(regexp_replace(query, '\\s+', ' ', 'g'), 80), '')),
    format('let it end, or run SELECT pg_terminate_backend(%%s)', pid), xact_start
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> ALL(%s)
ORDER BY 3 NULLS LAST LIMIT 3
"""


def holders(cursor: Any, own: list[int]) -> list[tuple[str, str]]:
    """The oldest transactions that a slot waits for: what each is, and how it ends.

    Args:
        own: sessions that are not meant, by pid.
    """
    cursor.execute(_HOLDERS, [own])
    return [(what, remedy) for what, remedy, _ in cursor.fetchall()]
