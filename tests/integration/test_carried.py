"""Counts of tables that did not change are carried forward, and any change ends that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture import slot as slots
from sluice.catalog import Table
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource, connection_options
from sluice.clients.topics import Topics
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.quality import carried as rule
from sluice.quality.carried import CarriedForward
from sluice.quality.checks import Check, QualityReport
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import CATALOG, checked, relaying
from tests.support.waiting import until

pytestmark = pytest.mark.services

ANY = -10  # rows of a large table: PostgreSQL estimates -1 of a new one
PLACE = CATALOG.table("customers")
MARKED = replace(PLACE, name="marked", schema="public", relation="marked")
PARTED = replace(MARKED, name="parted", relation="parted")
CREATED = (
    "CREATE TABLE marked (id int PRIMARY KEY, n int)",
    "INSERT INTO marked SELECT n, n FROM generate_series(1, 10) n",
    "CREATE TABLE parted (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)",
    "CREATE TABLE part_a PARTITION OF parted FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE part_b (id int PRIMARY KEY, n int)",
    "INSERT INTO parted SELECT n, n FROM generate_series(1, 10) n",
)
DROPPED = "DROP TABLE IF EXISTS marked, other, parted, part_a, part_b"
# What changes rows in PostgreSQL, or may hide that they changed.
POSTGRES: dict[str, tuple[Table, str]] = {
    "insert": (MARKED, "INSERT INTO marked VALUES (11, 1)"),
    "update": (MARKED, "UPDATE marked SET n = 0 WHERE id = 1"),
    "delete": (MARKED, "DELETE FROM marked WHERE id = 1"),
    "delete and insert": (MARKED, "DELETE FROM marked; INSERT INTO marked VALUES (1, 1)"),
    "insert without triggers": (
        MARKED,
        "SET session_replication_role = replica; INSERT INTO marked VALUES (11, 1)",
    ),
    "copy": (MARKED, "COPY marked FROM PROGRAM 'echo 11,1' CSV"),
    "truncate": (MARKED, "TRUNCATE marked"),
    "truncate and refill": (
        MARKED,
        "BEGIN; TRUNCATE marked; INSERT INTO marked SELECT n, n FROM generate_series(1, 10) n;"
        " COMMIT",
    ),
    "swap": (
        MARKED,
        "BEGIN; ALTER TABLE marked RENAME TO other;"
        " CREATE TABLE marked (LIKE other INCLUDING ALL); COMMIT",
    ),
    "reset of counters": (MARKED, "SELECT pg_stat_reset()"),
    "reset of one table's": (
        MARKED,
        "SELECT pg_stat_reset_single_table_counters('marked'::regclass)",
    ),
    "insert into a partition": (PARTED, "INSERT INTO part_a VALUES (11, 1)"),
    "truncate of a partition": (PARTED, "TRUNCATE part_a"),
    "attach": (PARTED, "ALTER TABLE parted ATTACH PARTITION part_b FOR VALUES FROM (100) TO (200)"),
    "detach": (PARTED, "ALTER TABLE parted DETACH PARTITION part_a"),
}
# What changes rows in ClickHouse.
CLICKHOUSE = {
    "insert": "INSERT INTO cdc.marked VALUES (3, 1)",
    "insert of the same row": "INSERT INTO cdc.marked VALUES (1, 1)",
    "delete": "DELETE FROM cdc.marked WHERE id = 1",
    "mutation": "ALTER TABLE cdc.marked DELETE WHERE id = 1 SETTINGS mutations_sync = 2",
    "update": "ALTER TABLE cdc.marked UPDATE n = 7 WHERE id = 1 SETTINGS mutations_sync = 2",
    "truncate": "TRUNCATE TABLE cdc.marked",
    "dropped partition": "ALTER TABLE cdc.marked DROP PARTITION 1",
    "detached part": "ALTER TABLE cdc.marked DETACH PARTITION 0",
    "exchange": "EXCHANGE TABLES cdc.marked AND cdc.marked_other",
}


@pytest.fixture
def marked(services: Settings) -> Iterator[Any]:
    with slots.session(services.postgres) as cursor:
        cursor.execute(DROPPED)
        for statement in CREATED:
            cursor.execute(statement)
        cursor.execute("SELECT pg_stat_force_next_flush()")
        yield cursor
        cursor.execute(DROPPED)


def ran(settings: Settings, statements: str) -> None:
    """Run statements in a session that ends, and so reports what it changed."""
    with psycopg2.connect(**connection_options(settings.postgres)) as session:
        session.autocommit = True
        for statement in statements.split("; "):
            session.cursor().execute(statement)
    session.close()


@pytest.mark.parametrize("change", POSTGRES)
def test_every_change_in_postgres_alters_the_mark_of_its_table_alone(
    services: Settings, marked: Any, change: str
) -> None:
    source, (table, statements) = PostgresSource(services.postgres), POSTGRES[change]

    def marks() -> dict[str, str]:
        return source.marks([MARKED, PARTED], ANY)

    settled(marks)
    before = marks()
    assert set(before) == {"marked", "parted"}
    assert marks() == before
    ran(services, statements)
    until(lambda: marks()[table.name] != before[table.name], "the mark is another")
    if "reset" not in change:
        (other,) = {"marked", "parted"} - {table.name}
        assert marks()[other] == before[other]


def settled(marks: Callable[[], Any]) -> None:
    """Wait until no session has counters to report: they come a little later."""
    seen = [marks()]

    def alike() -> bool:
        seen.append(marks())
        return len(seen) > 5 and all(mark == seen[-1] for mark in seen[-5:])

    until(alike, "the counters stand still")


def test_a_large_table_is_one_by_the_estimate_of_all_its_partitions(
    services: Settings, marked: Any
) -> None:
    marked.execute("ANALYZE marked")
    marked.execute("ANALYZE part_a")
    source = PostgresSource(services.postgres)
    assert set(source.marks([MARKED, PARTED], 10)) == {"marked", "parted"}
    assert source.marks([MARKED, PARTED], 11) == {}


def test_nothing_is_marked_where_the_server_does_not_count(services: Settings, marked: Any) -> None:
    counting = {**services.postgres.options, "options": "-c track_counts=off"}
    blind = replace(services.postgres, options=counting)
    assert PostgresSource(blind).marks([MARKED], ANY) == {}


@pytest.mark.parametrize("change", CLICKHOUSE)
def test_every_change_in_clickhouse_alters_the_mark_of_its_table(
    services: Settings, change: str
) -> None:
    query, clickhouse = read_statements(PIPELINE)["part_marks"], ClickHouse(services.clickhouse)

    def mark() -> str:
        return str(dict(clickhouse.execute(query, names=["marked"]))["marked"])

    try:
        for name in ("marked", "marked_other"):
            clickhouse.execute(
                f"CREATE OR REPLACE TABLE cdc.{name} (id Int32, n Int32) ENGINE ="
                " ReplacingMergeTree ORDER BY id PARTITION BY id % 2"
            )
            clickhouse.execute(f"INSERT INTO cdc.{name} SELECT number, 1 FROM numbers(1, 2)")
        before = mark()
        assert mark() == before
        clickhouse.execute("OPTIMIZE TABLE cdc.marked FINAL")
        assert mark() == before
        clickhouse.execute(CLICKHOUSE[change])
        assert mark() != before
    finally:
        for name in ("marked", "marked_other"):
            with suppress(Exception):
                clickhouse.execute(f"DROP TABLE cdc.{name} SYNC")
        clickhouse.close()


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=20, orders=50, seed=2)
    with relaying(services):
        checked(services)
        for table in CATALOG.tables:
            wiring.resync(services, table.name)
        yield made
    made.dispose()


@pytest.fixture(autouse=True)
def every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every table were large."""
    monkeypatch.setattr(wiring.checks, "CarriedForward", partial(CarriedForward, least_rows=ANY))


