"""The deep check: every corruption is found, named and repaired; nothing is found where none is."""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture import fenced_snapshot as reading
from sluice.capture.fenced_snapshot import exact_snapshot
from sluice.errors import NotReady
from sluice.quality import range_check, small_tables
from sluice.quality.checks import Check
from sluice.quality.deep_check import DeepCheck
from sluice.quality.differences import TableFindings
from sluice.settings import Settings
from sluice.warehouse.key_ranges import Plan
from store_api.database import make_engine
from store_api.demo import Traffic, load
from tests.integration import samples
from tests.integration.samples import drained, insert
from tests.support.background import repeating
from tests.support.pipeline import CATALOG, checked, relaying
from tests.support.services import own_services
from tests.support.type_samples import SAMPLES

pytestmark = pytest.mark.services
services = own_services  # test_types has tables and a slot of the same names
settings, postgres, stream = samples.settings, samples.postgres, samples.stream

# A value of each type, as Postgres is given it.
GOOD = {
    "small": "-5",
    "whole": "7",
    "big": "9007199254740993",
    "exact": "12.000000000001",
    "widest": "1.5",
    "cents": "1.50",
    "thousands": "3000",
    "free": "1.10",
    "double": "0.1",
    "single": "0.1",
    "yes": "true",
    "short": "a,b'\\",
    "long": "long",
    "day": "2026-01-01",
    "daytime": "07:30:00.000001",
    "moment": "1969-12-31 23:59:59.5",
    "instant": "2026-01-01 00:00:00.000001+00",
    "length": "3 days 00:00:01",
    "identity": "00000000-0000-0000-0000-0000000000ff",
    "choice": "a",
    "raw": "\\x00ff",
    "document": '{"a": 1.10}',
    "kept": '{"a":1.10, "a":2}',
    "numbers": "{1,NULL,3}",
    "words": '{"a b",NULL,"{}"}',
    "instants": '{"2026-01-01 00:00:00+00"}',
    "amounts": "{1.5,NULL}",
    "address": "10.0.0.1",
    "network": "10.0.0.0/8",
    "card": "08:00:2b:01:02:03",
    "bits": "1010",
    "span": "[1,5)",
    "days": "[2026-01-01,2026-02-01)",
    "spell": "[2026-01-01 00:00:00+00,)",
    "spans": "{[1,2),[3.5,4)}",
}
# A later value of each.
LATER = {
    "small": "6",
    "whole": "-8",
    "big": "9007199254740994",
    "exact": "12.000000000002",
    "widest": "1.500000000000000000000000000001",
    "cents": "1.51",
    "thousands": "4000",
    "free": "1.1",
    "double": "0.10000000000000002",
    "single": "0.2",
    "yes": "false",
    "short": "a,b'\\ ",
    "long": "",
    "day": "2026-01-02",
    "daytime": "07:30:00.000002",
    "moment": "1969-12-31 23:59:59.500001",
    "instant": "2026-01-01 00:00:00.000002+00",
    "length": "3 days 00:00:02",
    "identity": "00000000-0000-0000-0000-0000000000fe",
    "choice": "ü",
    "raw": "\\x00",
    "document": '{"a": 1.1}',
    "kept": '{"a":1.10,"a":2}',
    "numbers": "{1,0,3}",
    "words": '{"a b",NULL,"{}",""}',
    "instants": '{"2026-01-01 00:00:00+01"}',
    "amounts": "{1.5,0}",
    "address": "10.0.0.2",
    "network": "10.0.0.0/9",
    "card": "08:00:2b:01:02:04",
    "bits": "1011",
    "span": "[1,6)",
    "days": "[2026-01-01,2026-02-02)",
    "spell": "[2026-01-01 00:00:00+00,infinity)",
    "spans": "{[1,2),[3.5,4]}",
}
# Another value, by the ClickHouse type's beginning.
OTHER = {
    "Int": "{} - 1",
    "Decimal": "CAST({} + 1 AS {type})",
    "Float": "{} * 2",
    "Bool": "NOT {}",
    "String": "concat(assumeNotNull({}), ' ')",
    "Date32": "{} - 1",
    "DateTime64": "{} + toIntervalMicrosecond(1)",
    "UUID": "generateUUIDv4()",
    "Array(Nullable(DateTime64": "arrayMap(x -> x + toIntervalMicrosecond(1), {})",
    "Array": "arrayPushBack({}, NULL)",
}


