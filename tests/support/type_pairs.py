"""PostgreSQL's types, as columns have them, and the model types they are tried with.

Each type of PostgreSQL has three values, no two of them equal. Every type stands there as it is and
as a domain of a domain; arrays stand there of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase

from tests.support.type_samples import SAMPLES

TYPES: dict[str, tuple[str, str, str]] = {
    "bool": ("f", "t", "t"),
    "int2": ("-32768", "0", "32767"),
    "int4": ("-2147483648", "0", "2147483647"),
    "int8": ("-9223372036854775808", "0", "9223372036854775807"),
    "oid": ("0", "1", "4294967295"),
    "numeric": ("1.50", "NaN", "-1e40"),
    "numeric(10,2)": ("1.50", "-0.01", "99999999.99"),
    "numeric(38,12)": ("0.1", "-1", "12345678901234567890123456.000000000001"),
    "numeric(5,-3)": ("99000", "-1000", "0"),
    "numeric(2,4)": ("0.0099", "-0.0001", "0"),
    "numeric(90,5)": ("1" * 85, "-0.00001", "0"),
    "float4": ("0.1", "NaN", "-Infinity"),
    "float8": ("0.1", "NaN", "-1e-300"),
    "money": ("1.50", "-2", "0"),
    "text": ("a", " é\n\\\"'", ""),
    "varchar(6)": ("ab  ", "é,\\", ""),
    "char(6)": ("ab", "é,\\", ""),
    '"char"': ("a", "\\", "~"),
    "name": ("a b", "é", ""),
    "citext": ("A b", "é", ""),
    "pair_mood": ("sad", "b'\"", "ü"),
    "date": ("2026-01-31", "1900-01-01", "2299-12-31"),
    "time": ("00:00:00.5", "24:00:00", "12:00:00"),
    "timetz": ("00:00:00.5+02", "24:00:00+00", "12:00:00-05:30"),
    "timestamp": ("2026-01-31 12:00:00.5", "1969-12-31 23:59:59.999999", "1900-01-01"),
    "timestamptz": ("2026-01-31 12:00:00.5+03", "1969-12-31 23:59:59.999999+00", "1900-01-01+00"),
    "interval": ("1 year 2 days -3 seconds", "0", "-1 day"),
    "uuid": (
        f"{'0' * 8}-0000-0000-0000-{'0' * 12}",
        f"{'f' * 8}-ffff-4fff-8fff-{'f' * 12}",
        "1" * 32,
    ),
    "bytea": ("\\x00ff5c", "\\x616263", "\\x"),
    "json": (f'{{"a": 1.10,  "a": {"9" * 5000}}}', "[" * 3000 + "]" * 3000, '"x"'),
    "jsonb": ('{"a": 1.10}', f"[1e300, {'9' * 500}]", '"x"'),
    "xml": ("<a>1</a>", "<b/>", "x"),
    "inet": ("10.0.0.1", "10.0.0.0/8", "::1"),
    "cidr": ("10.0.0.1/32", "10.0.0.0/8", "::1/128"),
    "macaddr": ("08:00:2b:01:02:03", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"),
    "macaddr8": ("08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00", "f" * 16),
    "bit(4)": ("1010", "0000", "1111"),
    "varbit(9)": ("101", "", "1"),
    "tsvector": ("a:1 b'':2", "", "é"),
    "tsquery": ("a & b", "!a", "é"),
    "int4range": ("[1,5)", "empty", "(,3)"),
    "numrange": ("[1.10,5)", "empty", "(,3]"),
    "tstzrange": ("[2026-01-01 00:00:00+02,)", "empty", "(,)"),
    "daterange": ("[2026-01-01,2026-02-01]", "empty", "(,)"),
    "nummultirange": ("{[1,2),[3.5,4)}", "{}", "{(,)}"),
    "point": ("(1,-0)", "(0.1,1e300)", "(0,0)"),
    "pg_lsn": ("0/1", "A/FF", "0/0"),
    "hstore": ('a=>1, "b ,"=>NULL', "", '"é"=>"\\""'),
    "pair_row": ("(1,a)", "(,)", '(2,"b c")'),
}
NO_KEYS = frozenset({"json", "xml", "point"})
ARRAYS: dict[str, tuple[str, str, str]] = {
    "bool": ("{t,NULL}", "{}", "{f}"),
    "int2": ("{-32768,NULL}", "{}", "{1,2}"),
    "int4": ("{-2147483648,NULL}", "{}", "{1,2}"),
    "int8": ("{9223372036854775807,NULL}", "{}", "{1,2}"),
    "numeric(12,3)": ("{1.5,NULL}", "{}", "{-0.001}"),
    "float4": ("{0.1,NaN,NULL}", "{}", "{-Infinity}"),
    "float8": ("{0.1,NaN,NULL}", "{}", "{-1e-300}"),
    "text": ('{a,NULL,"NULL","b\\"c\\\\d",""}', "{}", "{é}"),
    "varchar(6)": ('{"ab ",NULL}', "{}", "{é}"),
    "char(6)": ("{ab,NULL}", "{}", "{é}"),
    "citext": ("{Ab,NULL}", "{}", "{é}"),
    "pair_mood": ("{sad,NULL}", "{}", "{ü}"),
    "date": ("{2026-01-31,NULL}", "{}", "{1900-01-01}"),
    "timestamp": ("{2026-01-31 12:00:00.5,NULL}", "{}", "{1900-01-01}"),
    "timestamptz": ("{2026-01-31 12:00:00.5+03,NULL}", "{}", "{1900-01-01+00}"),
    "uuid": (f"{{{'1' * 32},NULL}}", "{}", f"{{{'2' * 32}}}"),
    "bytea": ('{"\\\\x00ff",NULL}', "{}", '{"\\\\x"}'),
    "jsonb": ('{"[1.10]",NULL}', "{}", '{"{}"}'),
    "inet": ("{10.0.0.1,NULL}", "{}", "{::1}"),
}

_ITEMS: dict[str, Any] = {
    "bool": sa.Boolean(),
    "int4": sa.Integer(),
    "text": sa.Text(),
    "timestamptz": sa.DateTime(timezone=True),
    "int2": sa.SmallInteger(),
    "int8": sa.BigInteger(),
    "real": sa.REAL(),
    "double": sa.Double(),
    "padded": sa.CHAR(6),
    "short": sa.String(6),
    "mood": sa.Enum("sad", "b'\"", "ü", name="pair_mood"),
    "date": sa.Date(),
    "timestamp": sa.DateTime(),
    "uuid": sa.Uuid(),
    "bytea": sa.LargeBinary(),
    "jsonb": pg.JSONB(),
    "inet": pg.INET(),
    "price": pg.DOMAIN("pair_price", sa.Numeric(12, 3)),
}
MODELS: dict[str, Any] = {
    **{name: kind for name, (kind, _) in SAMPLES.items()},
    "real by bits": sa.Float(24),
    "double by bits": sa.Float(53),
    "double": sa.Double(),
    "digits beyond": sa.Numeric(90, 5),
    "small digits": sa.Numeric(2, 4),
    "padded": sa.CHAR(6),
    "unicode": sa.Unicode(6),
    "ignoring case": pg.CITEXT(),
    "mood": sa.Enum("sad", "b'\"", "ü", name="pair_mood"),
    "mood as text": sa.Enum("sad", "b'\"", "ü", name="other", native_enum=False),
    "uuid as text": sa.Uuid(native_uuid=False),
    "span of time": pg.INTERVAL(),
    "since 1970": sa.Interval(native=False),
    "time with zone": sa.Time(timezone=True),
    "varbit": pg.BIT(9, varying=True),
    "lexemes": pg.TSVECTOR(),
    "pairs": pg.HSTORE(),
    "card of eight": pg.MACADDR8(),
    "numrange": pg.NUMRANGE(),
    "price": pg.DOMAIN("pair_price", sa.Numeric(10, 2)),
    "pickled": sa.PickleType(),
    **{
        f"{name} list{none}": sa.ARRAY(kind)
        for none in ("", " or NULL")
        for name, kind in _ITEMS.items()
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A type that a column has in PostgreSQL.

    Attributes:
        name: how SQL names it.
        values: three values, as text.
    """

    name: str
    values: tuple[str, str, str]
    may_be_key: bool


