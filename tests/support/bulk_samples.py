"""Tables whose columns try what bulk rows may alter: every type by profile, override and array.

Each column has values that the drain stores, and edges of which it rejects some.
"""

from __future__ import annotations

from collections.abc import Collection
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
from sqlalchemy.dialects.postgresql import INET, JSONB, REAL
from sqlalchemy.orm import DeclarativeBase

from tests.support.type_samples import (
    DAYS,
    FLOATS,
    JSONS,
    SAMPLES,
    SECONDS,
    TEXT,
    array,
    digits,
    signed,
)

HOSTILE = st.sampled_from(
    [
        "\\N",
        "\\",
        "\t",
        "\n",
        "\r\n",
        "a\\tb",
        "",
        "\x01\x7f\x0b\x08\x0c",
        "'\"`",
        "😀é\u2028",
        "NULL",
    ]
)
WORDS = st.one_of(TEXT, HOSTILE)
EDGES: dict[str, list[str]] = {
    "small": ["-32768", "32767"],
    "big": ["-9223372036854775808", "9223372036854775807"],
    "exact": ["NaN", "0.000000000001"],
    "widest": ["NaN", "-1e-30"],
    "cents": ["NaN", "-99999999.99", "0.005"],
    "free": ["NaN", "Infinity", "-Infinity", "1e400", "1e-400", "0.1" + "0" * 40],
    "double": [
        "NaN",
        "-Infinity",
        "-0",
        "5e-324",
        "1.7976931348623157e308",
        "2.2250738585072011e-308",
    ],
    "single": ["NaN", "Infinity", "-0", "1e-45", "3.4028235e38", "1.17549435e-38", "16777217"],
    "short": ["\\N", "\\\\", "a\tb\nc\rd", "\\x41", "NULL", ""],
    "long": ["\\N", "\\.", "\\t", "😀" * 500],
    "day": [
        "infinity",
        "-infinity",
        "0044-03-15 BC",
        "1899-12-31",
        "1900-01-01",
        "2299-12-31",
        "2300-01-01",
    ],
    "moment": [
        "infinity",
        "-infinity",
        "1899-12-31 23:59:59.999999",
        "1900-01-01",
        "1969-12-31 23:59:59.999999",
        "2299-12-31 23:59:59.999999",
        "2300-01-01",
        "0001-01-01 BC",
        "1970-01-01",
        "2106-02-07 06:28:15.999999",
        "2106-02-07 06:28:16",
    ],
    "instant": [
        "infinity",
        "1899-12-31 23:59:59.999999+00",
        "2299-12-31 23:59:59.5+00",
        "9999-12-31+00",
        "2026-03-29 02:30:00+02",
    ],
    "daytime": ["24:00:00", "00:00:00.000001"],
    "length": ["-1 mons +2 days -03:04:05.6", "178000000 years"],
    "raw": ["\\x", "\\x00", "\\x5c4e", "\\x0a0d09", "\\xff"],
    "document": ['"\\\\N"', "null", "[1, 2.0, 1e5]", '"\\t"'],
    "kept": [
        '{"a":1.10, "a":2}',
        " [ 1 ,\n 2 ] ",
        '"\\ud800"',
        '"\\u0000"',
        "1e400",
        "[" * 300 + "]" * 300,
    ],
    "numbers": ["[0:1]={1,2}", "{{1,2},{3,4}}", "{}", "{NULL}", "{-2147483648,2147483647}"],
    "words": ['{"NULL",NULL,"","\\\\N","a\\"b","{}"}', "[2:2]={a}", "{{a}}", '{"\\t\\n\\\\"}'],
    "instants": ["{infinity}", "{1899-12-31 23:59:59+00}", "{NULL,1969-12-31 23:59:59.5+00}"],
    "amounts": ["{NaN}", "{-999999999.999,NULL}"],
    "address": ["10.0.0.1/8", "::1", "10.0.0.1"],
    "span": ["empty", "(,)", "[-2147483648,3)"],
}
# More than the samples have: arrays of every element, of two dimensions, and nullable ones.
ARRAYS: dict[str, tuple[Any, st.SearchStrategy[str], list[str]]] = {
    "smalls": (ARRAY(SmallInteger), array(signed(16)), ["{-32768}"]),
    "bigs": (ARRAY(BigInteger), array(signed(64)), ["{9223372036854775807,-9223372036854775808}"]),
    "doubles": (ARRAY(Float), array(FLOATS), ["{NaN,-0,5e-324,1.7976931348623157e308,Infinity}"]),
    "singles": (ARRAY(REAL), array(st.floats(width=32).map(repr)), ["{NaN,-0,1e-45,3.4028235e38}"]),
    "flags": (ARRAY(Boolean), array(st.sampled_from(["t", "f"])), []),
    "days_": (ARRAY(Date), array(DAYS.map(str)), ["{infinity}", "{1899-12-31}", "{2300-01-01}"]),
    "moments": (ARRAY(DateTime), array(SECONDS.map(str)), ["{-infinity}", "{2300-01-01}"]),
    "times": (ARRAY(Time), array(st.times().map(str)), ["{24:00:00}"]),
    "lengths": (ARRAY(Interval), array(st.just("1 day -3 seconds")), []),
    "identities": (ARRAY(Uuid), array(st.uuids().map(str)), []),
    "choices": (
        ARRAY(Enum("a", "b'\"", "ü", name="bulk_choice")),
        array(st.sampled_from(["a", "b'\"", "ü"])),
        [],
    ),
    "raws": (ARRAY(LargeBinary), array(st.just("\\x00ff")), []),
    "documents": (
        ARRAY(JSONB),
        array(JSONS.filter(lambda text: "\\u0000" not in text)),
        ['{"[1, 2.0]","\\"a\\"","null"}'],
    ),
    "kepts": (ARRAY(JSON), array(JSONS), ['{" [ 1 ,2.10]","1e400"}']),
    "frees": (ARRAY(Numeric), array(digits(60, 20)), ["{NaN}", "{1e400}", "{Infinity}", "{0.10}"]),
    "wides": (ARRAY(Numeric(76, 30)), array(digits(76, 30)), ["{NaN}"]),
    "addresses": (ARRAY(INET), array(st.ip_addresses().map(str)), ["{10.0.0.1/8,::1}"]),
    "shorts": (ARRAY(String(9)), array(st.text("ab \\\"'{}\n", max_size=9)), []),
    "grids": (
        ARRAY(Integer, dimensions=2),
        st.just("{{1,NULL},{3,4}}"),
        ["{1}", "{}", "{{{1}}}", "[0:0][1:1]={{1}}", "[1:1][0:0]={{1}}"],
    ),
    "pages": (ARRAY(Text, dimensions=2), st.just('{{"a","\\\\N"},{NULL,""}}'), []),
}
NULLABLE: dict[str, tuple[Any, st.SearchStrategy[str], list[str]]] = {
    "numbers_": (ARRAY(Integer), array(signed(32)), ["[0:1]={1,2}", "{{1},{2}}"]),
    "words_": (ARRAY(Text), array(TEXT), ['{"\\\\N",NULL}']),
}
# Column -> type, mark, values.
OVERRIDDEN: dict[str, tuple[Any, str, st.SearchStrategy[str]]] = {
    "id32": (Integer, "UInt32", st.integers(0, 2**31 - 1).map(str)),
    "tiny": (SmallInteger, "Int8", st.integers(-128, 127).map(str)),
    "wide": (SmallInteger, "Int64", signed(16)),
    "huge": (BigInteger, "UInt64", st.integers(0, 2**63 - 1).map(str)),
    "word": (Text, "LowCardinality(String)", WORDS),
}