def altered(name: str) -> str:
    kind = samples.CATALOG.table("samples").column(name).type.clickhouse
    found = max((start for start in OTHER if kind.startswith(start)), key=len)
    return OTHER[found].replace("{type}", f"Nullable({kind})").replace("{}", f"`{name}`")


def nullable(name: str) -> bool:
    return samples.CATALOG.table("samples").column(name).nullable


def corrupt(of: Settings, key: int, column: str, expression: str) -> None:
    """Another value under a version that is a little newer, as a faulty writer would leave it."""
    wiring.query(
        of,
        f"INSERT INTO cdc.dim_sample SELECT * REPLACE ({expression} AS `{column}`,"
        f" _version + 1 AS _version) FROM cdc.dim_sample FINAL WHERE id = {key}",
    )


def deep(of: Settings, table: str) -> Check:
    report = wiring.quality(of, [table], deep=True)
    return next(check for check in report.checks if check.check == "rows")


def repaired(of: Settings, check: Check) -> None:
    """By the very command that the check names."""
    command = shlex.split(check.repair.removeprefix("run: "))
    assert command[:2] == ["sluice", "resync"]
    keys = [part for part in command[3:] if part != "--key"]
    wiring.resync(of, command[2], keys=keys)


ANOTHER, NULLED, FILLED, STALE = "another value", "a wrong NULL", "a lost NULL", "a stale version"


def plant(of: Settings, kind: str, keys: dict[str, int], good: int) -> None:
    """Spoil the column that each row is for."""
    if kind == STALE:
        listed = ", ".join(map(str, keys.values()))
        newest = f"SELECT id, max(_version) FROM cdc.history_samples WHERE id IN ({listed})"
        for statement in (
            f"DELETE FROM cdc.dim_sample WHERE id IN ({listed})",
            f"DELETE FROM cdc.history_samples WHERE (id, _version) IN ({newest} GROUP BY id)",
            f"INSERT INTO cdc.dim_sample SELECT * FROM cdc.history_samples WHERE id IN ({listed})",
        ):
            wiring.query(of, statement)
    for name, key in {} if kind == STALE else keys.items():
        value = f"(SELECT `{name}` FROM cdc.dim_sample FINAL WHERE id = {good})"
        corrupt(of, key, name, {ANOTHER: altered(name), NULLED: "NULL", FILLED: value}[kind])


@pytest.mark.parametrize("kind", [ANOTHER, NULLED, FILLED, STALE])
def test_one_wrong_value_in_a_column_of_any_type_is_found_named_and_repaired(
    settings: Settings,
    postgres: Any,
    stream: None,
    kind: str,
) -> None:
    assert set(GOOD) == set(LATER) == set(SAMPLES)
    good: dict[str, str | None] = {**GOOD}
    whole = insert(postgres, good)
    insert(postgres, dict.fromkeys(("numbers", "words", "instants", "amounts"), "{}"))
    names = [name for name in GOOD if kind in {ANOTHER, STALE} or nullable(name)]
    keys = {
        name: insert(postgres, {**good, name: None} if kind == FILLED else good) for name in names
    }
    drained(settings)
    if kind == STALE:
        for name, key in keys.items():
            postgres.execute(f'UPDATE samples SET "{name}" = %s WHERE id = %s', [LATER[name], key])
        drained(settings)
    assert deep(settings, "samples").status == "pass"
    plant(settings, kind, keys, whole)
    found = deep(settings, "samples")
    assert found.status == "fail"
    assert set(found.keys) == {str(key) for key in keys.values()}
    for name, key in keys.items():
        assert f"{key} differs in {name}" in found.difference, found.difference
    compared = wiring.compare(settings, "samples", found.keys)
    assert {row.key: [value.column for value in row.differing] for row in compared} == {
        str(key): [name] for name, key in keys.items()
    }
    repaired(settings, found)
    assert deep(settings, "samples").status == "pass"


