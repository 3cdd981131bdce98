"""Selections of a table's rows: all, a range of keys, or given keys."""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from uuid import UUID

from sluice.catalog import Column, Table
from sluice.data_types.mapping import OUTPUT
from sluice.errors import WrongUsage
from sluice.events.event import KeyText

_RANGE = "keys from "
_INTEGER = re.compile(r"(U?)Int(\d+)")
_NUMBER = re.compile("-?[0-9]{1,40}")
# PostgreSQL's and ClickHouse's text of dates and timestamps.
_MOMENT = re.compile("[0-9]{4,}-[0-9]{2}-[0-9]{2}|-?infinity$")
_COMPARED = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A selection of rows by key, with keys in PostgreSQL's text form. Default: all rows.

    Attributes:
        lower, upper: inclusive bounds. Text and UUIDs are ordered by their bytes.
        below: exclusive upper bound, in place of `upper`.
        keys: exactly these keys, if there are any.
    """

    lower: KeyText | None = None
    upper: KeyText | None = None
    below: KeyText | None = None
    keys: tuple[KeyText, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether all rows are selected."""
        return self.bounds() == [] and not self.keys

    def bounds(self) -> list[tuple[str, KeyText]]:
        """Return (SQL operator, bound) of each bound."""
        signs = ((">=", self.lower), ("<=", self.upper), ("<", self.below))
        return [(sign, bound) for sign, bound in signs if bound is not None]

    def holds(self, table: Table, key: KeyText) -> bool:
        """Whether the row of a key is selected."""
        if self.keys:
            return key in self.keys
        own = _ordered(table, key)
        return all(_COMPARED[sign](own, _ordered(table, bound)) for sign, bound in self.bounds())

    def empty(self, table: Table) -> bool:
        """Whether the bounds exclude one another; false where the keys' order is not known."""
        if self.lower is None or self.upper is None or not numbered(table):
            return False
        return _ordered(table, self.lower) > _ordered(table, self.upper)

    def sentence(self) -> str:
        """Describe the selection in words."""
        if self.everything:
            return "all rows"
        if self.keys:
            return f"{len(self.keys)} keys"
        lower = "the first" if self.lower is None else key_text(self.lower)
        if self.below is not None:
            return f"{_RANGE}{lower} to before {key_text(self.below)}"
        upper = "the last" if self.upper is None else key_text(self.upper)
        return f"{_RANGE}{lower} to {upper}"


def without_bounds(sentence: str) -> str:
    """A selection in words, without the keys that bound it."""
    return "a range of keys" if sentence.startswith(_RANGE) else sentence


def ordered_as_text(column: Column) -> bool:
    """Whether PostgreSQL and ClickHouse order the column alike only by its text."""
    return column.type.clickhouse in {"String", "UUID"}


def divisible(table: Table) -> bool:
    """Whether both sides agree on the order of the table's keys and on their text."""
    return all(
        column.type.clickhouse.startswith(("Int", "UInt"))
        or column.type.clickhouse == "UUID"
        or (column.type.clickhouse == "String" and column.type.postgres_text == OUTPUT)
        for column in table.key
    )


def numbered(table: Table) -> bool:
    """Whether keys are integers, so that PostgreSQL's index gives a range of them cheaply.

    Rows of neighbouring UUIDs are scattered, and most collations order text differently.
    """
    return all(column.type.clickhouse.startswith(("Int", "UInt")) for column in table.key)


def _ordered(table: Table, key: KeyText) -> list[Decimal | bytes]:
    """Convert a key's parts to values that compare as in PostgreSQL."""
    return [
        Decimal(part)
        if column.type.clickhouse.startswith(("Int", "UInt", "Decimal", "Float"))
        else part.encode()
        for column, part in zip(table.key, key, strict=True)
    ]


def key_text(parts: Sequence[object]) -> str:
    """Format a key as one line of CSV; see parse_key."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(parts)
    return out.getvalue()


def parse_key(table: Table, text: str) -> KeyText:
    """Parse a key from one line of CSV.

    Raises:
        WrongUsage: it has another number of parts than the key.
    """
    try:
        parts = tuple(next(csv.reader([text]), []))
    except csv.Error:  # a line break outside of quotes
        parts = ()
    if len(parts) != len(table.key):
        names = ", ".join(column.name for column in table.key)
        raise WrongUsage(f"{table.name}: {text!r} is not a key; a key is: {names}")
    return parts


def typed_key(table: Table, text: str) -> KeyText:
    """Parse a key of which each part can be a value of its column.

    Raises:
        WrongUsage: a part cannot, or see parse_key.
    """
    key = parse_key(table, text)
    for column, part in zip(table.key, key, strict=True):
        if not _is_value(column.type.clickhouse, part):
            raise WrongUsage(
                f"{table.name}: {text!r} is not a key: {column.name} is {column.postgres_type}"
            )
    return key


def _is_value(kind: str, text: str) -> bool:
    """Whether a text can be a value of a ClickHouse type; true where only the server knows."""
    integer = _INTEGER.fullmatch(kind)
    if integer:
        unsigned, bits = bool(integer[1]), int(integer[2])
        least = 0 if unsigned else -(1 << bits - 1)
        return bool(_NUMBER.fullmatch(text)) and least <= int(text) < least + (1 << bits)
    if kind.startswith(("Date", "DateTime")):
        return bool(_MOMENT.match(text))
    try:
        if kind == "UUID":
            UUID(text)
        elif kind.startswith(("Decimal", "Float")):
            Decimal(text)
    except (ValueError, InvalidOperation):
        return False
    return True
