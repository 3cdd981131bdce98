"""Compares single rows of PostgreSQL and ClickHouse, column by column, as both have them now.

Unlike a check it waits for no drain: a change that is on its way shows as a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import takewhile
from typing import Any

from sluice.capture.row_reader import row_texts
from sluice.catalog import Column, Table
from sluice.catalog.key_selection import key_text
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource, limit_statements
from sluice.events.event import KeyText
from sluice.generate.clickhouse import quoted
from sluice.generate.row_text import among, clickhouse_key, clickhouse_row, clickhouse_text, wanted

MOST_COMPARED = 20  # rows of one request
LONGEST = 200  # characters shown of a value
_READ = 10_000  # characters read of a value
_BEFORE = 40  # characters shown before the first one that differs
_SECONDS = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Starts of ClickHouse's types whose texts count these units since 1970.
_UNITS = (("DateTime64", timedelta(microseconds=1)), ("DateTime(", timedelta(seconds=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedValue:
    """The texts of one column on both sides; None for NULL or a missing row.

    They are in the form that the deep check compares, but moments are dates and times. Long texts
    are shortened to the part that differs first.
    """

    column: str
    postgres: str | None
    clickhouse: str | None
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One row on both sides.

    Attributes:
        in_postgres, in_clickhouse: whether the side has the row.
        equal: whether both sides have the same, or neither has the row.
    """

    key: str
    in_postgres: bool
    in_clickhouse: bool
    equal: bool
    values: tuple[ComparedValue, ...]

    @property
    def differing(self) -> tuple[ComparedValue, ...]:
        """The columns that differ."""
        return tuple(value for value in self.values if value.differs)


_ABSENT = partial(ComparedRow, in_postgres=False, in_clickhouse=False, equal=True, values=())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """A row of one side: its key, the starts of its columns' texts, and the texts' checksums."""

    key: KeyText
    starts: Sequence[str | None]
    sums: Sequence[str | None]


def compare_rows(
    source: PostgresSource, clickhouse: ClickHouse, table: Table, keys: Sequence[KeyText]
) -> tuple[ComparedRow, ...]:
    """Return the rows of these keys on both sides, in the order of the keys.

    Cost: a look at the key's index on each side.

    Raises:
        Unreachable, NotReady: a side does not answer in time.
    """
    if not keys:
        return ()
    postgres = _in_postgres(source, table, keys)
    stored = _in_clickhouse(clickhouse, table, keys)
    found = [_compared(table, postgres.get(key), stored.get(key)) for key in {**postgres, **stored}]
    rows = {row.key: row for row in found}
    names = [key_text(key) for key in keys]
    if len(rows) == len(found) and not rows.keys() - set(names):  # else a key was written unusually
        rows |= {name: _ABSENT(key=name) for name in names if name not in rows}
        return tuple(rows[name] for name in dict.fromkeys(names))
    return tuple(found)


def _in_postgres(source: PostgresSource, table: Table, keys: Sequence[KeyText]) -> dict[str, _Side]:
    with source.connect() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        limit_statements(cursor, _SECONDS)
        cursor.execute("SET LOCAL row_security = off")  # an error instead of fewer rows
        rows = row_texts(cursor, table, keys, _READ)
        cursor.execute("COMMIT")
    return {
        text: _Side(key=key, starts=[_readable(start) for start in starts], sums=sums)
        for text, (key, starts, sums) in rows.items()
    }


def _in_clickhouse(
    clickhouse: ClickHouse, table: Table, keys: Sequence[KeyText]
) -> dict[str, _Side]:
    texts = [f"CAST({clickhouse_text(column)} AS Nullable(String))" for column in table.columns]
    starts = ", ".join(f"toValidUTF8(leftUTF8({text}, {_READ}))" for text in texts)
    sums = ", ".join(f"lower(hex(MD5({text})))" for text in texts)
    rows = clickhouse.execute(
        f"SELECT {clickhouse_row(table.key)}, [{clickhouse_key(table.key)}], [{starts}], [{sums}]"
        f" FROM cdc.{quoted(table.storage)} FINAL WHERE {among(table.key)}",
        external=[wanted(table.key, keys)],
    )
    return {
        text: _Side(key=tuple(key), starts=starts, sums=sums) for text, key, starts, sums in rows
    }


def _readable(text: str | None) -> str | None:
    return None if text is None else bytes.fromhex(text).decode(errors="replace")


def _compared(table: Table, postgres: _Side | None, stored: _Side | None) -> ComparedRow:
    side = postgres or stored
    assert side is not None  # one of them has the row
    values = tuple(
        _value(column, _at(postgres, at), _at(stored, at))
        for at, column in enumerate(table.columns)
    )
    both = postgres is not None and stored is not None
    return ComparedRow(
        key=key_text(side.key),
        in_postgres=postgres is not None,
        in_clickhouse=stored is not None,
        equal=both and not any(value.differs for value in values),
        values=values,
    )


def _at(side: _Side | None, at: int) -> tuple[str | None, str | None]:
    return (side.starts[at], side.sums[at]) if side else (None, None)


def _value(
    column: Column, postgres: tuple[str | None, str | None], stored: tuple[str | None, str | None]
) -> ComparedValue:
    (left, left_sum), (right, right_sum) = postgres, stored
    unit = next((unit for start, unit in _UNITS if column.type.clickhouse.startswith(start)), None)
    if unit:
        left, right = _moment(left, unit), _moment(right, unit)
    begin = max(0, alike(left or "", right or "") - _BEFORE)
    return ComparedValue(
        column=column.name,
        postgres=_shortened(left, begin),
        clickhouse=_shortened(right, begin),
        differs=left_sum != right_sum,
    )


def _moment(text: str | None, unit: timedelta) -> str | None:
    """Return a number of units since 1970 as date and time; any other text as it is."""
    try:
        return str(_EPOCH + int(text or "") * unit)
    except (ValueError, OverflowError):  # infinity, or what only one side can store
        return text


def alike(left: str, right: str) -> int:
    """Return the number of characters with which both texts begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right)))  # noqa: B905


def _shortened(text: str | None, begin: int) -> Any:
    """Return at most LONGEST characters, from `begin` on where the text is longer."""
    if text is None or len(text) <= LONGEST:
        return text
    begin = min(begin, len(text) - LONGEST)
    part = text[begin : begin + LONGEST]
    return f"{'…' if begin else ''}{part}{'…' if begin + LONGEST < len(text) else ''}"
