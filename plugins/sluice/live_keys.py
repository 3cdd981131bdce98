"""Live rows in ClickHouse behind a resync's fence: their keys, and what they sum up to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sluice.adapters.clickhouse import ClickHouse, external_table
from sluice.catalog import Column, Table
from sluice.comparison import clickhouse_as_of, clickhouse_checksum, clickhouse_range
from sluice.generate.clickhouse import quoted
from sluice.selection import Selection

_KEYS_AT_ONCE = 10_000


def live_keys_below(
    clickhouse: ClickHouse, table: Table, selection: Selection, version: int
) -> list[str]:
    """Keys, as JSON objects, of live selected rows below the version."""
    values = ", ".join(f"toJSONString({quoted(column.name)})" for column in table.key)
    query = (
        f"SELECT {values} FROM cdc.{quoted(table.storage)} FINAL"
        " WHERE _version < {version:UInt128}"
    )
    if not selection.keys:
        where, bounds = clickhouse_range(table.key, selection)
        return _objects(table, clickhouse.execute(query + where, version=version, **bounds))
    found: list[str] = []
    for start in range(0, len(selection.keys), _KEYS_AT_ONCE):
        wanted = _wanted(table.key, selection.keys[start : start + _KEYS_AT_ONCE])
        rows = clickhouse.execute(query + _among(table.key), version=version, external=[wanted])
        found += _objects(table, rows)
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


def _objects(table: Table, rows: Sequence[Sequence[str]]) -> list[str]:
    names = [json.dumps(column.name) for column in table.key]
    return [
        "{" + ",".join(f"{name}:{value}" for name, value in zip(names, row, strict=True)) + "}"
        for row in rows
    ]


def _among(key: Sequence[Column]) -> str:
    own = ", ".join(quoted(column.name) for column in key)
    cast = ", ".join(f"CAST(part{at} AS {column.type.clickhouse})" for at, column in enumerate(key))
    return f" AND ({own}) IN (SELECT {cast} FROM wanted)"


def _wanted(key: Sequence[Column], keys: Sequence[Sequence[str]]) -> Any:
    structure = [(f"part{at}", "String") for at, _ in enumerate(key)]
    return external_table("wanted", structure, list(keys))
