"""The relations to query are described, with queries that run, and rows for who may see rows."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing
from html import unescape
from uuid import uuid4

import httpx
import pytest

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.operate.olap import describe, read_relations, read_sample
from sluice.settings import Settings
from tests.page.history import FAKED, LONG, PERSON

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
RELATIONS = {"dim_customer", "dim_order", "dim_product", "fact_order_item", "revenue_by_day"}
CUSTOMER = 900_000_002


@pytest.fixture(scope="module")
def clickhouse(services: Settings) -> Iterator[ClickHouse]:
    with closing(ClickHouse(services.clickhouse)) as session:
        yield session


@pytest.fixture(scope="module")
def customer(clickhouse: ClickHouse) -> Iterator[None]:
    """A customer whose values are personal, long and markup; before all others by its key."""
    row = {"id": -1, "email": PERSON, "name": LONG, "country": "Chile", "city": "Arica"}
    clickhouse.insert_row("cdc.dim_customer", {**row, "_version": 1, "_is_deleted": 0})
    yield
    clickhouse.execute("DELETE FROM cdc.dim_customer WHERE id = -1")


def test_every_relation_is_described_and_all_its_queries_run(clickhouse: ClickHouse) -> None:
    catalog = load_catalog("models")
    relations = read_relations(clickhouse, catalog)
    assert {one.name for one in relations} >= RELATIONS
    for relation in relations:
        of = describe(clickhouse, catalog, relation.name)
        assert of
        names, _ = clickhouse.table(f"SELECT * FROM olap.{relation.name} LIMIT 0")
        assert [column.name for column in of.columns] == names
        assert relation.columns == len(names)
        assert all(set(row) == set(names) for row in read_sample(clickhouse, of))
        assert len(of.queries) >= 2
        for query in of.queries:
            clickhouse.answer(query.text)


def test_what_clickhouse_does_not_describe_is_described_by_the_models(
    clickhouse: ClickHouse,
) -> None:
    catalog = load_catalog("models")
    comments = {one.name: one.comment for one in read_relations(clickhouse, catalog)}
    assert comments["dim_customer"].startswith("A customer of the store")
    assert comments["revenue_by_day"].startswith("Sums of fact_order_item by")
    fact = describe(clickhouse, catalog, "fact_order_item")
    assert fact
    columns = {column.name: column for column in fact.columns}
    assert columns["customer_country"].comment == "customers.country"
    assert columns["customer_country"].type == "LowCardinality(Nullable(String))"
    assert [query.title for query in fact.queries][2:] == [
        "By day of order_date",
        "By order_status",
    ]
    assert describe(clickhouse, catalog, "nothing") is None


def test_values_of_rows_are_for_those_who_may_repair_them(customer: None, person: Person) -> None:
    page = person("user").get("/sluice/olap/dim_customer").text
    assert PERSON in page
    assert FAKED not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "x" * 250 not in page
    rows = person("user").get("/sluice/api/v1/olap/dim_customer/rows").json()
    assert (rows[0]["id"], rows[0]["email"], len(rows[0]["name"])) == ("-1", PERSON, 200)
    page = person("viewer").get("/sluice/olap/dim_customer").text
    assert PERSON not in page
    assert "shown to users who may run the DAG sluice_resync" in page
    assert "LowCardinality(String)" in page
    refused = person("viewer").get("/sluice/api/v1/olap/dim_customer/rows")
    assert refused.status_code == 403


def test_a_query_opens_in_clickhouses_own_page(person: Person, services: Settings) -> None:
    page = person("viewer").get("/sluice/olap/fact_order_item").text
    address, query = re.findall(r'href="([^"#]+)#([^"]+)" target="_blank"', page)[0]
    assert address.startswith(f"http://127.0.0.1:{services.clickhouse.http_port}/play")
    text = b64decode(unescape(query)).decode()
    assert text == "SELECT * FROM olap.fact_order_item LIMIT 100"


def test_the_list_is_searched_by_name_and_a_wrong_name_is_none(person: Person) -> None:
    page = person("viewer").get("/sluice/olap", params={"q": "DIM_"}).text
    assert "dim_customer" in page
    assert "fact_order_item" not in page
    assert person("viewer").get("/sluice/olap/nothing").status_code == 404
    assert person("viewer").get("/sluice/api/v1/olap/nothing").status_code == 404
    assert person("user").get("/sluice/api/v1/olap/nothing/rows").status_code == 404


@pytest.fixture
def rebuild(clickhouse: ClickHouse) -> Iterator[str]:
    """When the fact of the rollup was rebuilt, seconds since 1970."""
    storage = str(uuid4())
    row = {"fact": "fact_order_item", "storage": storage, "version": 1, "mode": "incremental"}
    clickhouse.insert_row("cdc.rebuilds", {**row, "rows": 7, "deleted": 2, "seconds": 0.5})
    query = (
        "SELECT toString(toUnixTimestamp(finished_at)) FROM cdc.rebuilds"
        " WHERE storage = {storage:UUID}"
    )
    yield clickhouse.execute(query, storage=storage)[0][0]
    clickhouse.execute("TRUNCATE TABLE cdc.rebuilds")


def test_a_rollup_tells_when_it_was_updated(person: Person, rebuild: str) -> None:
    page = person("viewer").get("/sluice/olap/revenue_by_day").text
    assert 'href="/sluice/facts/fact_order_item"' in page
    assert "incremental rebuild of 7 facts" in page
    updates = page[page.index("updates-title") : page.index("queries-title")]
    assert f'data-at="{rebuild}"' in updates
    assert "updates-title" not in person("viewer").get("/sluice/olap/dim_customer").text


def test_a_rollup_that_was_never_updated_says_so(person: Person, clickhouse: ClickHouse) -> None:
    clickhouse.execute("TRUNCATE TABLE cdc.rebuilds")
    assert "none yet" in person("viewer").get("/sluice/olap/revenue_by_day").text