def count(report: QualityReport, table: str, kind: str = "row_count") -> Check:
    (check,) = (c for c in report.checks if (c.table, c.check) == (table, kind))
    return check


def carried(settings: Settings, *tables: str) -> QualityReport:
    """A report with the counts of all tables carried forward."""

    def report() -> QualityReport | None:
        found = wiring.quality(settings, tables)
        counts = [c for c in found.checks if c.check in {"row_count", "fact_row_count"}]
        return found if all("neither side" in c.difference for c in counts) else None

    return until(report, "the counts are carried forward", 60)  # type: ignore[return-value]


def counted(settings: Settings, **changed: Any) -> bool:
    """Whether the customers were counted in a run with these settings."""
    report = wiring.quality(replace(settings, **changed))
    return "neither" not in count(report, "customers").difference


def test_counts_are_carried_with_their_age_and_repeated_when_that_is_over(
    services: Settings, engine: Engine
) -> None:
    report = carried(services)
    check = count(report, "customers")
    assert check.status == "pass"
    assert check.postgres == check.clickhouse > 0
    assert "neither side changed since it was compared about" in check.sentence()
    assert {c.check for c in report.checks if "neither side" in c.difference} == {
        "row_count",
        "fact_row_count",
    }
    ages = [
        row[0]
        for row in wiring.query(
            services,
            "SELECT carried_s FROM cdc.quality_checks WHERE source_table = 'customers'"
            " AND check = 'row_count' AND mark != '' ORDER BY checked_at DESC LIMIT 2",
        )[1]
    ]
    assert ages[0] >= ages[1]
    until(lambda: counted(services, carry_seconds=0), "the table is counted")
    until(lambda: counted(services, carry_seconds=1), "the table is counted")
    assert "neither" not in count(wiring.quality(services, deep=True), "customers").difference


