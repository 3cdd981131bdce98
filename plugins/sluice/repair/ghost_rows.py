"""Reads live rows in ClickHouse below a resync's fence: their keys, and their checksum.

A key is given as the JSON object of an event, in the relay's format, and as the text that both
sides produce for comparison (`row_text`).
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

_KEYS_PER_QUERY = 10_000


def live_keys_below(
    clickhouse: ClickHouse, table: Table, selection: Selection, version: int
) -> dict[str, str]:
    """Return the keys of live selected rows below the version: text -> JSON object."""
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
    objects: dict[str, str] = {}
    for start in range(0, len(selection.keys), _KEYS_PER_QUERY):
        keys = wanted(table.key, selection.keys[start : start + _KEYS_PER_QUERY])
        selected = f"{query} AND {among(table.key)}"
        objects |= _objects(table, clickhouse.execute(selected, version=version, external=[keys]))
    return objects


def checksum_below(
    clickhouse: ClickHouse, table: Table, selection: Selection, version: int
) -> tuple[int, int]:
    """Return the number of live rows of a range as of the version, and their checksum."""
    where, bounds = clickhouse_range(table.key, selection)
    ((count, total),) = clickhouse.execute(
        f"SELECT count(), sum({clickhouse_checksum(table.columns)})\n"
        f"FROM (\n{clickhouse_as_of(table, where)}\n)",
        fence=version,
        **bounds,
    )
    return int(count), int(total)


def _objects(table: Table, rows: Sequence[Sequence[str]]) -> dict[str, str]:
    names = [json.dumps(column.name) for column in table.key]
    return {
        text: "{"
        + ",".join(f"{name}:{value}" for name, value in zip(names, row, strict=True))
        + "}"
        for text, *row in rows
    }
