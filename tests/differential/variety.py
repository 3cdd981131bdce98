"""Column types at random: their models, their PostgreSQL types, values, and how to compare them.

The comparison shares no code with Sluice: PostgreSQL's side is the text that COPY prints,
ClickHouse's is what its own functions print.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

LETTERS = "aé漢\\\"'{},\n\t\r \U0001f69a%$~`;-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of column.

    Attributes:
        model: the SQLAlchemy type, as Python source.
        types: PostgreSQL types that it may stand for; `{seed}` is the run's prefix.
        value: makes a value as PostgreSQL reads it.
        clickhouse: SQL that prints a stored value `{}`.
        postgres_value, clickhouse_value: read what each side printed as the same Python value.
        key: whether a primary key may be made of it.
        nullable: whether the column may be NULL; `always` where only such a column is of this kind.
        wider: a kind to which a column may be widened in place.
    """

    model: str
    types: tuple[str, ...]
    value: Callable[[random.Random], str]
    clickhouse: str = "toString({})"
    postgres_value: Callable[[str], Any] = str
    clickhouse_value: Callable[[str], Any] = str
    key: bool = False
    nullable: bool = True
    always: bool = False
    wider: str = ""


def _hex(text: str) -> str:
    return bytes.fromhex(text).decode()


def _text(model: str, *types: str, **more: Any) -> Kind:
    """A kind that is stored as its PostgreSQL text."""
    known: dict[str, Any] = {"clickhouse": "hex({})", "clickhouse_value": _hex}
    return Kind(model=model, types=types, **{**known, **more})


def _number(model: str, *types: str, bits: int = 0, **more: Any) -> Kind:
    limit = 1 << (bits - 1)
    few = [0, 1, -1, limit - 1, -limit]
    return Kind(
        model=model,
        types=types,
        value=lambda chance: str(
            chance.choice(few) if chance.random() < 0.1 else chance.randrange(-40, 40)
        ),
        postgres_value=int,
        clickhouse_value=int,
        **more,
    )


def _string(least: int, most: int, letters: str = LETTERS) -> Callable[[random.Random], str]:
    def value(chance: random.Random) -> str:
        return "".join(chance.choices(letters, k=chance.randint(least, most)))

    return value


def _long(chance: random.Random) -> str:
    """Now and then a value that PostgreSQL keeps out of line, and leaves out of updates."""
    if chance.random() < 0.3:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
    return _string(0, 30)(chance)


def _decimal(precision: int, scale: int) -> Callable[[random.Random], str]:
    most = 10**precision - 1

    def value(chance: random.Random) -> str:
        number = chance.choice([0, 1, -1, most, -most, chance.randint(-most, most)])
        return str(Decimal(number).scaleb(-scale))

    return value


def _amount(text: str) -> str:
    """A number without the zeros that one side writes behind it."""
    number = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if number == "-0" else number


def _moment(chance: random.Random) -> str:
    edges = [datetime(1969, 12, 31, 23, 59, 59, 500_000), datetime(1900, 1, 1)]
    at = datetime(1950, 1, 1) + timedelta(
        days=chance.randrange(100_000), microseconds=chance.randrange(86_400_000_000)
    )
    return str(chance.choice(edges) if chance.random() < 0.1 else at)


def _day(chance: random.Random) -> str:
    return str(date(1900, 1, 1) + timedelta(days=chance.randrange(146_000)))


def _double(chance: random.Random) -> str:
    edges = ["NaN", "Infinity", "-Infinity", "-0", "0", "5e-324", "1.7976931348623157e308"]
    return chance.choice(edges) if chance.random() < 0.3 else repr(chance.uniform(-1e9, 1e9))


def _single(text: str) -> str:
    """A float of 32 bits by its bits, NaN by name."""
    number = float(text)
    return "nan" if math.isnan(number) else struct.pack("f", number).hex()


def _whole(text: str) -> str:
    number = float(text)
    return "nan" if math.isnan(number) else struct.pack("d", number).hex()


def _at(text: str) -> str:
    """A point of time to the microsecond."""
    day, _, clock = text.removesuffix("+00").partition(" ")
    seconds, _, fraction = clock.partition(".")
    return f"{day} {seconds}.{fraction:0<6}"


def _document(chance: random.Random) -> str:
    choices: list[Any] = [None, True, 1.5, 10**30, {}, [], "text", {"a": [1, {"b": "\u00e9\n"}]}]
    return json.dumps(chance.choice(choices))


def _words(chance: random.Random) -> str:
    items = [
        json.dumps(_string(0, 3)(chance), ensure_ascii=False) for _ in range(chance.randrange(3))
    ]
    return "{" + ",".join(item.replace("\\n", "\n").replace("\\t", "\t") for item in items) + "}"


