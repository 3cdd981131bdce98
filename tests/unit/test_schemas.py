"""Schemas at run time, profiles, and generated text for odd models."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import ARRAY, Computed, Date, Integer, Numeric, String
from sqlalchemy.dialects.postgresql import MONEY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from models import generated
from models.customer import Customer
from models.order_item import OrderItem
from sluice.catalog import load_catalog
from sluice.catalog.models import describe
from sluice.errors import WrongUsage
from sluice.generate.files import write_files
from sluice.generate.runtime_schemas import sqlalchemy_to_pydantic


@pytest.mark.parametrize("model", [Customer, OrderItem])
def test_the_schema_at_run_time_is_the_generated_one(model: type[Any]) -> None:
    made = sqlalchemy_to_pydantic(model)
    assert made.model_json_schema() == getattr(generated, model.__name__).model_json_schema()
    assert made.__doc__ == getattr(generated, model.__name__).__doc__
    without = sqlalchemy_to_pydantic(model, exclude={"id"})
    assert set(made.model_fields) - set(without.model_fields) == {"id"}


def test_the_compact_profile_gives_the_types_of_the_seed() -> None:
    catalog = load_catalog("models", "compact")
    kinds = {c.name: c.clickhouse_type for c in catalog.table("orders").columns}
    assert kinds == {
        "id": "UInt64",
        "customer_id": "UInt64",
        "order_date": "DateTime('UTC')",
        "status": "LowCardinality(String)",
        "total": "Float64",
    }


def generated_module(name: str, path: Path, catalog: Any) -> Any:
    """The schemas of a catalog, written and imported."""
    write_files(catalog, path)
    sys.path.insert(0, str(path))
    try:
        return importlib.import_module(f"{name}_generated")
    finally:
        sys.path.remove(str(path))


def test_names_that_python_would_read_otherwise_are_columns_all_the_same(tmp_path: Path) -> None:
    class Base(DeclarativeBase): ...

    class Odd(Base):
        __tablename__ = 'odd"; DROP'
        id: Mapped[int] = mapped_column(primary_key=True)
        date: Mapped[Any | None] = mapped_column(Date)
        space: Mapped[str] = mapped_column("a b`c\\", String(5))
        keyword: Mapped[str] = mapped_column("class", String(5))
        float: Mapped[Any | None] = mapped_column(Integer)

    catalog = describe("odd_models", list(Base.registry.mappers))
    module = generated_module("odd_models", tmp_path, catalog)
    created = module.OddCreate(date="2026-01-01", float=None, space="x", keyword="y")
    assert created.date.year == 2026
    row = {"id": 1, "date": None, "float": 3, "a b`c\\": "x", "class": "y"}
    place = {"lsn": None, "commit_ts_ms": 1, "source": "relay"}
    event = {
        "metadata": {**place, "table": "t", "operation": "insert"},
        "payload": row,
        "before": None,
    }
    assert TypeAdapter(module.OddEvent).validate_python(event)["payload"] == row
    with pytest.raises(ValueError, match="extra"):
        TypeAdapter(module.OddEvent).validate_python({**event, "payload": {**row, "d": 1}})


def test_overrides_and_marks_stand_in_the_ddl(tmp_path: Path) -> None:
    class Base(DeclarativeBase): ...

    class Reading(Base):
        __tablename__ = "readings"
        __table_args__ = {  # noqa: RUF012
            "info": {
                "partition_by": "intDiv(id, 1000)",
                "settings": "index_granularity = 1024",
                "history": "7 DAY",
            }
        }
        id: Mapped[int] = mapped_column(primary_key=True, info={"clickhouse_type": "UInt32"})
        value: Mapped[Any] = mapped_column(Numeric(9, 2), info={"codec": "T64, ZSTD"})

    write_files(describe("reading_models", list(Base.registry.mappers)), tmp_path)
    ddl = (tmp_path / "sql/clickhouse/generated/dim_reading.sql").read_text()
    for line in (
        "    id UInt32,",
        "    value Decimal(9, 2) CODEC(T64, ZSTD),",
        "PARTITION BY intDiv(id, 1000)",
        "SETTINGS index_granularity = 1024",
        "TTL toDateTime(_ingested_at) + INTERVAL 7 DAY",
    ):
        assert line in ddl.replace(";", "").splitlines(), line


def composite(order: str) -> Any:
    """Models of one table with a key of two columns."""

    class Base(DeclarativeBase): ...

    class Seat(Base):
        __tablename__ = "seats"
        __table_args__ = {"info": {"order_by": order}}  # noqa: RUF012
        tenant_id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)

    return list(Base.registry.mappers)


def test_the_order_key_is_the_key_in_the_order_that_is_marked(tmp_path: Path) -> None:
    write_files(describe("seat_models", composite("number, tenant_id")), tmp_path)
    ddl = (tmp_path / "sql/clickhouse/generated/dim_seat.sql").read_text()
    assert "ORDER BY (number, tenant_id)" in ddl
    assert "ORDER BY (number, tenant_id, _version)" in ddl


@pytest.mark.parametrize("order", ["number", "number, number", "number, tenant_id, price"])
def test_an_order_key_of_other_columns_is_refused(order: str) -> None:
    with pytest.raises(WrongUsage, match="seats: order_by"):
        describe("seat_models", composite(order))


@pytest.mark.parametrize(
    "column",
    [
        mapped_column(MONEY),
        mapped_column(ARRAY(MONEY)),
        mapped_column(Integer, Computed("id * 2")),
    ],
)
def test_a_column_that_cannot_be_carried_is_left_out_and_named(column: Any) -> None:
    class Base(DeclarativeBase): ...

    class Purse(Base):
        __tablename__ = "purses"
        id: Mapped[int] = mapped_column(primary_key=True)
        held: Mapped[Any] = column

    catalog = describe("purses", list(Base.registry.mappers))
    assert [column.name for column in catalog.table("purses").columns] == ["id"]
    (left,) = catalog.left_out
    assert (left.table, left.column, bool(left.remedy)) == ("purses", "held", True)
    with pytest.raises(WrongUsage, match=r"purses\.held"):
        sqlalchemy_to_pydantic(Purse)
    assert set(sqlalchemy_to_pydantic(Purse, exclude={"held"}).model_fields) == {"id"}