def with_edges(strategy: st.SearchStrategy[str], edges: list[str]) -> st.SearchStrategy[str]:
    return st.one_of(strategy, st.sampled_from(edges)) if edges else strategy


# Column -> its type, whether it is nullable, its values.
Columns = dict[str, tuple[Any, bool, st.SearchStrategy[str]]]
COLUMNS: Columns = {
    **{
        name: (kind, not isinstance(kind, ARRAY), with_edges(strategy, EDGES.get(name, [])))
        for name, (kind, strategy) in SAMPLES.items()
    },
    **{
        name: (kind, False, with_edges(values, edges))
        for name, (kind, values, edges) in ARRAYS.items()
    },
    **{
        name: (kind, True, with_edges(values, edges))
        for name, (kind, values, edges) in NULLABLE.items()
    },
}


def declare(module: str, left_out: Collection[str] = ()) -> tuple[Any, Any]:
    """A model of every column but some, `everything`, and one of every mark, `marked`."""
    base = type("Base", (DeclarativeBase,), {"__module__": module})

    def model(name: str, listed: list[Column[Any]]) -> Any:
        key = Column("id", BigInteger, primary_key=True, autoincrement=False)
        table = Table(name.lower(), base.metadata, key, *listed)  # type: ignore[attr-defined]
        return type(name, (base,), {"__module__": module, "__table__": table})

    everything = [
        Column(name, kind, nullable=null)
        for name, (kind, null, _) in COLUMNS.items()
        if name not in left_out
    ]
    marked = [
        Column(name, kind, info={"clickhouse_type": mark}, nullable=name != "word")
        for name, (kind, mark, _) in OVERRIDDEN.items()
    ]
    return model("Everything", everything), model("Marked", marked)


class Rows(list[dict[str, str | None]]):
    """Rows that are too many to be printed."""

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"


def rows(columns: Columns) -> st.SearchStrategy[Rows]:
    """Rows of which most have one column with any of its values, the others NULL or empty."""
    plain = {name: None if null else "{}" for name, (_, null, _) in columns.items()}

    def one(name: str) -> st.SearchStrategy[dict[str, str | None]]:
        return columns[name][2].map(lambda value: {**plain, name: value})

    whole = st.fixed_dictionaries(
        {name: st.one_of(st.none(), v) if null else v for name, (_, null, v) in columns.items()}
    )
    single = st.sampled_from(list(columns)).flatmap(one)
    return st.lists(st.one_of(single, single, single, whole), min_size=20, max_size=60).map(Rows)
