"""The same rows on both sides as the same text: SQL for their checksums, buckets and keys.

A row's text is its columns' texts, each text-like one behind its length, so that no value can be
taken for two. Its checksum is the first 60 bits of the text's MD5, which both sides have; a
bucket's is their number and their sum modulo 2^64, in which no two errors of equal rows cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sluice.catalog import Column, Table
from sluice.catalog.key_selection import Selection, ordered_as_text
from sluice.data_types.mapping import OUTPUT
from sluice.errors import WrongUsage
from sluice.events.event import KeyText
from sluice.generate.clickhouse import external_table, quoted

_MODULUS = 1 << 64
_LIMIT = 1 << 63  # of bigint
WIDEST_STEP = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """How rows are divided: by ranges of one integer key, else by the hash of the key's text.

    Attributes:
        step: the width of a range, or 0.
        count: how many buckets by hash.
    """

    step: int = 0
    count: int = 1

    def postgres(self, table: Table) -> str:
        """The bucket of a row."""
        if self.step:
            return f"({postgres_name(table.key[0])} / {self.step})"
        text = postgres_row(table.key)
        return f"(('x' || substr(md5({text}), 1, 4))::bit(16)::int % {self.count})"

    def clickhouse(self, table: Table) -> str:
        """The bucket of a row."""
        if self.step:
            return f"intDiv({quoted(table.key[0].name)}, {self.step})"
        text = clickhouse_row(table.key)
        return f"(reinterpretAsUInt16(reverse(substring(MD5({text}), 1, 2))) % {self.count})"

    def postgres_condition(self, table: Table, bucket: int) -> str:
        """Rows of one bucket; of a range by the key's index."""
        return self._range(postgres_name(table.key[0]), bucket) or (
            f"{self.postgres(table)} = {bucket}"
        )

    def clickhouse_condition(self, table: Table, bucket: int) -> str:
        """Rows of one bucket; of a range by the key's index."""
        return self._range(quoted(table.key[0].name), bucket) or (
            f"{self.clickhouse(table)} = {bucket}"
        )

    def _range(self, name: str, bucket: int) -> str:
        if not self.step:
            return ""
        first, last = bucket * self.step, bucket * self.step  # division goes towards zero
        if bucket >= 0:
            last += self.step - 1
        if bucket <= 0:
            first -= self.step - 1
        return f"{name} BETWEEN {max(first, -_LIMIT)} AND {min(last, _LIMIT - 1)}"


def postgres_name(column: Column) -> str:
    """A column's name as PostgreSQL reads it."""
    escaped = column.name.replace('"', '""')
    return f'"{escaped}"'


def postgres_text(column: Column) -> str:
    """The text of a column; NULL where it is NULL."""
    return column.type.postgres_text.replace("{}", postgres_name(column))


def clickhouse_text(column: Column) -> str:
    """The text of a column; NULL where it is NULL."""
    name = quoted(column.name)
    if not column.nullable:
        return column.type.clickhouse_text.replace("{}", name)
    text = column.type.clickhouse_text.replace("{}", f"assumeNotNull({name})")
    return f"if(isNull({name}), NULL, {text})"


def postgres_row(columns: Sequence[Column]) -> str:
    """The text of a row, or of its key."""
    parts = []
    for column in columns:
        text = postgres_text(column)
        if column.type.clickhouse == "String":
            text = f"octet_length({text}) || ':' || {text}"
        parts.append(f"coalesce({text}, '~')")
    return "(" + " || ',' || ".join(parts) + ")"


def clickhouse_row(columns: Sequence[Column]) -> str:
    """The text of a row, or of its key."""
    parts = []
    for column in columns:
        name = quoted(column.name)
        inner = f"assumeNotNull({name})" if column.nullable else name
        text = column.type.clickhouse_text.replace("{}", inner)
        if column.type.clickhouse == "String":
            text = f"concat(toString(length({text})), ':', {text})"
        parts.append(f"if(isNull({name}), '~', {text})" if column.nullable else text)
    separated = ", ',', ".join(parts)
    return f"concat({separated}, '')"


def postgres_key(columns: Sequence[Column]) -> str:
    """The texts of a key's columns, as PostgreSQL writes and reads them."""
    return ", ".join(f"concat({postgres_name(column)})" for column in columns)


def clickhouse_key(columns: Sequence[Column]) -> str:
    """The texts of a key's columns, as PostgreSQL reads them."""
    return ", ".join(_literal(column) for column in columns)


