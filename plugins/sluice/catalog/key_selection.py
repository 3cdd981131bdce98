"""Which rows of a table are meant: all, those of a range of keys, or those of some keys."""

from __future__ import annotations

import csv
import io
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sluice.catalog import Column, Table
from sluice.data_types.mapping import OUTPUT
from sluice.errors import WrongUsage
from sluice.events.event import KeyText

_COMPARED = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows by their key, each part of a key in PostgreSQL's text form; all rows by default.

    Attributes:
        lower, upper: bounds, both included. Text and UUIDs are ordered by their bytes.
        below: a bound that is not included; with it there is no upper one.
        keys: exactly these, when there are any.
    """

    lower: KeyText | None = None
    upper: KeyText | None = None
    below: KeyText | None = None
    keys: tuple[KeyText, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether all rows are meant."""
        return self.bounds() == [] and not self.keys

    def bounds(self) -> list[tuple[str, KeyText]]:
        """Each bound behind the SQL sign that holds it."""
        signs = ((">=", self.lower), ("<=", self.upper), ("<", self.below))
        return [(sign, bound) for sign, bound in signs if bound is not None]

    def holds(self, table: Table, key: KeyText) -> bool:
        """Whether a row of this key is selected."""
        if self.keys:
            return key in self.keys
        own = _ordered(table, key)
        return all(_COMPARED[sign](own, _ordered(table, bound)) for sign, bound in self.bounds())

    def sentence(self) -> str:
        """The selection in words."""
        if self.everything:
            return "all rows"
        if self.keys:
            return f"{len(self.keys)} keys"
        lower = "the first" if self.lower is None else key_text(self.lower)
        if self.below is not None:
            return f"keys from {lower} to before {key_text(self.below)}"
        upper = "the last" if self.upper is None else key_text(self.upper)
        return f"keys from {lower} to {upper}"


def ordered_as_text(column: Column) -> bool:
    """Whether Postgres and ClickHouse agree on the column's order by its text alone."""
    return column.type.clickhouse in {"String", "UUID"}


def divisible(table: Table) -> bool:
    """Whether both sides agree on the order of the table's keys and on what their text means."""
    return all(
        column.type.clickhouse.startswith(("Int", "UInt"))
        or column.type.clickhouse == "UUID"
        or (column.type.clickhouse == "String" and column.type.postgres_text == OUTPUT)
        for column in table.key
    )


def numbered(table: Table) -> bool:
    """Whether keys are made of integers: then PostgreSQL's index gives a range of them cheaply.

    Rows of neighbouring UUIDs lie anywhere, and text is ordered otherwise by most collations.
    """
    return all(column.type.clickhouse.startswith(("Int", "UInt")) for column in table.key)


def _ordered(table: Table, key: KeyText) -> list[Decimal | bytes]:
    """A key's parts, so that they compare as PostgreSQL's do."""
    return [
        Decimal(part)
        if column.type.clickhouse.startswith(("Int", "UInt", "Decimal", "Float"))
        else part.encode()
        for column, part in zip(table.key, key, strict=True)
    ]


def key_text(parts: Sequence[object]) -> str:
    """A key as people write it; see parse_key."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(parts)
    return out.getvalue()


def parse_key(table: Table, text: str) -> KeyText:
    """A key as people write it: its parts separated by commas, quoted as in CSV.

    Raises:
        WrongUsage: it has not as many parts as the key.
    """
    try:
        parts = tuple(next(csv.reader([text]), []))
    except csv.Error:  # a line break that is not within quotes
        parts = ()
    if len(parts) != len(table.key):
        names = ", ".join(column.name for column in table.key)
        raise WrongUsage(f"{table.name}: {text!r} is not a key; a key is: {names}")
    return parts
