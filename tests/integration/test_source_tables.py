"""Tables of PostgreSQL read in bulk: the answers of one by one, in few statements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from psycopg2 import extensions
from sqlalchemy.orm import DeclarativeBase

from sluice.capture import slot as slots
from sluice.catalog import Table
from sluice.catalog.models import describe
from sluice.clients import postgres, source_tables
from sluice.clients.postgres import PostgresSource, connection_options, counted
from sluice.errors import NeedsPerson, NotReady
from sluice.execution.batches import batches
from sluice.settings import Settings

pytestmark = pytest.mark.services

SCHEMA = 'bulk "Schéma'
MANY = 300
CREATED = (
    """CREATE TABLE "{s}"."plain" (id int PRIMARY KEY, price numeric(10,2), note "{s}".label)""",
    """CREATE TABLE "{s}"."Odd ""Näme.-" (id int PRIMARY KEY, "a b" text, extra text,
        more text, twice int GENERATED ALWAYS AS (id * 2) STORED)""",
    """CREATE TABLE "{s}"."parts" (id int PRIMARY KEY, price numeric(10,2))
        PARTITION BY RANGE (id)""",
    """CREATE TABLE "{s}".first PARTITION OF "{s}"."parts" FOR VALUES FROM (0) TO (10)""",
    """CREATE TABLE "{s}".second PARTITION OF "{s}"."parts" FOR VALUES FROM (10) TO (20)""",
    """INSERT INTO "{s}"."parts" SELECT n, 1 FROM generate_series(0, 19) n""",
    """CREATE TABLE "{s}"."parent" (id int PRIMARY KEY, price numeric(10,2))""",
    """CREATE TABLE "{s}".child (PRIMARY KEY (id)) INHERITS ("{s}"."parent")""",
    """INSERT INTO "{s}"."parent" VALUES (1, 1)""",
    """INSERT INTO "{s}".child VALUES (2, 1), (3, 1)""",
)
PRICE = ("price", sa.Numeric(10, 2))
# Relation -> its model's columns beside the key, differences, columns that the model lacks, rows.
EXPECTED: dict[str, tuple[list[tuple[str, Any]], list[str], list[str], int | None]] = {
    "plain": (
        [PRICE, ("note", sa.Numeric(12, 3)), ("gone", sa.Text)],
        [
            f'note is "{SCHEMA.replace(chr(34), chr(34) * 2)}".label (numeric(12,2)),'
            " the model says numeric(12, 3)",
            "gone is not in PostgreSQL",
        ],
        [],
        0,
    ),
    'Odd "Näme.-': (
        [("a b", sa.Text)],
        ["a b is nullable, but not in the model"],
        ["extra", "more"],
        0,
    ),
    "parts": ([PRICE], [], [], 20),
    "parent": ([PRICE], [], [], 1),
    "nowhere": ([], ["id is not in PostgreSQL"], [], None),
}


def model(relation: str) -> Table:
    base: Any = type("Base", (DeclarativeBase,), {})
    columns = [sa.Column("id", sa.Integer, primary_key=True)]
    # Only the text is NOT NULL in its model.
    columns += [sa.Column(n, t, nullable=t != sa.Text) for n, t in EXPECTED[relation][0]]
    body = {"__table__": sa.Table(relation, base.metadata, *columns, schema=SCHEMA)}
    mapped: Any = type("Model", (base,), body)
    return replace(describe("tables", [mapped.__mapper__]).tables[0], name=relation)


@pytest.fixture(scope="module")
def tables(services: Settings) -> Iterator[list[Table]]:
    named = SCHEMA.replace('"', '""')
    with slots.session(services.postgres) as cursor:
        cursor.execute(f'CREATE SCHEMA "{named}"')
        cursor.execute(f'CREATE DOMAIN "{named}".label AS numeric(12,2)')
        try:
            for statement in CREATED:
                cursor.execute(statement.format(s=named))
            yield [model(relation) for relation in EXPECTED]
        finally:
            cursor.execute(f'DROP SCHEMA "{named}" CASCADE')


class Recorded(extensions.cursor):  # type: ignore[misc] # psycopg2 has no types
    """A cursor that keeps the statements which it ran."""

    statements: list[str]

    def execute(self, query: Any, vars: Any = None) -> None:
        self.statements = [*getattr(self, "statements", []), str(query)]
        super().execute(query, vars)


@pytest.fixture
def cursor(services: Settings) -> Iterator[Recorded]:
    with (
        postgres.opened(services.postgres) as connection,
        connection.cursor(cursor_factory=Recorded) as opened,
    ):
        yield opened


def test_differences_of_many_tables_are_those_of_each(
    services: Settings, tables: list[Table]
) -> None:
    source = PostgresSource(services.postgres)
    differences, more = source.schema_differences(tables), source.more_columns(tables)
    for table in tables:
        expected = (EXPECTED[table.name][1], EXPECTED[table.name][2])
        assert (differences[table.name], more[table.name]) == expected
        assert source.schema_differences([table]) == {table.name: expected[0]}
        assert source.more_columns([table]) == {table.name: expected[1]}
    assert (source.schema_differences([]), source.more_columns([])) == ({}, {})


def test_tables_of_more_columns_than_one_query_takes_are_divided(
    cursor: Recorded, tables: list[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = source_tables.schema_differences(cursor, tables)
    assert len(cursor.statements) == 1
    monkeypatch.setattr(source_tables, "_COLUMNS_AT_ONCE", 3)
    assert source_tables.schema_differences(cursor, tables) == whole
    assert len(cursor.statements) == 1 + 4


def test_small_tables_are_counted_in_few_statements_without_their_children(
    services: Settings, cursor: Recorded, tables: list[Table]
) -> None:
    present = [table for table in tables if EXPECTED[table.name][3] is not None]
    many = [replace(present[at % len(present)], name=f"table {at}") for at in range(MANY)]
    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    rows, troubles = counted(services.postgres, cursor, many)
    assert troubles == {}
    assert rows == {t.name: EXPECTED[t.relation][3] for t in many}
    assert len([text for text in cursor.statements if "count(*)" in text]) == MANY / 50


def test_a_table_that_cannot_be_counted_leaves_the_others_counted(
    services: Settings, tables: list[Table]
) -> None:
    fence = PostgresSource(services.postgres).fence(tables)
    assert fence.rows == {n: rows for n, (*_, rows) in EXPECTED.items() if rows is not None}
    assert isinstance(fence.troubles["nowhere"], NeedsPerson)
    assert "nowhere" in fence.troubles["nowhere"].what


def test_a_locked_table_holds_up_itself_alone(services: Settings, tables: list[Table]) -> None:
    present = [table for table in tables if table.name != "nowhere"]
    place = f'"{SCHEMA.replace(chr(34), chr(34) * 2)}"."plain"'
    holder = psycopg2.connect(**connection_options(services.postgres))
    try:
        holder.cursor().execute(f"LOCK TABLE {place} IN ACCESS EXCLUSIVE MODE")
        fence = PostgresSource(services.postgres, seconds=2).fence(present)
    finally:
        holder.close()
    assert set(fence.troubles) == {"plain"}
    assert isinstance(fence.troubles["plain"], NotReady)
    assert set(fence.rows) == {table.name for table in present} - {"plain"}


def test_large_tables_are_known_by_the_estimate_of_their_partitions(
    services: Settings, tables: list[Table]
) -> None:
    with slots.session(services.postgres) as cursor:
        cursor.execute("ANALYZE")
    source = PostgresSource(services.postgres)
    assert {t.name for t in source.at_most(tables, 19)} == set(EXPECTED) - {"parts"}
    assert {t.name for t in source.at_most(tables, 20)} == set(EXPECTED)


def test_a_large_table_is_counted_by_a_statement_of_its_own(
    services: Settings,
    cursor: Recorded,
    tables: list[Table],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A statement counts a million rows; these tables have 20 at most.
    monkeypatch.setattr(postgres, "batches", partial(batches, most_rows=5))
    cursor.execute("ANALYZE")
    present = [table for table in tables if table.name != "nowhere"]
    cursor.execute("BEGIN")
    rows, _ = counted(services.postgres, cursor, present)
    assert rows["parts"] == 20
    counts = [text for text in cursor.statements if "count(*)" in text]
    assert [text.count("count(*)") for text in counts if "parts" in text] == [1]