def _literal(column: Column) -> str:
    return column.type.clickhouse_literal.replace("{}", quoted(column.name))


def among(key: Sequence[Column]) -> str:
    """The condition that a row's key is one of those in `wanted`, by the key's index."""
    own = ", ".join(quoted(column.name) for column in key)
    stored = ", ".join(
        column.type.to_storage.replace("{}", f"part{at}") for at, column in enumerate(key)
    )
    return f"({own}) IN (SELECT {stored} FROM wanted)"


def wanted(key: Sequence[Column], keys: Sequence[KeyText]) -> Any:
    """The external table `wanted` of keys; without those that no stored row can have."""
    structure = [(f"part{at}", column.wire_type) for at, column in enumerate(key)]
    rows = []
    for parts in keys:
        with suppress(ValueError):
            rows.append([one.type.from_text(part) for one, part in zip(key, parts, strict=True)])
    return external_table("wanted", structure, rows)


def postgres_checksum(columns: Sequence[Column]) -> str:
    """The checksum of a row."""
    return f"('x' || substr(md5({postgres_row(columns)}), 1, 15))::bit(60)::bigint"


def clickhouse_checksum(columns: Sequence[Column]) -> str:
    """The checksum of a row."""
    digest = f"reverse(substring(MD5({clickhouse_row(columns)}), 1, 8))"
    return f"bitShiftRight(reinterpretAsUInt64({digest}), 4)"


def same_sum(postgres: int, clickhouse: int) -> bool:
    """Whether an exact sum is one that wrapped at 2^64."""
    return postgres % _MODULUS == clickhouse % _MODULUS


def clickhouse_as_of(table: Table, among: str = "") -> str:
    """Live rows as of `{fence:UInt128}`: current state, and history where it has moved on.

    Args:
        among: of these keys alone, a condition that begins with AND.
    """
    storage, history = f"cdc.{quoted(table.storage)}", f"cdc.{quoted(table.history)}"
    columns = ", ".join(quoted(column.name) for column in table.columns)
    key = ", ".join(quoted(column.name) for column in table.key)
    return (
        f"SELECT {columns} FROM {storage} FINAL WHERE _version < {{fence:UInt128}}{among}\n"
        f"UNION ALL\nSELECT {columns} FROM (\n"
        f"    SELECT * FROM {history}\n"
        f"    WHERE _version < {{fence:UInt128}}{among} AND ({key}) IN (\n"
        f"        SELECT {key} FROM {storage} WHERE _version >= {{fence:UInt128}}{among}\n"
        f"    )\n    ORDER BY _version DESC LIMIT 1 BY {key}\n) WHERE _is_deleted = 0"
    )


def clickhouse_range(key: Sequence[Column], selection: Selection) -> tuple[str, dict[str, Any]]:
    """The condition of a range of keys, beginning with AND, and its parameters.

    The first part of the key is compared by itself as well: ClickHouse's index reads no tuple.
    """
    own = [_ordered(column) for column in key]
    text, parameters = "", dict[str, Any]()
    for number, (sign, bound) in enumerate(selection.bounds()):
        names = [f"bound{number}_{at}" for at in range(len(key))]
        places = [_place(*pair) for pair in zip(key, names, strict=True)]
        parameters.update(zip(names, map(_parameter, key, bound), strict=True))
        if len(key) == 1:
            text += f" AND {own[0]} {sign} {places[0]}"
        else:
            text += f" AND {own[0]} {sign[0]}= {places[0]}"
            text += f" AND tuple({', '.join(own)}) {sign} tuple({', '.join(places)})"
    return text, parameters


def _ordered(column: Column) -> str:
    """What ClickHouse orders as PostgreSQL orders the column; of text the index serves."""
    stored = column.type.postgres_text == OUTPUT or not ordered_as_text(column)
    return quoted(column.name) if stored else _literal(column)


def _place(column: Column, parameter: str) -> str:
    place = f"{{{parameter}:String}}"
    if ordered_as_text(column):
        return place
    return column.type.to_storage.replace("{}", f"CAST({place} AS {column.wire_type})")


def _parameter(column: Column, bound: str) -> str:
    """A bound as `_place` takes it."""
    try:
        return bound if ordered_as_text(column) else str(column.type.from_text(bound))
    except ValueError:
        raise WrongUsage(
            f"{bound!r} bounds no range of {column.name}, which ClickHouse has as"
            f" {column.type.clickhouse}",
            remedy="write it as PostgreSQL does, within what ClickHouse's type holds",
        ) from None