def test_small_tables_are_carried_where_they_are_many(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring.checks, "CarriedForward", CarriedForward)
    for _ in range(2):
        assert "neither" not in count(wiring.quality(services), "customers").difference
    monkeypatch.setattr(rule, "FEW_TABLES", len(CATALOG.tables) - 1)
    carried(services)
    assert "neither" not in count(wiring.quality(services, ["orders"]), "orders").difference


def test_a_row_that_clickhouse_lost_is_found_though_it_was_carried(
    services: Settings, engine: Engine
) -> None:
    carried(services)
    wiring.query(services, "DELETE FROM cdc.dim_customer WHERE id = 1")
    report = wiring.quality(services)
    assert count(report, "customers").status == "fail"
    assert count(wiring.quality(services), "customers").status == "fail"
    wiring.resync(services, "customers")
    assert count(wiring.quality(services), "customers").status == "pass"


def test_a_row_that_only_a_fact_lost_is_found(services: Settings, engine: Engine) -> None:
    carried(services)
    wiring.query(
        services,
        "DELETE FROM cdc.fact_order_item WHERE order_item_id ="
        " (SELECT min(order_item_id) FROM olap.fact_order_item)",
    )
    assert count(wiring.quality(services), "fact_order_item", "fact_row_count").status == "fail"
    wiring.rebuild(services, "fact_order_item", full=True)
    assert wiring.quality(services).passed


def advance(settings: Settings, replaced: str) -> None:
    """Write another checkpoint of the customers, with other fields."""
    wiring.query(
        settings,
        f"INSERT INTO cdc.checkpoints SELECT * REPLACE ({replaced}, generation + 1 AS generation)"
        " FROM cdc.checkpoints FINAL WHERE source_table = 'customers'",
    )


def test_a_change_that_got_lost_on_its_way_is_found(services: Settings, engine: Engine) -> None:
    """Only PostgreSQL's counters tell: the checkpoint keeps its `_seq`, and no part is written."""
    advance(services, "base_seq + 1 AS base_seq")
    carried(services)
    end = wiring.query(
        services,
        "SELECT argMax(next_offset, generation) FROM cdc.checkpoints"
        " WHERE source_table = 'customers'",
    )[1][0][0]
    with engine.begin() as connection:
        values = "('lost@example.com', 'L', 'X', 'Y')"
        connection.execute(
            text(f"INSERT INTO customers (email, name, country, city) VALUES {values}")
        )
    topics = Topics(services.kafka)
    until(lambda: topics.ends(["cdc.customers"])["cdc.customers"] > end, "the event is sent")
    advance(services, "next_offset + 1 AS next_offset, base_seq - 1 AS base_seq")
    until(
        lambda: count(wiring.quality(services), "customers").status == "fail",
        "the lost row is found",
    )
    wiring.resync(services, "customers")
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM customers WHERE email = 'lost@example.com'"))
    until(lambda: wiring.quality(services).passed, "both sides are equal")


def test_a_version_ahead_is_found_though_the_scan_was_carried(
    services: Settings, engine: Engine
) -> None:
    carried(services)
    wiring.query(
        services,
        "INSERT INTO cdc.dim_customer SELECT * REPLACE (bitShiftLeft(toUInt128(9), 112)"
        " AS _version) FROM cdc.dim_customer FINAL WHERE id = 2",
    )
    assert count(wiring.quality(services), "customers", "ahead").status == "fail"
    wiring.resync(services, "customers")
    assert count(wiring.quality(services), "customers", "ahead").status == "pass"
