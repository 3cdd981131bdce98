"""Notes in `cdc.masks`: how the rows of each table in ClickHouse are masked.

A note is written while a table is empty, and when all its rows were read again. So a mask or key
that changed since is known before somebody compares rows. `sluice init` notes the key itself, by
its fingerprint, so that a process with another one is known before it hashes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sluice.catalog import Table
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.mask_key import hashed, key_fingerprint, require_noted_key
from sluice.generate.clickhouse import quoted
from sluice.settings import Cluster, PostgresSettings
from sluice.warehouse.evolution import stored_names

_KEY = ""  # in the place of a table: the note of the key


def require_same_key(
    clickhouse: ClickHouse, settings: PostgresSettings, tables: Sequence[Table]
) -> None:
    """Require the key that is noted, if one is and a column of these tables is hashed.

    Raises:
        NeedsPerson: it is another key, or there is none.
    """
    if any(map(hashed, tables)):
        require_noted_key(settings, tables, noted_key(clickhouse))


def noted_key(clickhouse: ClickHouse) -> str:
    """Return the fingerprint of the noted key; empty where none is noted."""
    return noted_masks(clickhouse).get(_KEY, "")


def note_key(clickhouse: ClickHouse, settings: PostgresSettings, tables: Sequence[Table]) -> None:
    """Note the key if a column of these tables is hashed."""
    own = key_fingerprint(settings, tables)
    if own and noted_key(clickhouse) != own:
        _note(clickhouse, _KEY, own)


def noted_masks(clickhouse: ClickHouse) -> Mapping[str, str]:
    """Return the newest note of each table; a table without one has no masked rows."""
    ((exists,),) = clickhouse.execute("EXISTS TABLE cdc.masks")
    if not exists:  # until `sluice init` of this version
        return {}
    return dict(
        clickhouse.execute(
            "SELECT source_table, argMax(masked_as, noted_at) FROM cdc.masks GROUP BY source_table"
        )
    )


def note_masks(clickhouse: ClickHouse, table: Table, masked_as: str) -> None:
    """Note that all rows of a table are masked like this; see mask_key.masked_as."""
    _note(clickhouse, table.name, masked_as)


def _note(clickhouse: ClickHouse, name: str, text: str) -> None:
    row = {"source_table": name, "masked_as": text, "done_by": clickhouse.person}
    clickhouse.insert_row("cdc.masks", row)


def is_empty(clickhouse: ClickHouse, table: Table) -> bool:
    """Whether ClickHouse has neither rows nor former rows of a table."""
    counts = clickhouse.execute(
        f"SELECT (SELECT count() FROM cdc.{quoted(table.storage)}),"
        f" (SELECT count() FROM cdc.{quoted(table.history)})"
    )
    return not any(counts[0])


def has_older(clickhouse: ClickHouse, table: Table, version: int) -> bool:
    """Whether a present row of a table is older than a version."""
    rows = clickhouse.execute(
        f"SELECT 1 FROM cdc.{quoted(table.storage)} FINAL WHERE _version < {{version:UInt128}}"
        " LIMIT 1",
        version=version,
    )
    return bool(rows)


def difference(table: Table, noted: str, masked_as: str, cluster: Cluster) -> tuple[str, str]:
    """Return how a table's rows are masked instead of as they should be, and what to run."""
    if noted:
        found = f"rows of {table.name} are masked in another way ({noted})"
        return found, f"run: sluice resync {table.name}"
    drops = "; ".join(f"DROP TABLE cdc.{quoted(name)}" for name in stored_names(table, cluster))
    where = f", on each server of {cluster.name}" if cluster.name else ""
    return (
        f"rows of {table.name} were stored before columns were masked ({masked_as})",
        f"run in ClickHouse{where}: {drops}; then: sluice init, sluice resync {table.name}",
    )
