"""Findings are grouped under the wrong rows that cause them."""

from __future__ import annotations

import pytest

from sluice.catalog import load_catalog
from sluice.catalog.quality_options import Status
from sluice.errors import NeedsPerson
from sluice.quality.causes import causes_in, differing
from sluice.quality.checks import Check, QualityReport, not_checked

CAUSES = causes_in(load_catalog("models"))


def finding(table: str, check: str, *, status: Status = Status.FAIL, lacks: int = 3) -> Check:
    return Check(
        table=table,
        check=check,
        status=status,
        postgres=100,
        clickhouse=100 - lacks,
        repair=f"run: the repair of {table}",
    )


def test_findings_come_behind_the_wrong_rows_that_they_follow_from() -> None:
    checks = (
        finding("orders", "row_count"),
        finding("order_items", "orphans order", status=Status.WARN),
        finding("products", "schema", status=Status.WARN),
        finding("fact_order_item", "fact_rows"),
        finding("revenue_by_day", "rollup_rows"),
        finding("customers", "rows", lacks=0),
        finding("orders", "rows"),
        finding("products", "rows", status=Status.PASS),
    )
    report = QualityReport(checks=CAUSES.name(checks))
    assert report.findings == [
        "customers: rows fail: Postgres 100, ClickHouse 100; run: the repair of customers",
        "orders: rows fail: Postgres 100, ClickHouse 97; run: the repair of orders",
        "  fact_order_item: fact_rows fail: Postgres 100, ClickHouse 97;"
        " follows from orders, customers and ends with that repair",
        "  orders: row_count fail: Postgres 100, ClickHouse 97;"
        " follows from orders and ends with that repair",
        "  revenue_by_day: rollup_rows fail: Postgres 100, ClickHouse 97;"
        " follows from orders, customers and ends with that repair",
        "  order_items: orphans order warn: Postgres 100, ClickHouse 97;"
        " follows from orders and ends with that repair",
        "products: schema warn: Postgres 100, ClickHouse 97; run: the repair of products",
    ]


@pytest.mark.parametrize(
    "others",
    [
        (),
        (finding("orders", "schema"),),
        (finding("orders", "rows", status=Status.UNSETTLED),),
        (finding("orders", "rows", status=Status.WARN),),
    ],
)
def test_a_fact_that_is_wrong_by_itself_keeps_its_repair(others: tuple[Check, ...]) -> None:
    fact, *_ = CAUSES.name((finding("fact_order_item", "fact_rows"), *others))
    assert (fact.follows, fact.advice) == ((), "run: the repair of fact_order_item")


def test_checks_that_an_error_prevented_cause_nothing_and_keep_their_repair() -> None:
    prevented = NeedsPerson("permission denied for table orders", remedy="grant it")
    checks = CAUSES.name(
        (
            not_checked("orders", "row_count", prevented),
            not_checked("orders", "rows", prevented),
            not_checked("fact_order_item", "fact_rows", prevented),
            finding("revenue_by_day", "rollup_rows"),
        )
    )
    assert [check.follows for check in checks] == [()] * 4
    assert differing(checks) == ()
    assert differing((finding("orders", "rows"), *checks)) == ("orders",)
    assert all(check.advice for check in checks)


def test_a_late_fact_does_not_follow_from_wrong_rows() -> None:
    late, _ = CAUSES.name((finding("fact_order_item", "freshness"), finding("orders", "rows")))
    assert late.follows == ()


def test_a_count_that_the_named_rows_do_not_explain_keeps_its_repair() -> None:
    counted, _ = CAUSES.name((finding("orders", "row_count", lacks=4), finding("orders", "rows")))
    assert (counted.follows, counted.advice) == ((), "run: the repair of orders")
