"""Live rows in ClickHouse behind a resync's fence: their keys, and what they sum up to.

A key is a JSON object for an event, in the form that the relay gives its values, and beside it the
text that both sides write of it (`comparison`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection
from sluice.clients.clickhouse import ClickHouse
from sluice.generate.clickhouse import quoted
from sluice.generate.row_text import (
    among,
    clickhouse_as_of,
    clickhouse_checksum,
    clickhouse_range,
    clickhouse_row,
    wanted,
)

_KEYS_AT_ONCE = 10_000


def live_keys_below(
    clickhouse: ClickHouse, table: Table, selection: Selection, version: int
) -> dict[str, str]:
    """Keys of live selected rows below the version: text -> JSON object."""
    values = ", ".join(
        column.type.clickhouse_json.replace("{}", quoted(column.name)) for column in table.key
    )
    query = (
        f"SELECT {clickhouse_row(table.key)}, {values} FROM cdc.{quoted(table.storage)} FINAL"
        " WHERE _version < {version:UInt128}"
    )
    if not selection.keys:
        where, bounds = clickhouse_range(table.key, selection)
        return _objects(table, clickhouse.execute(query + where, version=version, **bounds))
    found: dict[str, str] = {}
    for start in range(0, len(selection.keys), _KEYS_AT_ONCE):
        keys = wanted(table.key, selection.keys[start : start + _KEYS_AT_ONCE])
        among_them = f"{query} AND {among(table.key)}"
        found |= _objects(table, clickhouse.execute(among_them, version=version, external=[keys]))
    return found


def checksum_below(
    clickhouse: ClickHouse, table: Table, selection: Selection, version: int
) -> tuple[int, int]:
    """How many rows of a range are live as of the version, and the sum of their checksums."""
    where, bounds = clickhouse_range(table.key, selection)
    found = clickhouse.execute(
        f"SELECT count(), sum({clickhouse_checksum(table.columns)})\n"
        f"FROM (\n{clickhouse_as_of(table, where)}\n)",
        fence=version,
        **bounds,
    )
    count, total = found[0]
    return int(count), int(total)


def _objects(table: Table, rows: Sequence[Sequence[str]]) -> dict[str, str]:
    names = [json.dumps(column.name) for column in table.key]
    return {
        text: "{"
        + ",".join(f"{name}:{value}" for name, value in zip(names, row, strict=True))
        + "}"
        for text, *row in rows
    }
