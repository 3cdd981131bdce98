"""The JSON that PostgreSQL makes of a row is, byte for byte, the one that the stream makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psycopg2.extensions
import pytest
from psycopg2 import sql

from sluice.capture import slot as slots
from sluice.capture.json_rows import RowEncoder
from sluice.capture.json_sql import escaped, key_expression, row_expression
from sluice.capture.pgoutput import RelationColumn
from sluice.capture.shapes import shapes
from sluice.settings import Settings

pytestmark = pytest.mark.services

TEXTS = (
    "",
    "plain",
    r'a "quoted" \ back\\slash \N \. \u0041',
    "".join(map(chr, range(1, 128))),
    "é ü ß 漢 \u2028 \uffff 😀 \U0010ffff",
    "x" * 3000,
)
TIMES = (
    "2026-01-01 00:00:00.123456",
    "2026-01-01",
    "infinity",
    "-infinity",
    "0001-01-01",
    "0044-03-15 12:00:00.5 BC",
    "10000-01-01",
)
FLOATS = ("0", "-0", "1.5", "1e300", "-1e-30", "NaN", "Infinity", "-Infinity")
VALUES: dict[str, tuple[str, ...]] = {
    "text": TEXTS,
    "varchar(3000)": TEXTS,
    "character(4)": ("", "ab", "é"),
    '"char"': ("a", "\\", "é"),
    "name": ("", 'na"me', "é"),
    "bool": ("t", "f"),
    "int2": ("-32768", "0"),
    "int4": ("-2147483648", "7"),
    "int8": ("-9223372036854775808", "9223372036854775807"),
    "oid": ("4294967295",),
    "numeric": ("NaN", "Infinity", "1.10", "-1e-30", "1e40"),
    "float4": ("0", "-0", "0.1", "1e30", "NaN", "Infinity", "-Infinity"),
    "float8": FLOATS,
    "date": ("2026-01-01", "infinity", "0044-03-15 BC", "12026-01-01"),
    "time": ("24:00:00", "00:00:00.5"),
    "timetz": ("10:00:00+00", "10:00:00+02"),
    "timestamp": TIMES,
    "timestamptz": (*TIMES, "2026-06-01 10:00:00+05:30"),
    "interval": ("1 year 2 days -3 seconds",),
    "uuid": ("0123abcd-0123-4567-89ab-0123456789ab",),
    "bytea": ("", "\\x00ff", "\\x" + "5c0a09" * 400),
    "json": ('{"a": 1.10,  "a":"\\u00e9é\\n"}', "null"),
    "jsonb": ('{"a": [1, "é\\\\"]}', "null"),
    "inet": ("10.0.0.1", "10.0.0.0/8", "::1"),
    "cidr": ("10.0.0.0/8", "10.0.0.1/32"),
    "bit(4)": ("1010",),
    "point": ("(1,-0)",),
    "text[]": ("{}", '{a,NULL,"b\\"c\\\\d",é}'),
    "timestamptz[]": ("{2026-01-01 00:00:00+00,infinity}",),
    "int4range": ("[1,5)", "empty"),
    "copied_pair": ("(,)", '(1,"a ""b"" \\\\ é")'),
}
# The same as domains of domains, which have the bytes of what they are made of.
BASES = list(VALUES)
VALUES |= {f"copied_{number}_over": VALUES[base] for number, base in enumerate(BASES)}


@pytest.fixture(scope="module")
def cursor(services: Settings) -> Iterator[Any]:
    """A session in which NULL and one value of each type stand in table `copied`, row by row."""
    with slots.session(services.postgres) as cursor:
        cursor.execute(
            "CREATE TYPE copied_pair AS (a int, b text);"
            + ";".join(
                f"CREATE DOMAIN copied_{number} AS {base};"
                f"CREATE DOMAIN copied_{number}_over AS copied_{number}"
                for number, base in enumerate(BASES)
            )
        )
        columns = ", ".join(f'"{{é}}%s ""{i}" {name}' for i, name in enumerate(VALUES))
        cursor.execute(f"CREATE TABLE copied (id serial PRIMARY KEY, {columns})")
        for row in range(max(map(len, VALUES.values())) + 1):
            values = [(*texts, *[None] * 9)[row] for texts in VALUES.values()]
            places = ", ".join(["%s"] * (len(values)))
            cursor.execute(f"INSERT INTO copied VALUES (DEFAULT, {places})", values)
        yield cursor
        cursor.execute("DROP TABLE copied")
        domains = ", ".join(
            f"copied_{number}_over, copied_{number}" for number in range(len(BASES))
        )
        cursor.execute(f"DROP DOMAIN {domains}; DROP TYPE copied_pair")


class Lines:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(escaped(line))


def copied(cursor: Any, *expressions: sql.Composable) -> list[bytes]:
    query = sql.SQL("COPY (SELECT {} FROM copied ORDER BY id) TO STDOUT")
    lines = Lines()
    listed = sql.SQL(", ").join(expressions)
    cursor.copy_expert(query.format(listed).as_string(cursor.connection), lines)
    return lines.lines


def columns_and_rows(cursor: Any) -> tuple[list[RelationColumn], list[tuple[Any, ...]]]:
    """The columns, and each row's texts as the types' output functions give them."""
    place = {"name": "copied", "schema": "public", "relation": "copied"}
    every = {"masked": (), "sends": lambda _: True}
    table: Any = SimpleNamespace(**place, **every, columns=(), excluded=())
    columns = list(shapes(cursor, [table])["copied"].columns)
    cursor.execute("SELECT * FROM copied ORDER BY id LIMIT 0")
    oids = tuple({field.type_code for field in cursor.description})  # a domain is sent as its base
    as_it_is = psycopg2.extensions.new_type(oids, "AS_IT_IS", lambda value, _: value)
    psycopg2.extensions.register_type(as_it_is, cursor)
    cursor.execute("SELECT * FROM copied ORDER BY id")
    rows = cursor.fetchall()
    cursor.string_types.clear()
    return columns, rows


def test_every_type_has_the_bytes_of_the_stream(cursor: Any) -> None:
    columns, rows = columns_and_rows(cursor)
    encoder = RowEncoder("copied", columns, ["id"])
    found = copied(cursor, key_expression(columns[:1]), row_expression(columns))
    assert len(rows) == len(found) > 8
    for row, line in zip(rows, found, strict=True):
        values = [None if value is None else value.encode() for value in row]
        assert line == b"%b\t%b\n" % (encoder.key(values), encoder.row(values))


def test_each_type_can_be_a_key_and_a_key_without_a_value_is_null(cursor: Any) -> None:
    columns, rows = columns_and_rows(cursor)
    for at, column in enumerate(columns):
        encoder = RowEncoder("copied", columns, [column.name])
        found = copied(cursor, key_expression([column]))
        for row, line in zip(rows, found, strict=True):
            values = [None if value is None else value.encode() for value in row]
            wanted = b"\\N" if row[at] is None else encoder.key(values)
            assert line == wanted + b"\n"


def test_a_domain_has_the_bytes_of_its_base_type(cursor: Any) -> None:
    columns, _ = columns_and_rows(cursor)
    bases, domains = columns[1 : 1 + len(BASES)], columns[1 + len(BASES) :]
    assert len(bases) == len(domains)
    for base, domain in zip(bases, domains, strict=True):
        same = replace(domain, type_oid=base.type_oid)
        assert copied(cursor, row_expression([domain])) == copied(cursor, row_expression([same]))
        assert domain.type_oid == base.type_oid, base.name


def test_a_table_may_have_hundreds_of_columns(cursor: Any) -> None:
    columns, _ = columns_and_rows(cursor)
    (line, *_) = copied(cursor, row_expression(columns * 20))
    assert line.count(b'"id":1,') == 20


def test_bytes_that_are_no_utf_8_are_those_of_the_stream_too(services: Settings) -> None:
    with slots.session(services.postgres) as owner:
        owner.execute(
            "CREATE DATABASE copied_bytes ENCODING 'SQL_ASCII' TEMPLATE template0"
            " LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        try:
            with slots.session(replace(services.postgres, database="copied_bytes")) as cursor:
                cursor.execute("CREATE TABLE copied (id int, long text, short name)")
                cursor.execute(r"INSERT INTO copied VALUES (1, E'x\xffy\xe9', E'\xfe\xc3\xa9')")
                columns = [
                    RelationColumn(name=name, type_oid=oid, in_key=False)
                    for name, oid in (("id", 23), ("long", 25), ("short", 19))
                ]
                found = copied(cursor, row_expression(columns))
        finally:
            owner.execute("DROP DATABASE copied_bytes")
    values = [b"1", b"x\xffy\xe9", b"\xfe\xc3\xa9"]
    assert found == [RowEncoder("copied", columns, ["id"]).row(values) + b"\n"]
