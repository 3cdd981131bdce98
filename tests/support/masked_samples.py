"""The samples of every type in tables whose columns are masked."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from sqlalchemy import ARRAY, CHAR, BigInteger, Boolean, Column, Date, Enum, String, Table
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import UserDefinedType

from sluice.data_types.masks import HASH, REDACT
from tests.support.type_samples import SAMPLES


class Base(DeclarativeBase):
    """The declarative base."""


class Point(UserDefinedType[str]):
    """A type without a mapping."""

    def get_col_spec(self, **_: Any) -> str:
        return "point"


MASKED: dict[str, tuple[Any, st.SearchStrategy[str]]] = {
    **SAMPLES,
    "padded": (CHAR(8), st.sampled_from(["a", "a       ", "ü b", ""])),
    "spot": (Point, st.sampled_from(["(1,2)", "(-0.5,1e20)"])),
}
FEW_VALUES = (Boolean, Enum)


def mask_of(name: str) -> str:
    """The mask of a column of the table that is hashed where that is possible."""
    kind = MASKED[name][0]
    few = kind in FEW_VALUES or isinstance(kind, FEW_VALUES)
    return REDACT if few else HASH


def _table(name: str, masks: dict[str, str]) -> Table:
    columns: list[Column[Any]] = [
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("note", String),
        Column("seen", Date),
    ]
    for column, (kind, _) in MASKED.items():
        nullable = not isinstance(kind, ARRAY)
        columns.append(Column(column, kind, nullable=nullable, info={"mask": masks[column]}))
    return Table(name, Base.metadata, *columns)


HASHES = {name: mask_of(name) for name in MASKED}
CONSTANTS = dict.fromkeys(MASKED, REDACT)


class Hashed(Base):
    """A row with every type, hashed where that is possible."""

    __table__ = _table("hashed", HASHES)


class Redacted(Base):
    """A row with every type, redacted."""

    __table__ = _table("redacted", CONSTANTS)


def rows() -> st.SearchStrategy[list[dict[str, str | None]]]:
    """Rows as Postgres is given them."""
    columns = {
        name: strategy if isinstance(kind, ARRAY) else st.one_of(st.none(), strategy)
        for name, (kind, strategy) in MASKED.items()
    }
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=4)
