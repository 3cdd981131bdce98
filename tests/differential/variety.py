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
        nullable: whether the column may be NULL.
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
    edges = ["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308"]
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


def _integers(chance: random.Random) -> str:
    return (
        "{" + ",".join(chance.choice(["NULL", "1", "-7"]) for _ in range(chance.randrange(4))) + "}"
    )


def _words(chance: random.Random) -> str:
    items = [
        json.dumps(_string(0, 3)(chance), ensure_ascii=False) for _ in range(chance.randrange(3))
    ]
    return "{" + ",".join(item.replace("\\n", "\n").replace("\\t", "\t") for item in items) + "}"


def _listed(text: str) -> list[int | None]:
    inner = text.strip("{}[]")
    return [None if item == "NULL" else int(item) for item in inner.split(",")] if inner else []


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
        "Numeric", "numeric", value=lambda c: c.choice(["NaN", "1.50", "-0.000", "1e50"])
    ),
    "double": Kind(
        model="Float",
        types=("float8", "{seed}_double"),
        value=_double,
        postgres_value=_whole,
        clickhouse_value=_whole,
    ),
    "single": Kind(
        model="REAL",
        types=("real",),
        value=lambda c: c.choice(["NaN", "Infinity", "0.1", "-1e-30", "3.4e38", "-0"]),
        postgres_value=_single,
        clickhouse_value=_single,
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
        value=_string(0, 5),
        key=True,
        wider="long",
    ),
    "code": _text("String(12)", "varchar(12)", "text", value=_string(1, 2, "abAB_é"), key=True),
    "long": _text("Text", "text", "varchar", "{seed}_text", value=_long),
    "fixed": _text("CHAR(6)", "char(6)", value=_string(0, 5, "ab é"), key=True),
    "day": Kind(model="Date", types=("date", "{seed}_day"), value=_day, key=True),
    "clock": _text("Time", "time", value=lambda c: c.choice(["24:00:00", "07:30:00.000001"])),
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
    "length": _text("Interval", "interval", value=lambda c: f"{c.randrange(99)} days 1.5 seconds"),
    "identity": Kind(
        model="Uuid",
        types=("uuid", "{seed}_uuid"),
        value=lambda c: str(UUID(int=c.choice([c.getrandbits(128), c.randrange(20)]))),
        key=True,
    ),
    "choice": _text(
        'Enum("a", "b\'", "ü", name="{seed}_choice", create_type=False)',
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
    ),
    "document": _text("JSONB", "jsonb", value=_document),
    "kept": _text("JSON", "json", "{seed}_json", value=lambda c: c.choice(["1e400", _document(c)])),
    "numbers": Kind(
        model="ARRAY(Integer)",
        types=("int[]", "{seed}_numbers"),
        value=_integers,
        postgres_value=_listed,
        clickhouse_value=_listed,
        nullable=False,
    ),
    "words": _text("ARRAY(Text)", "text[]", value=_words),
    "address": _text("INET", "inet", value=lambda c: c.choice(["10.0.0.1", "10.0.0.0/8", "::1"])),
    "bits": _text("BIT(4)", "bit(4)", value=lambda c: c.choice(["1010", "0000"])),
    "span": _text("INT4RANGE", "int4range", value=lambda c: c.choice(["[1,5)", "empty", "(,3)"])),
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
"""
NAMES = (
    "small whole big nested money double yes name text day moment instant uuid chosen raw json"
    " numbers"
)


def dropped_types(seed: str) -> str:
    """Statements that drop the types of a run."""
    domains = ", ".join(f"{seed}_{name}" for name in reversed(NAMES.split()))
    return f"DROP DOMAIN IF EXISTS {domains} CASCADE; DROP TYPE IF EXISTS {seed}_choice CASCADE"
