"""Merges of a table's parts into one, after which FINAL has nothing to merge."""

from __future__ import annotations

from contextlib import suppress

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import Unreachable
from sluice.generate.clickhouse import quoted

# Partitions of a table on a server that are not a single merged part.
_UNMERGED = """
SELECT count() FROM (
    SELECT partition_id FROM system.parts
    WHERE database = 'cdc' AND table = {table:String} AND active
    GROUP BY partition_id HAVING count() > 1 OR max(level) = 0
)
"""


def merge(clickhouse: ClickHouse, table: str) -> bool:
    """Merge a table in `cdc` with rows of its own, on each server; return whether it was needed.

    A server that takes longer than the client's timeout continues by itself.
    """
    merged = False
    for server in clickhouse.servers():
        ((partitions,),) = server.execute(_UNMERGED, table=table)
        if partitions:
            with suppress(Unreachable):
                server.execute(f"OPTIMIZE TABLE cdc.{quoted(table)} FINAL")
            merged = True
    return merged
