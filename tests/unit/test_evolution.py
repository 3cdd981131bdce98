"""Which types hold every value of another."""

from __future__ import annotations

import pytest

from sluice.catalog import load_catalog
from sluice.warehouse.evolution import plan
from sluice.warehouse.widening import widens

CUSTOMERS = load_catalog("models").table("customers")


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        ("Int32", "Int64"),
        ("UInt32", "Int64"),
        ("UInt8", "UInt64"),
        ("Decimal(10, 2)", "Decimal(12, 4)"),
        ("Float32", "Nullable(Float64)"),
        ("String", "LowCardinality(Nullable(String))"),
        ("Enum8('a' = 1)", "Enum8('a' = 1, 'b' = 2)"),
    ],
)
def test_a_wider_type_is_safe_and_its_narrower_one_is_not(present: str, wanted: str) -> None:
    assert widens(present, wanted)
    assert not widens(wanted, present)


def test_a_dictionary_changes_no_value() -> None:
    assert widens("LowCardinality(String)", "String")
    assert widens("String", "LowCardinality(String)")


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        ("Int32", "UInt64"),
        ("UInt64", "Int64"),
        ("Decimal(10, 2)", "Decimal(10, 4)"),
        ("Decimal(10, 4)", "Decimal(12, 2)"),
        ("Nullable(Int32)", "Int64"),
        ("Int32", "String"),
        ("Int64", "Float64"),
        ("Enum8('a' = 1)", "Enum8('b' = 1)"),
        ("DateTime64(6, 'UTC')", "Date32"),
    ],
)
def test_a_type_that_loses_a_value_is_not_safe(present: str, wanted: str) -> None:
    assert not widens(present, wanted)


def test_another_key_stops_the_table_and_advises_to_make_it_anew() -> None:
    types = {column.name: column.clickhouse_type for column in CUSTOMERS.columns}
    found = plan(CUSTOMERS, types, types, types, {"id", "email"})
    assert found.differs == ("its order key is email, id, the model's key is id",)
    assert found.safe == ()
    assert found.advised == (
        "DROP TABLE cdc.history_customers_feed",
        "DROP TABLE cdc.history_customers",
        "DROP TABLE cdc.dim_customer",
    )