def _array(item: str, postgres: str, *values: str, read: Callable[[str], Any] = str) -> Kind:
    """An array of one dimension whose items have no comma, backslash or double quote.

    Args:
        item: the items' SQLAlchemy type.
        read: an item as either side prints it, as the same Python value.
    """

    def value(chance: random.Random) -> str:
        chosen = chance.choices(["NULL", *values], k=chance.randrange(4))
        return "{" + ",".join(f'"{one}"' if one != "NULL" else one for one in chosen) + "}"

    def items(text: str) -> list[Any]:
        parts = [part.strip('"') for part in text.split(",")] if text else []
        return [None if part == "NULL" else read(part) for part in parts]

    return Kind(
        model=f"ARRAY({item})",
        types=(postgres,),
        value=value,
        clickhouse="arrayStringConcat(arrayMap(e -> ifNull(toString(e), 'NULL'), {}), ',')",
        postgres_value=lambda text: items(text[1:-1]),
        clickhouse_value=items,
        nullable=False,
    )


_CHOICE = 'Enum("a", "b\'", "ü", name="{seed}_choice", create_type=False)'

KINDS: dict[str, Kind] = {
    "small": _number("SmallInteger", "smallint", "{seed}_small", bits=16, key=True, wider="whole"),
    "whole": _number("Integer", "int", "{seed}_whole", bits=32, key=True, wider="big"),
    "big": _number("BigInteger", "bigint", "{seed}_big", "{seed}_nested", bits=64, key=True),
    "money": Kind(
        model="Numeric(12, 3)",
        types=("numeric(12,3)", "{seed}_money"),
        value=_decimal(12, 3),
        postgres_value=_amount,
        clickhouse_value=_amount,
        key=True,
        wider="amount",
    ),
    "amount": Kind(
        model="Numeric(38, 3)",
        types=("numeric(38,3)",),
        value=_decimal(38, 3),
        postgres_value=_amount,
        clickhouse_value=_amount,
    ),
    "free": _text(
        "Numeric",
        "numeric",
        value=lambda c: c.choice(["NaN", "1.50", "1.5", "-0.000", "1e50", str(c.randrange(99))]),
        key=True,
    ),
    "double": Kind(
        model="Float",
        types=("float8", "{seed}_double"),
        value=_double,
        postgres_value=_whole,
        clickhouse_value=_whole,
        key=True,
    ),
    "single": Kind(
        model="REAL",
        types=("real",),
        value=lambda c: c.choice(["NaN", "Infinity", "0.1", "-1e-30", "3.4e38", "-0", "0"]),
        postgres_value=_single,
        clickhouse_value=_single,
        key=True,
    ),
    "yes": Kind(
        model="Boolean",
        types=("boolean", "{seed}_yes"),
        value=lambda c: c.choice(["true", "false"]),
        postgres_value=lambda text: {"t": "true", "f": "false"}[text],
        key=True,
    ),
    "name": _text(
        "String(20)",
        "varchar(20)",
        "text",
        "{seed}_name",
        "char(20)",
        "name",
        value=_string(0, 5),
        key=True,
        wider="long",
    ),
    "code": _text("String(12)", "varchar(12)", "text", value=_string(1, 2, "abAB_é"), key=True),
    "long": _text("Text", "text", "varchar", "{seed}_text", value=_long),
    "fixed": _text("CHAR(6)", "char(6)", value=_string(0, 5, "ab é"), key=True),
    "day": Kind(model="Date", types=("date", "{seed}_day"), value=_day, key=True),
    "clock": _text(
        "Time",
        "time",
        value=lambda c: c.choice(["24:00:00", f"07:{c.randrange(60)}:00.000001"]),
        key=True,
    ),
    "zoned": _text(
        "Time(timezone=True)",
        "timetz",
        value=lambda c: c.choice(["24:00:00-05", "07:30:00.5+05:30", "02:00:00+00"]),
        key=True,
    ),
    "moment": Kind(
        model="DateTime",
        types=("timestamp", "{seed}_moment"),
        value=_moment,
        postgres_value=_at,
        key=True,
    ),
    "instant": Kind(
        model="DateTime(timezone=True)",
        types=("timestamptz", "{seed}_instant"),
        value=lambda chance: f"{_moment(chance)}+00",
        postgres_value=_at,
        key=True,
    ),
    "length": _text(
        "Interval",
        "interval",
        value=lambda c: c.choice(
            ["1 day", "24:00:00", "-1 mon", f"{c.randrange(99)} days 1.5 sec"]
        ),
        key=True,
    ),
    "identity": Kind(
        model="Uuid",
        types=("uuid", "{seed}_uuid"),
        value=lambda c: str(UUID(int=c.choice([c.getrandbits(128), c.randrange(20)]))),
        key=True,
    ),
    "choice": _text(
        _CHOICE,
        "{seed}_choice",
        "{seed}_chosen",
        value=lambda c: c.choice(["a", "b'", "ü"]),
        key=True,
    ),
    "raw": Kind(
        model="LargeBinary",
        types=("bytea", "{seed}_raw"),
        value=lambda c: "\\x" + c.randbytes(c.randrange(9)).hex(),
        clickhouse="lower(hex({}))",
        postgres_value=lambda text: text.removeprefix("\\x"),
        key=True,
    ),
    "document": _text("JSONB", "jsonb", value=_document, key=True),
    "kept": _text("JSON", "json", "{seed}_json", value=lambda c: c.choice(["1e400", _document(c)])),
    "numbers": Kind(
        model="ARRAY(Integer)",
        types=("int[]", "{seed}_numbers"),
        value=_array("", "", "1", "-7").value,
        clickhouse=_array("", "").clickhouse,
        postgres_value=_array("", "", read=int).postgres_value,
        clickhouse_value=_array("", "", read=int).clickhouse_value,
        nullable=False,
    ),
    "flags": _array("Boolean", "boolean[]", "t", "f", read=lambda text: text[0]),
    "sums": _array("Numeric(8, 2)", "numeric(8,2)[]", "0", "-1.50", "999999.99", read=_amount),
    "moments": _array(
        "DateTime(timezone=True)",
        "timestamptz[]",
        "1900-01-01 00:00:00+00",
        "2024-02-29 23:59:59.999999+00",
        read=_at,
    ),
    "identities": _array("Uuid", "uuid[]", str(UUID(int=0)), str(UUID(int=1 << 127))),
    "choices": _array(_CHOICE, "{seed}_choice[]", "a", "b'", "ü"),
    "words": _text("ARRAY(Text)", "text[]", value=_words, always=True),
    "grid": _text(
        "ARRAY(Integer, dimensions=2)",
        "int[]",
        value=lambda c: c.choice(["{}", "{{1,2},{3,NULL}}", "{{7}}", "[0:1]={1,2}"]),
        always=True,
    ),
    "address": _text(
        "INET", "inet", value=lambda c: c.choice(["10.0.0.1", "10.0.0.0/8", "::1"]), key=True
    ),
    "network": _text("CIDR", "cidr", value=lambda c: f"10.{c.randrange(99)}.0.0/16", key=True),
    "card": _text(
        "MACADDR", "macaddr", value=lambda c: f"08:00:2b:01:02:{c.randrange(99):02}", key=True
    ),
    "bits": _text("BIT(4)", "bit(4)", value=lambda c: f"{c.randrange(16):04b}", key=True),
    "some_bits": _text(
        "BIT(8, varying=True)", "varbit(8)", value=lambda c: f"{c.randrange(99):b}", key=True
    ),
    "span": _text(
        "INT4RANGE", "int4range", value=lambda c: c.choice(["[1,5)", "empty", "(,3)"]), key=True
    ),
    "period": _text(
        "TSTZRANGE",
        "tstzrange",
        value=lambda c: c.choice(
            ["[2024-01-01 00:00+00,)", "(,)", "[2020-01-01 00:00+02,2021-01-01 00:00+00)"]
        ),
    ),
    "spans": _text(
        "INT4MULTIRANGE", "int4multirange", value=lambda c: c.choice(["{}", "{[1,3),[5,9)}"])
    ),
    "search": _text("TSVECTOR", "tsvector", value=lambda c: c.choice(["'a':1 'b':2", "", "x y"])),
}

