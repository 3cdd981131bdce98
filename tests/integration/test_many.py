"""Many tables are counted by few queries, and one in trouble does not take the others along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import NotReady, Unreachable
from sluice.execution.outcomes import Outcomes
from sluice.operate.status import live_rows
from sluice.settings import Settings
from tests.support.services import free_ports

pytestmark = pytest.mark.services
STORAGES = ("dim_customer", "dim_product", "dim_order", "src_order_item", "fact_order_item")
MANY = {f"table '{number}'": STORAGES[number % len(STORAGES)] for number in range(301)}


@pytest.fixture(scope="module")
def clickhouse(services: Settings) -> Iterator[ClickHouse]:
    with closing(ClickHouse(services.clickhouse)) as session:
        yield session


def asked(clickhouse: ClickHouse) -> int:
    """The queries that this server has got, this one included."""
    query = "SELECT sum(value) FROM system.events WHERE event = 'Query'"
    return int(clickhouse.execute(query)[0][0])


def test_tables_are_counted_fifty_in_a_query(clickhouse: ClickHouse) -> None:
    outcomes, before = Outcomes(), asked(clickhouse)
    rows = live_rows(clickhouse, MANY, outcomes)
    assert asked(clickhouse) - before - 1 <= 7
    assert rows.keys() == MANY.keys()
    assert outcomes.troubles == {}
    for name, storage in list(MANY.items())[: len(STORAGES)]:
        count = f"SELECT count() FROM cdc.{storage} FINAL"
        assert rows[name] == clickhouse.execute(count)[0][0]


@pytest.mark.parametrize("places", [[0], [49, 50], [17, 299], [300]])
def test_a_table_that_cannot_be_counted_is_named_and_the_others_are_counted(
    places: list[int], clickhouse: ClickHouse
) -> None:
    gone = {list(MANY)[place]: "no_such_table" for place in places}
    outcomes = Outcomes()
    rows = live_rows(clickhouse, {**MANY, **gone}, outcomes)
    assert rows.keys() == MANY.keys() - gone.keys()
    assert outcomes.troubles.keys() == gone.keys()
    assert all(isinstance(error, NotReady) for error in outcomes.troubles.values())


def test_a_server_that_does_not_answer_is_not_asked_for_each_table(services: Settings) -> None:
    (port,) = free_ports(1)
    nobody = replace(services.clickhouse, port=port, account=None)
    with closing(ClickHouse(nobody)) as session, pytest.raises(Unreachable):
        live_rows(session, MANY, Outcomes())