def test_rows_of_every_type_that_are_lost_too_many_or_twice_are_found_though_the_counts_agree(
    settings: Settings,
    postgres: Any,
    stream: None,
) -> None:
    missing, deleted, twice = (insert(postgres, {**GOOD}) for _ in range(3))
    drained(settings)
    postgres.execute("DELETE FROM samples WHERE id = %s", [deleted])
    drained(settings)
    live = f"FROM (SELECT * FROM cdc.dim_sample FINAL WHERE id = {twice})"
    for statement in (
        f"DELETE FROM cdc.dim_sample WHERE id = {missing}",
        "INSERT INTO cdc.dim_sample SELECT * REPLACE (0 AS _is_deleted, _version + 1 AS _version)"
        f" FROM cdc.history_samples WHERE id = {deleted} ORDER BY _version DESC LIMIT 1",
        f"INSERT INTO cdc.dim_sample SELECT * {live}",  # is no other row to anybody
    ):
        wiring.query(settings, statement)
    found = deep(settings, "samples")
    assert found.postgres == found.clickhouse
    assert set(found.keys) == {str(missing), str(deleted)}
    wiring.query(settings, f"INSERT INTO cdc.dim_sample SELECT * REPLACE (-id AS id) {live}")
    found = deep(settings, "samples")
    assert set(found.keys) == {str(missing), str(deleted), str(-twice)}
    assert f"{missing} is not in ClickHouse" in found.difference
    assert f"{deleted} is not in Postgres" in found.difference
    assert f"{-twice} is not in Postgres" in found.difference
    nowhere = 2**31 - 1
    sides = {
        row.key: (row.in_postgres, row.in_clickhouse, row.equal)
        for row in wiring.compare(settings, "samples", [*found.keys, str(nowhere)])
    }
    assert sides == {
        str(missing): (True, False, False),
        str(deleted): (False, True, False),
        str(-twice): (False, True, False),
        str(nowhere): (False, False, True),
    }
    repaired(settings, found)
    assert deep(settings, "samples").status == "pass"
    assert all(row.equal for row in wiring.compare(settings, "samples", found.keys))


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=50, orders=200, seed=1)
    with relaying(services):
        checked(services)
        yield made
    made.dispose()


def test_rows_lost_and_rows_too_many_that_cancel_out_in_the_counts_are_found(
    services: Settings, engine: Engine
) -> None:
    with engine.connect() as connection:
        lost = connection.scalars(text("SELECT id FROM orders ORDER BY id LIMIT 2")).all()
    listed = ", ".join(map(str, lost))
    for sql in (
        f"DELETE FROM cdc.dim_order WHERE id IN ({listed})",
        "INSERT INTO cdc.dim_order SELECT * REPLACE (800001 AS id)"
        " FROM cdc.dim_order FINAL LIMIT 1",
        "INSERT INTO cdc.dim_order SELECT * REPLACE (-5 AS id) FROM cdc.dim_order FINAL LIMIT 1",
    ):
        wiring.query(services, sql)
    report = wiring.quality(services, ["orders"], deep=True)
    (found,) = (check for check in report.checks if check.check == "rows")
    (counted,) = (check for check in report.checks if check.check == "row_count")
    assert (counted.check, counted.status) == ("row_count", "pass")
    assert (found.check, found.status) == ("rows", "fail")
    assert set(found.keys) == {*map(str, lost), "800001", "-5"}
    for key, kind in ((lost[0], "is not in ClickHouse"), (-5, "is not in Postgres")):
        assert f"{key} {kind}" in found.difference
    repaired(services, found)
    assert deep(services, "orders").status == "pass"


