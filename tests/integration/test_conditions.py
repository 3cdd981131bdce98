"""The minute's checks beside the counts: each finds what it is for, and ends when that ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from threading import Event, Thread

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.catalog.quality_options import Limit
from sluice.clients.topics import Topics
from sluice.quality import measures as conditions
from sluice.quality.checks import Check, QualityReport
from sluice.quality.measures import GIBIBYTE
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import CATALOG, checked, relaying
from tests.support.waiting import until

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=20, orders=50, seed=2)
    with relaying(services):
        checked(services)
        mend(services)
        yield made
    made.dispose()


def mend(services: Settings) -> None:
    """End what tests before these left wrong on purpose."""
    for table in CATALOG.tables:
        wiring.resync(services, table.name)
    wiring.query(services, "TRUNCATE TABLE cdc.dead_letters")


def found(settings: Settings, table: str, name: str) -> Check:
    report = wiring.quality(settings)
    (check,) = (c for c in report.checks if (c.table, c.check) == (table, name))
    return check


def kept(settings: Settings, table: str, name: str) -> tuple[str, str]:
    newest = wiring.query(
        settings,
        "SELECT toString(status), repair FROM cdc.quality_checks WHERE source_table ="
        f" '{table}' AND check = '{name}' ORDER BY checked_at DESC LIMIT 1",
    )
    status, repair = newest[1][0]
    return status, repair


def test_a_healthy_pipeline_passes_every_check_of_every_table(
    services: Settings, engine: Engine
) -> None:
    report = wiring.quality(services)
    assert {check.status for check in report.checks} == {"pass"}
    names = {check.check for check in report.checks if check.table == "customers"}
    assert names == {
        *("row_count", "caught_up", "gap", "schema", "parked", "ahead"),
        *("freshness", "pending_events", "dead_letters"),
    }
    assert {c.check for c in report.checks if c.table == "sluice"} == {"slot_lag", "wal_status"}
    for check in report.checks:
        assert kept(services, check.table, check.check) == ("pass", "")


def test_a_rejected_event_warns_and_does_not_fail_the_run(
    services: Settings, engine: Engine
) -> None:
    producer = Producer({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})
    producer.produce("cdc.products", key=b'{"id":1}', value=b"{}", partition=0)
    assert producer.flush(20) == 0
    check = found(services, "products", "dead_letters")
    assert (check.status, check.clickhouse) == ("warn", 1)
    assert check.repair == "see: sluice dead-letters list --table products"
    assert wiring.quality(services).passed
    assert kept(services, "products", "dead_letters") == ("warn", check.repair)
    wiring.query(services, "TRUNCATE TABLE cdc.dead_letters")
    assert found(services, "products", "dead_letters").status == "pass"


def test_a_column_that_postgres_changed_is_a_finding_with_both_types(
    services: Settings, engine: Engine
) -> None:
    steps = [
        ("price TYPE numeric(12,2)", "price is numeric(12,2), the model says numeric(10, 2)"),
        ("name DROP NOT NULL", "name is nullable, but not in the model"),
    ]
    for change, said in steps:
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE products ALTER {change}"))
        check = found(services, "products", "schema")
        assert check.status == "warn"
        assert said in check.difference
        assert "sluice init" in check.repair
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE products ALTER price TYPE numeric(10,2)"))
        connection.execute(text("ALTER TABLE products ALTER name SET NOT NULL"))
        connection.execute(text("ALTER TABLE products ALTER name TYPE text"))
    assert found(services, "products", "schema").status == "pass"
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE products ALTER name TYPE varchar(255)"))


def test_a_table_that_clickhouse_has_otherwise_is_a_finding(
    services: Settings, engine: Engine
) -> None:
    wiring.query(services, "ALTER TABLE cdc.dim_customer ADD COLUMN odd String")
    check = found(services, "customers", "schema")
    assert (check.status, check.repair) == ("warn", "run: sluice init")
    wiring.initialise(services)
    assert found(services, "customers", "schema").status == "pass"


def test_a_topic_that_was_made_again_is_a_gap_until_a_resync(
    services: Settings, engine: Engine
) -> None:
    admin = AdminClient({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})
    for future in admin.delete_topics(["cdc.customers"]).values():
        future.result()
    Topics(services.kafka).ensure(["cdc.customers"])
    report = wiring.quality(services)
    gap = next(c for c in report.checks if (c.table, c.check) == ("customers", "gap"))
    assert (gap.status, gap.repair) == ("fail", "run: sluice resync customers")
    others = {c.table: c.status for c in report.checks if c.check in {"caught_up", "row_count"}}
    names = {table.name for table in CATALOG.tables} - {"customers"}
    assert others == dict.fromkeys(names, "pass")
    wiring.resync(services, "customers")
    assert found(services, "customers", "gap").status == "pass"
    assert wiring.quality(services).passed


FRESH = ("customers", "freshness")
LONG_AGO = (
    "INSERT INTO cdc.checkpoints SELECT * REPLACE (committed_at - 5000000 AS committed_at,"
    " generation + 1 AS generation) FROM cdc.checkpoints FINAL WHERE source_table = 'customers'"
)


def test_changes_that_nobody_drains_are_unsettled_and_after_a_time_of_their_own_a_warning(
    services: Settings, engine: Engine
) -> None:
    """No relay runs on this slot: the fence is never passed."""

    def late() -> Check:
        report = wiring.quality(alone, deep=True)
        ages.append(next(c.status for c in report.checks if (c.table, c.check) == FRESH))
        compared = {c.status for c in report.checks if c.check == "rows"}
        assert compared == {"unsettled"}
        return next(c for c in report.checks if (c.table, c.check) == ("orders", "caught_up"))

    def before(seconds: int, status: str) -> None:
        for table in ("orders", "customers"):
            wiring.query(
                services,
                "INSERT INTO cdc.quality_checks (source_table, check, status, checked_at) VALUES"
                f" ('{table}', 'caught_up', '{status}', now64(3) - {seconds})",
            )

    ages: list[str] = []

    short = replace(services, quality_seconds=1)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_create_logical_replication_slot('idle', 'pgoutput')"))
        connection.execute(text("UPDATE orders SET status = 'paid'"))
        alone = replace(short, relay=replace(services.relay, slot="idle"))
        try:
            wiring.query(services, "TRUNCATE TABLE cdc.quality_checks")
            wiring.query(services, LONG_AGO)
            before(5000, "pass")  # nobody looked since: it is late for no time yet
            first = late()
            assert first.status == "unsettled"
            assert "were not drained in 1 s" in first.sentence()
            before(200, "unsettled")
            second = late()
            assert second.status == "unsettled"
            assert "for about 3 min now" in second.difference
            before(400, "unsettled")
            assert late().status == "warn"
            before(2000, "unsettled")  # the state is old, and checks have found it so for as long
            assert late().status == "warn"
            assert ages == ["unsettled", "unsettled", "warn", "fail"]
        finally:
            connection.execute(text("SELECT pg_drop_replication_slot('idle')"))


def test_wal_that_grows_for_a_slot_that_nobody_reads_is_told_while_it_is_still_there(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "SLOT_LAG", Limit(warn=20_000_000, fail=10 * GIBIBYTE))
    alone = replace(services, relay=replace(services.relay, slot="idle"), quality_seconds=1)

    def told() -> dict[str, str]:
        checks = wiring.quality(alone).checks
        return {c.check: c.status for c in checks if c.table == "idle"}

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_create_logical_replication_slot('idle', 'pgoutput')"))
        try:
            assert told() == {"slot_lag": "pass", "wal_status": "pass"}
            grow = "SELECT pg_logical_emit_message(true, 'grow', repeat(md5(n::text), 31250))"
            connection.execute(text(f"{grow} FROM generate_series(1, 40) n"))
            assert told() == {"slot_lag": "warn", "wal_status": "pass"}
        finally:
            connection.execute(text("SELECT pg_drop_replication_slot('idle')"))


def test_a_commit_that_is_drained_before_anybody_can_see_it_is_no_finding(
    services: Settings, engine: Engine
) -> None:
    """A commit waits for a standby that never answers: ClickHouse is ahead of Postgres."""
    administer(engine, "ALTER ROLE postgres SET synchronous_commit = 'local'")
    administer(engine, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    stop = Event()
    waiting = Thread(target=insert_products, args=[engine, stop])
    reports: list[QualityReport] = []
    checking = Thread(target=lambda: reports.append(wiring.quality(services)))
    try:
        waiting.start()
        until(lambda: seen(engine, WAITING) == 1, "a commit waits for the standby")
        stop.set()

        def ahead() -> bool:
            wiring.drain(services, "products")
            return bool(wiring.query(services, PRODUCTS)[1][0][0] > seen(engine, ROWS))

        until(ahead, "ClickHouse has rows that PostgreSQL does not show")
        checking.start()
        until(lambda: seen(engine, EXACT_LOOK) > 0, "the check takes an exact look")
    finally:
        stop.set()
        administer(engine, "ALTER SYSTEM RESET synchronous_standby_names")
        administer(engine, "ALTER ROLE postgres RESET synchronous_commit")
    waiting.join(30)
    checking.join(60)
    (report,) = reports
    assert not report.failures


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
PRODUCTS, ROWS = "SELECT count() FROM olap.dim_product", "SELECT count(*) FROM products"
EXACT_LOOK = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '%snapshot%'"


def administer(engine: Engine, statement: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET synchronous_commit = local"))
        connection.execute(text(statement))
        connection.execute(text("SELECT pg_reload_conf()"))


def insert_products(engine: Engine, stop: Event) -> None:
    """One after another until the setting has come into effect and one waits."""
    for number in count(9000):
        if stop.is_set():
            return
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL synchronous_commit = on"))
            insert = "INSERT INTO products VALUES (:id, 'ahead', 'x', 1, now())"
            connection.execute(text(insert), {"id": number})


def seen(engine: Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(query)) or 0)