def _kinds() -> tuple[list[str], list[Kind]]:
    """What is run before the types are there, and the types."""
    made = [
        "CREATE EXTENSION IF NOT EXISTS citext",
        "CREATE EXTENSION IF NOT EXISTS hstore",
        "CREATE TYPE pair_mood AS ENUM ('sad', 'b''\"', 'ü')",
        "CREATE TYPE pair_row AS (a int, b text)",
        "CREATE DOMAIN pair_price AS numeric(12,3)",
    ]
    kinds = []
    for number, (name, values) in enumerate(TYPES.items()):
        made += [
            f"CREATE DOMAIN pair_{number} AS {name}",
            f"CREATE DOMAIN pair_{number}_over AS pair_{number} CHECK (VALUE IS NOT NULL OR true)",
        ]
        for form in (name, f"pair_{number}_over"):
            kinds.append(Kind(name=form, values=values, may_be_key=name not in NO_KEYS))
    for number, (name, values) in enumerate(ARRAYS.items()):
        made += [
            f"CREATE DOMAIN pair_item_{number} AS {name}",
            f"CREATE DOMAIN pair_list_{number} AS pair_item_{number}[]",
        ]
        for form in (f"{name}[]", f"pair_item_{number}[]", f"pair_list_{number}"):
            kinds.append(Kind(name=form, values=values, may_be_key=False))
    kinds.append(Kind(name="pair_list_1[]", values=("{}", "{}", "{}"), may_be_key=False))
    return made, kinds


CREATED, KINDS = _kinds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A column: its type in PostgreSQL, and the name of its type in the model."""

    kind: Kind
    model: str

    @property
    def nullable(self) -> bool:
        """Whether the column takes NULL; arrays that do are text in ClickHouse."""
        return not isinstance(MODELS[self.model], sa.ARRAY) or self.model.endswith("or NULL")


def declare(
    base: type[DeclarativeBase], table: str, pairs: Sequence[Pair], key: Sequence[Pair] = ()
) -> Any:
    """A model whose columns c0, c1, ... are these pairs, behind a key k0, k1, ... or `id`."""
    columns: list[sa.Column[Any]] = [
        sa.Column(f"k{at}", MODELS[pair.model], primary_key=True) for at, pair in enumerate(key)
    ]
    if not key:
        columns = [sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)]
    for at, pair in enumerate(pairs):
        columns.append(sa.Column(f"c{at}", MODELS[pair.model], nullable=pair.nullable))
    body = {"__table__": sa.Table(table, base.metadata, *columns), "__module__": base.__module__}
    return type(table.title().replace("_", ""), (base,), body)


def create(table: str, pairs: Sequence[Pair], key: Sequence[Pair] = ()) -> str:
    """SQL that creates the table of such a model."""
    columns = [f"k{at} {pair.kind.name}" for at, pair in enumerate(key)] or ["id int"]
    names = ", ".join(column.partition(" ")[0] for column in columns)
    for at, pair in enumerate(pairs):
        required = "" if pair.nullable else " NOT NULL"
        columns.append(f"c{at} {pair.kind.name}{required}")
    return f"CREATE TABLE {table} ({', '.join(columns)}, PRIMARY KEY ({names}))"