def test_what_a_resync_repaired_after_it_was_compared_is_no_finding(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that began before the repair would open the finding again."""
    compare, compared = DeepCheck._table, list[int]()

    def and_then_repaired(self: DeepCheck, snapshots: Any, plan: Plan) -> TableFindings:
        findings = compare(self, snapshots, plan)
        if plan.table.name == "orders":
            compared.append(len(findings.differences))
            if len(compared) == 1:
                wiring.resync(services, "orders", keys=[findings.differences[0].key])
        return findings

    wiring.query(
        services,
        "INSERT INTO cdc.dim_order SELECT * REPLACE ('wrong' AS status, _version + 1 AS _version)"
        " FROM cdc.dim_order FINAL ORDER BY id LIMIT 1",
    )
    monkeypatch.setattr(DeepCheck, "_table", and_then_repaired)
    assert deep(services, "orders").status == "pass"
    assert compared[0] == 1


def test_a_delete_that_was_lost_and_a_version_beyond_all_are_found_and_repaired(
    services: Settings, engine: Engine
) -> None:
    with engine.begin() as connection:
        gone, wrong = connection.scalars(text("SELECT id FROM order_items LIMIT 2")).all()
        connection.execute(text("DELETE FROM order_items WHERE id = :id"), {"id": gone})
    checked(services)
    for sql in (
        "INSERT INTO cdc.src_order_item SELECT * REPLACE (0 AS _is_deleted, _version + 1 AS"
        f" _version) FROM cdc.history_order_items WHERE id = {gone} ORDER BY _version DESC LIMIT 1",
        "INSERT INTO cdc.src_order_item SELECT * REPLACE (7777 AS quantity,"
        " bitShiftLeft(toUInt128(1), 120) AS _version) FROM cdc.src_order_item FINAL"
        f" WHERE id = {wrong}",
    ):
        wiring.query(services, sql)
    found = deep(services, "order_items")
    assert {str(gone), str(wrong)} <= set(found.keys)
    repaired(services, found)
    assert deep(services, "order_items").status == "pass"


def test_a_fact_that_differs_from_its_join_is_found_and_repaired(
    services: Settings, engine: Engine
) -> None:
    checked(services)
    wiring.query(
        services,
        "INSERT INTO cdc.fact_order_item SELECT * REPLACE ('wrong' AS customer_city,"
        " _version + 1 AS _version) FROM cdc.fact_order_item FINAL ORDER BY order_item_id LIMIT 1",
    )
    report = wiring.quality(services, deep=True)
    (found,) = [check for check in report.checks if check.check == "fact_rows"]
    assert found.status == "fail"
    assert len(found.keys) == 1
    assert found.repair == "run: sluice rebuild --full"
    wiring.rebuild(services, "fact_order_item", full=True)
    assert wiring.quality(services, deep=True).passed


def test_writes_that_go_on_raise_no_alarm(services: Settings, engine: Engine) -> None:
    traffic, written = Traffic(random.Random(9)), 0

    def write() -> None:
        nonlocal written
        with engine.begin() as connection:
            traffic.change(connection)
        written += 1

    with repeating(write, 0.05):
        for _ in range(3):
            before = written
            report = wiring.quality(services, deep=True)
            assert not report.failures
            assert written > before


def test_a_table_that_is_too_large_for_counting_is_left_to_the_deep_check(
    services: Settings, engine: Engine
) -> None:
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE"))
        customers = connection.scalar(text("SELECT count(*) FROM customers"))
    limited = replace(services, count_rows=customers)
    checks = {(check.table, check.check) for check in wiring.quality(limited, deep=True).checks}
    counted = {table for table, check in checks if check in {"row_count", "fact_row_count"}}
    assert counted == {"customers", "products"}
    assert {table for table, check in checks if check == "rows"} >= {"orders", "order_items"}
    assert ("fact_order_item", "fact_rows") in checks


def test_a_query_that_takes_too_long_ends_and_the_check_says_so(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "(SELECT pg_sleep(30) IS NULL)::int"
    for module in (range_check, small_tables):
        monkeypatch.setattr(module, "postgres_checksum", lambda _: slow)
    report = wiring.quality(replace(services, statement_seconds=1), ["orders"], deep=True)
    (check,) = (c for c in report.checks if (c.table, c.check) == ("orders", "rows"))
    assert check.status == "unsettled"
    assert report.passed
    with pytest.raises(NotReady, match="did not finish a query: canceling statement"):
        report.require_passed()


def test_a_throttled_check_queries_postgres_for_no_more_than_its_share_of_the_time(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exact_snapshot(replace(services, quality_load=0.25), lambda _: {}) as snapshot:
        begun = time.monotonic()
        snapshot.rows("SELECT pg_sleep(0.5)")
        assert time.monotonic() - begun >= 2
        monkeypatch.setattr(reading, "_PAGES_IN_A_PIECE", 1)
        assert len(snapshot.pieces(CATALOG.table("order_items"))) > 2
    throttled = replace(services, quality_load=0.5)
    found = deep(throttled, "order_items")
    with engine.connect() as connection:
        rows, key = connection.execute(text("SELECT count(*), max(id) FROM order_items")).one()
    assert (found.status, found.postgres, found.clickhouse) == ("pass", rows, rows)
    wiring.query(services, f"DELETE FROM cdc.src_order_item WHERE id = {key}")
    found = deep(throttled, "order_items")
    assert (found.status, found.keys) == ("fail", (str(key),))
    repaired(services, found)
