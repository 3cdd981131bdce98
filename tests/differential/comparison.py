"""A comparison that shares no code with Sluice: what COPY prints beside what ClickHouse prints."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

from tests.differential.relations import Relation

Rows = dict[tuple[Any, ...], tuple[Any, ...]]
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "\\": "\\"}


def printed(cursor: Any, relation: Relation) -> Rows:
    """PostgreSQL's rows by key, read from what COPY prints."""
    fields = relation.modelled()
    names = ", ".join(each.quoted for each in fields)
    output = StringIO()
    cursor.copy_expert(f"COPY (SELECT {names} FROM {relation.own}) TO STDOUT", output)
    rows = {}
    for line in output.getvalue().split("\n")[:-1]:
        texts = [None if part == r"\N" else _unescaped(part) for part in line.split("\t")]
        row = {
            each.name: None if text is None else each.variety.postgres_value(text)
            for each, text in zip(fields, texts, strict=True)
        }
        rows[tuple(str(row[name]) for name in relation.key)] = tuple(row.values())
    return rows


def _unescaped(text: str) -> str:
    parts = iter(text)
    return "".join(_ESCAPES[next(parts)] if part == "\\" else part for part in parts)


def stored(query: Callable[[str], list[tuple[Any, ...]]], storage: str, relation: Relation) -> Rows:
    """ClickHouse's rows by key, read from what its functions print."""
    fields = relation.modelled()
    places = [quoted(each.name) for each in fields]
    listed = ", ".join(
        each.variety.clickhouse.replace("{}", place)
        for each, place in zip(fields, places, strict=True)
    )
    nothing = ", ".join(f"isNull({place})" for place in places)
    rows = {}
    for found in query(f"SELECT {listed}, {nothing} FROM cdc.{quoted(storage)} FINAL"):
        row = {
            each.name: None if absent else each.variety.clickhouse_value(text)
            for each, text, absent in zip(
                fields, found[: len(fields)], found[len(fields) :], strict=True
            )
        }
        rows[tuple(str(row[name]) for name in relation.key)] = tuple(row.values())
    return rows


def quoted(name: str) -> str:
    return "`{}`".format(name.replace("\\", "\\\\").replace("`", "\\`"))
