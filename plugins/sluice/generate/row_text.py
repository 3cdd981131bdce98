"""SQL that gives a row the same text on both sides, for checksums, buckets and keys.

A row's text is its columns' texts, with a length before each string, so that different rows have
different texts. Its checksum is the first 60 bits of the text's MD5, which both sides have. A
bucket's checksum is the number of rows and the sum of theirs modulo 2^64; unlike with XOR, two
equal errors do not cancel.
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
    """A division of rows: by ranges of a single integer key, else by the hash of the key's text.

    Attributes:
        step: width of a range. Default: 0, for hashes.
        count: number of buckets by hash. Default: 1.
    """

    step: int = 0
    count: int = 1

    def postgres(self, table: Table) -> str:
        """Return SQL of a row's bucket."""
        if self.step:
            return f"({postgres_name(table.key[0])} / {self.step})"
        text = postgres_row(table.key)
        return f"(('x' || substr(md5({text}), 1, 4))::bit(16)::int % {self.count})"

    def clickhouse(self, table: Table) -> str:
        """Return SQL of a row's bucket."""
        if self.step:
            return f"intDiv({quoted(table.key[0].name)}, {self.step})"
        text = clickhouse_row(table.key)
        return f"(reinterpretAsUInt16(reverse(substring(MD5({text}), 1, 2))) % {self.count})"

    def postgres_condition(self, table: Table, bucket: int) -> str:
        """Return the condition of a bucket's rows; a range uses the key's index."""
        return self._range(postgres_name(table.key[0]), bucket) or (
            f"{self.postgres(table)} = {bucket}"
        )

    def clickhouse_condition(self, table: Table, bucket: int) -> str:
        """Return the condition of a bucket's rows; a range uses the key's index."""
        return self._range(quoted(table.key[0].name), bucket) or (
            f"{self.clickhouse(table)} = {bucket}"
        )

    def _range(self, name: str, bucket: int) -> str:
        if not self.step:
            return ""
        first, last = bucket * self.step, bucket * self.step  # division truncates towards zero
        if bucket >= 0:
            last += self.step - 1
        if bucket <= 0:
            first -= self.step - 1
        return f"{name} BETWEEN {max(first, -_LIMIT)} AND {min(last, _LIMIT - 1)}"


def postgres_name(column: Column) -> str:
    """Quote a column's name for PostgreSQL."""
    escaped = column.name.replace('"', '""')
    return f'"{escaped}"'


def postgres_text(column: Column) -> str:
    """Return SQL of a column's text; NULL where it is NULL."""
    return column.type.postgres_text.replace("{}", postgres_name(column))


def clickhouse_text(column: Column) -> str:
    """Return SQL of a column's text; NULL where it is NULL."""
    name = quoted(column.name)
    if not column.nullable:
        return column.type.clickhouse_text.replace("{}", name)
    text = column.type.clickhouse_text.replace("{}", f"assumeNotNull({name})")
    return f"if(isNull({name}), NULL, {text})"


def postgres_row(columns: Sequence[Column]) -> str:
    """Return SQL of the text of a row, or of its key."""
    parts = []
    for column in columns:
        text = postgres_text(column)
        if column.type.clickhouse == "String":
            text = f"octet_length({text}) || ':' || {text}"
        parts.append(f"coalesce({text}, '~')")
    return "(" + " || ',' || ".join(parts) + ")"


def clickhouse_row(columns: Sequence[Column]) -> str:
    """Return SQL of the text of a row, or of its key."""
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
    """Return SQL of a key's texts, as PostgreSQL writes and reads them."""
    return ", ".join(f"concat({postgres_name(column)})" for column in columns)


def clickhouse_key(columns: Sequence[Column]) -> str:
    """Return SQL of a key's texts, as PostgreSQL reads them."""
    return ", ".join(_literal(column) for column in columns)


def _literal(column: Column) -> str:
    return column.type.clickhouse_literal.replace("{}", quoted(column.name))


def among(key: Sequence[Column]) -> str:
    """Return the condition that a row's key is in `wanted`, by the key's index."""
    own = ", ".join(quoted(column.name) for column in key)
    stored = ", ".join(
        column.type.to_storage.replace("{}", f"part{at}") for at, column in enumerate(key)
    )
    return f"({own}) IN (SELECT {stored} FROM wanted)"


def wanted(key: Sequence[Column], keys: Sequence[KeyText]) -> Any:
    """Return the external table `wanted` of keys, without keys that no stored row can have."""
    structure = [(f"part{at}", column.wire_type) for at, column in enumerate(key)]
    rows = []
    for parts in keys:
        with suppress(ValueError):
            rows.append([c.type.from_text(part) for c, part in zip(key, parts, strict=True)])
    return external_table("wanted", structure, rows)


def postgres_checksum(columns: Sequence[Column]) -> str:
    """Return SQL of a row's checksum."""
    return f"('x' || substr(md5({postgres_row(columns)}), 1, 15))::bit(60)::bigint"


def clickhouse_checksum(columns: Sequence[Column]) -> str:
    """Return SQL of a row's checksum."""
    digest = f"reverse(substring(MD5({clickhouse_row(columns)}), 1, 8))"
    return f"bitShiftRight(reinterpretAsUInt64({digest}), 4)"


def same_sum(postgres: int, clickhouse: int) -> bool:
    """Whether an exact sum equals one that wrapped at 2^64."""
    return postgres % _MODULUS == clickhouse % _MODULUS


def clickhouse_as_of(table: Table, among: str = "") -> str:
    """Return the query of live rows as of `{fence:UInt128}`, from current state and history.

    Args:
        among: condition on the keys, beginning with AND. Default: all keys.
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
    """Return a key range's condition, beginning with AND, and its parameters.

    The key's first column is compared by itself as well, as ClickHouse's index ignores tuples.
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
    """Return an expression that ClickHouse orders like PostgreSQL; for text the index serves."""
    stored = column.type.postgres_text == OUTPUT or not ordered_as_text(column)
    return quoted(column.name) if stored else _literal(column)


def _place(column: Column, parameter: str) -> str:
    place = f"{{{parameter}:String}}"
    if ordered_as_text(column):
        return place
    return column.type.to_storage.replace("{}", f"CAST({place} AS {column.wire_type})")


def _parameter(column: Column, bound: str) -> str:
    """Convert a bound to the parameter of `_place`."""
    try:
        return bound if ordered_as_text(column) else str(column.type.from_text(bound))
    except ValueError:
        raise WrongUsage(
            f"{bound!r} bounds no range of {column.name}, which ClickHouse has as"
            f" {column.type.clickhouse}",
            remedy="write it as PostgreSQL does, within what ClickHouse's type holds",
        ) from None
