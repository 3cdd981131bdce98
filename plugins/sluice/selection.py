"""Which rows of a table are meant: all, those of a range of keys, or those of some keys."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sluice.catalog import Column, Table
from sluice.errors import WrongUsage
from sluice.events import KeyText


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows by their key, each part of a key in PostgreSQL's text form; all rows by default.

    Attributes:
        lower, upper: bounds, both included. Text and UUIDs are ordered by their bytes.
        keys: exactly these, when there are any.
    """

    lower: KeyText | None = None
    upper: KeyText | None = None
    keys: tuple[KeyText, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether all rows are meant."""
        return self.lower is None and self.upper is None and not self.keys

    def holds(self, table: Table, key: KeyText) -> bool:
        """Whether a row of this key is selected."""
        if self.keys:
            return key in self.keys
        own = _ordered(table, key)
        return (self.lower is None or _ordered(table, self.lower) <= own) and (
            self.upper is None or own <= _ordered(table, self.upper)
        )

    def sentence(self) -> str:
        """The selection in words."""
        if self.everything:
            return "all rows"
        if self.keys:
            return f"{len(self.keys)} keys"
        lower = "the first" if self.lower is None else ",".join(self.lower)
        upper = "the last" if self.upper is None else ",".join(self.upper)
        return f"keys from {lower} to {upper}"


def ordered_as_text(column: Column) -> bool:
    """Whether Postgres and ClickHouse agree on the column's order by its text alone."""
    return column.type.clickhouse in {"String", "UUID"}


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
    parts = tuple(next(csv.reader([text]), []))
    if len(parts) != len(table.key):
        names = ", ".join(column.name for column in table.key)
        raise WrongUsage(f"{table.name}: {text!r} is not a key; a key is: {names}")
    return parts
