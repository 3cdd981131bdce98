"""Repair by differences: said before, done to nothing else, kept key by key."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timezone
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.catalog.key_selection import Selection
from sluice.catalog.quality_options import Status
from sluice.clients.topics import Topics
from sluice.person import system_person
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import assert_fact_equals_join, checked, relaying

CATALOG = load_catalog("models")


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=40, orders=120, seed=3)
    with relaying(services):
        checked(services)
        yield made
    made.dispose()


def rows(settings: Settings, query: str) -> Any:
    return wiring.query(settings, query)[1]


def spoil(settings: Settings, engine: Engine, ghost: int) -> list[int]:
    """One order lost, one changed, one too many; their keys."""
    with engine.connect() as connection:
        lost, changed = connection.scalars(text("SELECT id FROM orders ORDER BY id LIMIT 2")).all()
    for statement in (
        f"DELETE FROM cdc.dim_order WHERE id = {lost}",
        "INSERT INTO cdc.dim_order SELECT * REPLACE ('odd' AS status, _version + 1 AS _version)"
        f" FROM cdc.dim_order FINAL WHERE id = {changed}",
        f"INSERT INTO cdc.dim_order SELECT * REPLACE ({ghost} AS id, 5 AS _version)"
        " FROM cdc.dim_order FINAL LIMIT 1",
    ):
        wiring.query(settings, statement)
    return [lost, changed, ghost]


@pytest.mark.services
def test_a_dry_run_says_what_would_change_and_changes_nothing(
    services: Settings, engine: Engine
) -> None:
    lost, changed, ghost = spoil(services, engine, 900001)
    counted = (
        "SELECT count(), sum(cityHash64(*)), (SELECT count() FROM cdc.resyncs),"
        " (SELECT count() FROM cdc.repairs) FROM cdc.dim_order FINAL"
    )
    before = rows(services, counted)
    said = wiring.forecast(services, "orders")
    assert said.startswith("orders: 3 rows would change: ")
    assert f"{changed} differs in status" in said
    assert f"{lost} is not in ClickHouse" in said
    assert f"{ghost} is not in Postgres" in said
    assert "1 rows would change" in wiring.forecast(services, "orders", keys=[str(lost)])
    some = wiring.forecast(services, "orders", lower=str(lost), upper=str(changed))
    assert "2 rows would change" in some
    assert "nothing differs" in wiring.forecast(services, "customers")
    assert rows(services, counted) == before
    wiring.resync(services, "orders")
    assert_fact_equals_join(services, engine)


@pytest.mark.services
def test_a_repair_reads_what_differs_and_keeps_each_key(services: Settings, engine: Engine) -> None:
    wiring.query(services, "TRUNCATE TABLE cdc.repairs")
    keys = spoil(services, engine, 900002)
    done = list(wiring.repair(services))
    (line,) = [line for line in done if line.startswith("orders: ")]
    assert line.startswith("orders: 2 rows read again")
    assert "(3 keys), 1 deleted" in line
    assert [one for one in done if one.startswith("customers: nothing differs")]
    kept = rows(services, "SELECT key, mode, difference FROM cdc.repairs ORDER BY toInt64(key)")
    assert [(key, mode) for key, mode, _ in kept] == [(str(key), "diff") for key in keys]
    assert kept[1][2] == f"{keys[1]} differs in status"
    assert wiring.quality(services, deep=True).passed
    assert_fact_equals_join(services, engine)


@pytest.mark.services
def test_the_status_of_a_table_says_what_is_wrong_and_then_who_repaired_it(
    services: Settings, engine: Engine
) -> None:
    assert wiring.quality(services, deep=True).passed
    keys = spoil(services, engine, 900011)
    report = wiring.quality(services, deep=True)
    assert report.unequal == ("orders",)
    assert [c.follows for c in report.checks if c.check == "fact_rows"] == [("orders",)]
    wrong = wiring.table_status(services, "orders")
    remedies = [one["remedy"] for one in wrong["concerns"]]
    assert not wrong["healthy"]
    compared = {int(one["key"]): one for one in wrong["differing"]}
    lost, changed, ghost = (compared[key] for key in keys)
    assert (lost["in_postgres"], lost["in_clickhouse"]) == (True, False)
    assert [(one["column"], one["clickhouse"]) for one in changed["values"]] == [("status", "odd")]
    assert (ghost["in_postgres"], ghost["in_clickhouse"]) == (False, True)
    dates = [row["values"] for row in (lost, ghost)]
    moments = [one for values in dates for one in values if one["column"] == "order_date"]
    with engine.connect() as connection:
        placed = connection.scalar(text(f"SELECT order_date FROM orders WHERE id = {keys[0]}"))
    assert moments[0]["postgres"] == str(placed.astimezone(timezone.utc))
    assert moments[1]["clickhouse"].endswith("+00:00")
    assert [one.split().count("--key") for one in remedies if one] == [len(keys)]
    assert ("orders",) in [one["follows"] for one in wrong["concerns"]]
    assert wiring.resync(services, "orders", keys=[str(key) for key in keys]).deleted == 1
    wiring.rebuild_all(services)
    assert wiring.quality(services, deep=True).passed
    right = wiring.table_status(services, "orders")
    (closed,) = (one for one in right["closed"] if one["check"] == "rows")
    assert closed["repair"] == right["last_resync"]
    assert (closed["repair"]["done_by"], closed["repair"]["rows"]) == (system_person(), 2)
    assert {one["status"] for one in right["checks"] if one["check"] == "rows"} == {"pass"}


@pytest.mark.services
def test_a_key_of_an_earlier_model_hides_no_status(services: Settings, engine: Engine) -> None:
    wiring.query(
        services,
        "INSERT INTO cdc.quality_checks (source_table, check, status, postgres, keys)"
        " VALUES ('orders', 'rows', 'fail', 1, ['1,2'])",
    )
    state = wiring.table_status(services, "orders")
    assert (state["differing"], state["errors"]) == ([], {})
    assert ["1,2"] in [one["keys"] for one in state["checks"]]
    assert wiring.quality(services, deep=True).passed


@pytest.mark.services
def test_a_check_of_the_repaired_table_closes_what_its_missing_rows_caused_in_others(
    services: Settings, engine: Engine
) -> None:
    with engine.connect() as connection:
        key = connection.scalar(text("SELECT order_id FROM order_items LIMIT 1"))
    wiring.query(services, f"DELETE FROM cdc.dim_order WHERE id = {key}")

    def orphans(*tables: str) -> list[tuple[Status, tuple[str, ...]]]:
        report = wiring.quality(services, tables, deep=True)
        return [(c.status, c.follows) for c in report.checks if c.check == "orphans order"]

    assert orphans() == [(Status.WARN, ("orders",))]
    wiring.resync(services, "orders", keys=[str(key)])
    assert orphans("orders") == [(Status.PASS, ())]
    assert orphans("orders") == []
    assert_fact_equals_join(services, engine)


@pytest.mark.services
def test_who_did_it_is_kept_whatever_the_variables_say_and_in_tables_of_before(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in ("resyncs", "repairs", "rebuilds"):
        wiring.query(services, f"ALTER TABLE cdc.{table} DROP COLUMN done_by")
    wiring.initialise(services)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "somebody-else")
    for ghost, person, name in ((900009, account(), system_person()), (900010, "Ada", "Ada")):
        settings = by(name, services)
        keys = spoil(services, engine, ghost)
        assert list(wiring.repair(settings, ["orders"]))
        wiring.rebuild(settings, "fact_order_item", full=True)
        for query, count in (
            ("SELECT done_by FROM cdc.repairs ORDER BY repaired_at DESC LIMIT 3", len(keys)),
            ("SELECT done_by FROM cdc.resyncs ORDER BY finished_at DESC LIMIT 1", 1),
            ("SELECT done_by FROM cdc.rebuilds ORDER BY finished_at DESC LIMIT 1", 1),
        ):
            assert rows(services, query) == [(person,)] * count
    assert_fact_equals_join(services, engine)


def account() -> str:
    """The account that runs the tests, as the system knows it."""
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


def by(person: str, settings: Settings) -> Settings:
    return replace(settings, clickhouse=replace(settings.clickhouse, person=person))


@pytest.mark.services
def test_a_repair_of_more_rows_of_one_bucket_than_are_named_brings_all_of_them(
    services: Settings, engine: Engine
) -> None:
    wiring.query(
        services,
        "INSERT INTO cdc.dim_order SELECT one.* REPLACE (5000000 + number AS id, 5 AS _version)"
        " FROM (SELECT * FROM cdc.dim_order FINAL LIMIT 1) AS one, numbers(1500) AS n",
    )
    assert "more than 1000 rows would change" in wiring.forecast(services, "orders")
    assert any(", 1500 deleted" in line for line in wiring.repair(services, ["orders"]))
    assert_fact_equals_join(services, engine)


@pytest.mark.services
def test_findings_are_repaired_by_themselves_only_where_that_is_set(
    services: Settings, engine: Engine
) -> None:
    wiring.query(services, "TRUNCATE TABLE cdc.repairs")
    keys = spoil(services, engine, 900003)
    bare = wiring.quality(replace(services, repair="off"), ["orders"], deep=True)
    assert {c.repair for c in bare.checks if c.check in {"rows", "row_count"}} == {""}
    told = wiring.quality(services, ["orders"], deep=True)
    assert not told.passed
    assert any(c.repair.startswith("run: sluice resync orders --key") for c in told.checks)
    assert rows(services, "SELECT count() FROM cdc.repairs") == [(0,)]
    assert wiring.quality(replace(services, repair="auto"), ["orders"], deep=True).passed
    kept = rows(services, "SELECT key, mode FROM cdc.repairs ORDER BY toInt64(key)")
    assert kept == [(str(key), "auto") for key in keys]
    assert_fact_equals_join(services, engine)


@pytest.mark.services
def test_one_command_closes_a_gap_and_what_was_lost_beside_it(
    services: Settings, engine: Engine
) -> None:
    spoil(services, engine, 900004)
    admin = AdminClient({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})
    for future in admin.delete_topics(["cdc.customers"]).values():
        future.result()
    Topics(services.kafka).ensure(["cdc.customers"])
    with engine.begin() as connection:
        connection.execute(text("UPDATE customers SET city = 'Ulm' WHERE id % 3 = 0"))
    done = list(wiring.repair(services))
    told = [line for line in done if line.startswith("customers: ")]
    assert "cdc.customers was deleted and recreated" in told[0]
    assert "(all rows)" not in told[1]
    assert any("(3 keys), 1 deleted" in line for line in done), done
    assert_fact_equals_join(services, engine)


@pytest.mark.parametrize(
    ("selection", "held"),
    [
        (Selection(), {"9", "10", "11"}),
        (Selection(lower=("10",)), {"10", "11"}),
        (Selection(lower=("2",), upper=("10",)), {"9", "10"}),
        (Selection(keys=(("9",),)), {"9"}),
    ],
)
def test_a_selection_holds_the_keys_that_postgres_would_select(
    selection: Selection, held: set[str]
) -> None:
    table = CATALOG.table("orders")
    assert {key for key in ("9", "10", "11") if selection.holds(table, (key,))} == held


@pytest.mark.services
def test_after_clickhouse_lost_everything_both_sides_are_equal_again(
    services: Settings, engine: Engine
) -> None:
    for database in ("olap", "cdc"):
        wiring.query(services, f"DROP DATABASE {database} SYNC")
    wiring.initialise(services)
    with engine.begin() as connection:
        connection.execute(text("UPDATE customers SET city = 'Brno' WHERE id % 3 = 1"))
    list(wiring.repair(services))
    assert wiring.quality(services, deep=True).passed
    assert_fact_equals_join(services, engine)
