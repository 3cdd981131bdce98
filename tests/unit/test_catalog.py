from __future__ import annotations

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sluice.catalog import describe, load_catalog
from sluice.errors import WrongUsage
from sluice.generate.files import difference
from sluice.settings import PROJECT

FACT_COLUMNS = (
    "order_item_id order_id product_id customer_id quantity price order_date order_status"
    " order_total customer_email customer_name customer_country customer_city"
    " customer_created_at product_name product_category product_price product_created_at"
)


def test_the_fact_has_the_columns_that_users_rely_on() -> None:
    (fact,) = load_catalog("models").facts
    assert fact.name == "fact_order_item"
    assert [column.name for column in fact.columns] == FACT_COLUMNS.split()


def test_the_generated_files_are_what_the_models_give() -> None:
    assert difference(load_catalog("models"), PROJECT) == ""


def test_two_ways_to_one_dimension_get_prefixes_of_their_relationships() -> None:
    class Base(DeclarativeBase): ...

    class Address(Base):
        __tablename__ = "addresses"
        id: Mapped[int] = mapped_column(primary_key=True)
        city: Mapped[str]

    class Parcel(Base):
        __tablename__ = "parcels"
        __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        from_id: Mapped[int] = mapped_column(ForeignKey("addresses.id"))
        to_id: Mapped[int | None] = mapped_column(ForeignKey("addresses.id"))
        sender: Mapped[Address] = relationship(foreign_keys=[from_id])
        receiver: Mapped[Address] = relationship(foreign_keys=[to_id])

    Base.registry.configure()
    (fact,) = describe("parcels", list(Base.registry.mappers)).facts
    names = [column.name for column in fact.columns]
    assert names == ["parcel_id", "from_id", "to_id", "sender_city", "receiver_city"]


def test_an_unknown_module_is_wrong_usage() -> None:
    with pytest.raises(WrongUsage, match="no_such_models"):
        load_catalog("no_such_models")