# Types of one run, below its schema's prefix.
TYPES = """
CREATE DOMAIN {seed}_small AS smallint;
CREATE DOMAIN {seed}_whole AS int CHECK (VALUE IS NULL OR VALUE > -2147483649);
CREATE DOMAIN {seed}_big AS bigint;
CREATE DOMAIN {seed}_nested AS {seed}_big;
CREATE DOMAIN {seed}_money AS numeric(12,3);
CREATE DOMAIN {seed}_double AS float8;
CREATE DOMAIN {seed}_yes AS boolean;
CREATE DOMAIN {seed}_name AS varchar(20);
CREATE DOMAIN {seed}_text AS text;
CREATE DOMAIN {seed}_day AS date;
CREATE DOMAIN {seed}_moment AS timestamp;
CREATE DOMAIN {seed}_instant AS timestamptz;
CREATE DOMAIN {seed}_uuid AS uuid;
CREATE TYPE {seed}_choice AS ENUM ('a', 'b''', 'ü');
CREATE DOMAIN {seed}_chosen AS {seed}_choice;
CREATE DOMAIN {seed}_raw AS bytea;
CREATE DOMAIN {seed}_json AS json;
CREATE DOMAIN {seed}_numbers AS int[];
CREATE SCHEMA {seed}_s;
"""
NAMES = (
    "small whole big nested money double yes name text day moment instant uuid chosen raw json"
    " numbers"
)


def dropped_types(seed: str) -> str:
    """Statements that drop the types of a run."""
    domains = ", ".join(f"{seed}_{name}" for name in reversed(NAMES.split()))
    return (
        f"DROP SCHEMA IF EXISTS {seed}_s CASCADE; DROP DOMAIN IF EXISTS {domains} CASCADE;"
        f" DROP TYPE IF EXISTS {seed}_choice CASCADE"
    )
