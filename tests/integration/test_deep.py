"""The deep check: every corruption is found, named and repaired; nothing is found where none is."""

from __future__ import annotations

import random
import shlex
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.quality import Check
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import Traffic, load
from tests.integration.test_loop import checked, relaying
from tests.integration.test_types import (  # noqa: F401 - fixtures
    drained,
    insert,
    postgres,
    settings,
    stream,
)
from tests.type_samples import SAMPLES

pytestmark = pytest.mark.services

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
    from tests.integration.test_types import CATALOG

    kind = CATALOG.table("samples").column(name).type.clickhouse
    found = max((start for start in OTHER if kind.startswith(start)), key=len)
    return OTHER[found].replace("{type}", f"Nullable({kind})").replace("{}", f"`{name}`")


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


def test_one_wrong_value_in_a_column_of_any_type_is_found_named_and_repaired(
    settings: Settings,  # noqa: F811
    postgres: Any,  # noqa: F811
    stream: None,  # noqa: F811
) -> None:
    assert set(GOOD) == set(SAMPLES)
    good: dict[str, str | None] = {**GOOD}
    keys = {name: insert(postgres, good) for name in GOOD}
    nulls = {name: insert(postgres, good) for name in ("whole", "short", "moment", "choice")}
    insert(postgres, dict.fromkeys(("numbers", "words", "instants", "amounts"), "{}"))
    drained(settings)
    assert deep(settings, "samples").status == "pass"
    for name, key in keys.items():
        corrupt(settings, key, name, altered(name))
    for name, key in nulls.items():
        corrupt(settings, key, name, "NULL")
    found = deep(settings, "samples")
    assert found.status == "fail"
    assert set(found.keys) == {str(key) for key in (*keys.values(), *nulls.values())}
    for name, key in (*keys.items(), *nulls.items()):
        assert f"{key} differs in {name}" in found.difference, found.difference
    repaired(settings, found)
    assert deep(settings, "samples").status == "pass"


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
    found = report.checks[-1]
    (counted,) = (check for check in report.checks if check.check == "row_count")
    assert (counted.check, counted.status) == ("row_count", "pass")
    assert (found.check, found.status) == ("rows", "fail")
    assert set(found.keys) == {*map(str, lost), "800001", "-5"}
    for key, kind in ((lost[0], "is not in ClickHouse"), (-5, "is not in Postgres")):
        assert f"{key} {kind}" in found.difference
    repaired(services, found)
    assert deep(services, "orders").status == "pass"


def test_a_delete_that_was_lost_and_a_version_beyond_all_are_found_and_repaired(
    services: Settings, engine: Engine
) -> None:
    with engine.begin() as connection:
        gone, wrong = connection.scalars(text("SELECT id FROM order_items LIMIT 2")).all()
        connection.execute(text("DELETE FROM order_items WHERE id = :id"), {"id": gone})
    checked(services)
    for sql in (
        f"DELETE FROM cdc.src_order_item WHERE id = {gone} AND _is_deleted = 1",
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
    stop, written = threading.Event(), 0

    def write() -> None:
        nonlocal written
        traffic = Traffic(random.Random(9))
        while not stop.wait(0.01):
            with engine.begin() as connection:
                traffic.change(connection)
            written += 1

    busy = threading.Thread(target=write)
    busy.start()
    try:
        for _ in range(3):
            before = written
            report = wiring.quality(services, deep=True)
            assert report.passed, [check.sentence() for check in report.checks]
            assert written > before
    finally:
        stop.set()
        busy.join()
