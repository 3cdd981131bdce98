"""Live rows in ClickHouse behind a resync's fence: their keys, and what they sum up to.

A key is a JSON object for an event, in the form that the relay gives its values, and beside it the
text that both sides write of it (`comparison`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sluice.adapters.clickhouse import ClickHouse, external_table
from sluice.catalog import Column, Table
from sluice.comparison import (
    clickhouse_as_of,
    clickhouse_checksum,
    clickhouse_key_part,
    clickhouse_range,
    clickhouse_row,
)
from sluice.generate.clickhouse import quoted
from sluice.selection import Selection

_KEYS_AT_ONCE = 10_000


def live_keys_below(
    clickhouse: ClickHouse, table: Table, selection: Selection, version: int
) -> dict[str, str]:
    """Keys of live selected rows below the version: text -> JSON object."""
    values = ", ".join(map(_json, table.key))
    query = (
        f"SELECT {clickhouse_row(table.key)}, {values} FROM cdc.{quoted(table.storage)} FINAL"
        " WHERE _version < {version:UInt128}"
    )
    if not selection.keys:
        where, bounds = clickhouse_range(table.key, selection)
        return _objects(table, clickhouse.execute(query + where, version=version, **bounds))
    found: dict[str, str] = {}
    for start in range(0, len(selection.keys), _KEYS_AT_ONCE):
        wanted = _wanted(table.key, selection.keys[start : start + _KEYS_AT_ONCE])
        rows = clickhouse.execute(query + _among(table.key), version=version, external=[wanted])
        found |= _objects(table, rows)
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


def _json(column: Column) -> str:
    """SQL of a key's part as JSON: a number as it is, bytes in base64, anything else as text."""
    name, kind = quoted(column.name), column.type
    if kind.clickhouse.startswith(("Int", "UInt", "Float")):
        return f"toString({name})"
    if kind.clickhouse.startswith("Decimal"):
        return f"toJSONString(toString({name}))"
    return f"toJSONString(base64Encode({name}))" if kind.zero == b"" else f"toJSONString({name})"


def _among(key: Sequence[Column]) -> str:
    own = ", ".join(quoted(column.name) for column in key)
    parts = ", ".join(clickhouse_key_part(f"part{at}", column) for at, column in enumerate(key))
    return f" AND ({own}) IN (SELECT {parts} FROM wanted)"


def _wanted(key: Sequence[Column], keys: Sequence[Sequence[str]]) -> Any:
    structure = [(f"part{at}", "String") for at, _ in enumerate(key)]
    return external_table("wanted", structure, list(keys))
