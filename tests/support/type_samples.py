"""A table with a column of every type, and the values that must come through unaltered.

SAMPLES: column -> (type, Hypothesis strategy of what Postgres is given, as text).
"""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    Uuid,
)
from sqlalchemy.dialects.postgresql import (
    BIT,
    CIDR,
    DATERANGE,
    INET,
    INT4RANGE,
    JSONB,
    MACADDR,
    NUMMULTIRANGE,
    REAL,
    TSTZRANGE,
)
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """The declarative base."""


def signed(bits: int) -> st.SearchStrategy[str]:
    limit = 1 << bits - 1
    return st.one_of(
        st.sampled_from([-limit, limit - 1, 0, -1]), st.integers(-limit, limit - 1)
    ).map(str)


def digits(precision: int, scale: int) -> st.SearchStrategy[str]:
    limit = 10**precision - 1
    integers = st.one_of(st.sampled_from([limit, -limit, 0, 1]), st.integers(-limit, limit))
    return integers.map(lambda number: f"{number}e-{scale}")


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
DAYS = st.dates(date(1900, 1, 1), date(2299, 12, 31))
SECONDS = st.one_of(
    st.sampled_from([datetime(1969, 12, 31, 23, 59, 59, 500_000), datetime(1900, 1, 1)]),
    st.datetimes(datetime(1900, 1, 1), datetime(2299, 12, 31, 23, 59, 59, 999_999)),
)
FLOATS = st.one_of(st.sampled_from(["NaN", "Infinity", "-Infinity", "-0"]), st.floats().map(repr))
JSONS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
).map(json.dumps)


def array(elements: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def written(items: list[str | None]) -> str:
        parts = [
            "NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
            for item in items
        ]
        return "{" + ",".join(parts) + "}"

    return st.lists(st.one_of(st.none(), elements), max_size=4).map(written)


SAMPLES: dict[str, tuple[Any, st.SearchStrategy[str]]] = {
    "small": (SmallInteger, signed(16)),
    "whole": (Integer, signed(32)),
    "big": (BigInteger, signed(64)),
    "exact": (Numeric(38, 12), digits(38, 12)),
    "widest": (Numeric(76, 30), digits(76, 30)),
    "cents": (Numeric(10, 2), digits(10, 2)),
    "thousands": (Numeric(5, -3), signed(16).map(lambda text: f"{text}000")),
    "free": (Numeric, st.one_of(st.just("NaN"), digits(100, 40))),
    "double": (Float, FLOATS),
    "single": (REAL, st.floats(width=32).map(repr)),
    "yes": (Boolean, st.sampled_from(["true", "false"])),
    "short": (String(20), TEXT),
    "long": (Text, st.one_of(TEXT, st.just("x" * 2500))),
    "day": (Date, DAYS.map(str)),
    "daytime": (Time, st.one_of(st.just("24:00:00"), st.times().map(str))),
    "moment": (DateTime, SECONDS.map(str)),
    "instant": (DateTime(timezone=True), SECONDS.map(lambda at: f"{at}+00")),
    "length": (Interval, st.timedeltas().map(lambda d: f"{d.days} days {d.seconds} seconds")),
    "identity": (Uuid, st.uuids().map(str)),
    "choice": (Enum("a", "b'\"", "ü", name="sample_choice"), st.sampled_from(["a", "b'\"", "ü"])),
    "raw": (LargeBinary, st.binary(max_size=20).map(lambda data: f"\\x{data.hex()}")),
    "document": (JSONB, JSONS.filter(lambda text: "\\u0000" not in text)),
    "kept": (JSON, st.one_of(JSONS, st.sampled_from(["1e400", '{"a":1.10, "a":2}']))),
    "numbers": (ARRAY(Integer), array(signed(32))),
    "words": (ARRAY(Text), array(TEXT)),
    "instants": (ARRAY(DateTime(timezone=True)), array(SECONDS.map(lambda at: f"{at}+00"))),
    "amounts": (ARRAY(Numeric(12, 3)), array(digits(12, 3))),
    "address": (INET, st.ip_addresses().map(str)),
    "network": (CIDR, st.ip_addresses(v=4).map(lambda address: f"{address}/32")),
    "card": (MACADDR, st.just("08:00:2b:01:02:03")),
    "bits": (BIT(4), st.sampled_from(["1010", "0000"])),
    "span": (INT4RANGE, st.sampled_from(["[1,5)", "empty", "(,3)"])),
    "days": (DATERANGE, st.just("[2026-01-01,2026-02-01)")),
    "spell": (TSTZRANGE, st.just("[2026-01-01 00:00:00+00,)")),
    "spans": (NUMMULTIRANGE, st.just("{[1,2),[3.5,4)}")),
}

_COLUMNS: list[Column[Any]] = [Column("id", BigInteger, primary_key=True, autoincrement=False)]
for _name, (_type, _) in SAMPLES.items():
    _nullable = not isinstance(_type, ARRAY)
    _COLUMNS.append(Column(_name, _type, nullable=_nullable))


class Sample(Base):
    """A row with every type."""

    __table__ = Table("samples", Base.metadata, *_COLUMNS)


def rows() -> st.SearchStrategy[list[dict[str, str | None]]]:
    """Rows as Postgres is given them."""
    columns = {
        name: strategy if isinstance(kind, ARRAY) else st.one_of(st.none(), strategy)
        for name, (kind, strategy) in SAMPLES.items()
    }
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=6)


# Stored as their Postgres text.
AS_TEXT = frozenset(
    "free daytime length choice document kept address network card bits span days spell"
    " spans".split()
)
