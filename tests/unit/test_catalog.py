from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from sqlalchemy import ARRAY, Float, ForeignKey, Integer, Interval, Numeric, Uuid
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeEngine

from sluice.catalog import Fact, load_catalog, read_models
from sluice.catalog.model_set import BOOKKEEPING
from sluice.catalog.models import describe
from sluice.data_types.mapping import column_type
from sluice.data_types.sqlalchemy_types import declared_type, postgres_type
from sluice.errors import WrongUsage
from sluice.generate.files import difference
from sluice.generate.rollups import made_of, rollup_indexes
from sluice.generate.star import fact_table
from sluice.settings import PROJECT

NONE: Mapping[str, Any] = {}
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
    assert difference(read_models("models"), PROJECT) == ""


def test_a_columns_comment_describes_it_and_else_its_doc() -> None:
    class Base(DeclarativeBase): ...

    class Parcel(Base):
        __tablename__ = "parcels"
        id: Mapped[int] = mapped_column(primary_key=True)
        weight: Mapped[int] = mapped_column(comment="In grams.", doc="In Python.")
        size: Mapped[int] = mapped_column(
            doc="""The longest side,
            in millimetres."""
        )

    (table,) = describe("parcels", list(Base.registry.mappers)).tables
    assert [column.comment for column in table.columns] == [
        "",
        "In grams.",
        "The longest side,\nin millimetres.",
    ]


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


def match_fact(host: str, guest: str, rollups: Mapping[str, Any] = NONE) -> Fact:
    """A fact whose two relationships to teams go by these columns."""

    class Base(DeclarativeBase): ...

    class Team(Base):
        __tablename__ = "teams"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class Match(Base):
        __tablename__ = "matches"
        __table_args__ = {"info": {"star": "fact", "rollups": dict(rollups)}}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        home_id: Mapped[int] = mapped_column(ForeignKey("teams.id"))
        away_id: Mapped[int] = mapped_column(ForeignKey("teams.id"))
        goals: Mapped[int]
        home: Mapped[Team] = relationship(foreign_keys=f"Match.{host}")
        away: Mapped[Team] = relationship(foreign_keys=f"Match.{guest}")

    Base.registry.configure()
    (fact,) = describe("matches", list(Base.registry.mappers)).facts
    return fact


def test_a_relationship_that_goes_by_another_column_makes_another_fact() -> None:
    one, other = match_fact("home_id", "away_id"), match_fact("away_id", "home_id")
    assert [column.name for column in one.columns] == [column.name for column in other.columns]
    assert made_of(one, ()) == made_of(match_fact("home_id", "away_id"), ())
    assert made_of(one, ()) != made_of(other, ())


@pytest.mark.parametrize(
    "name",
    [
        *(*sorted(BOOKKEEPING), "src_match", "dim_team", "history_teams", "fact_match"),
        *("history_teams_feed", "fact_match__kept", "src_match__local", "by_goals__touched"),
    ],
)
def test_a_rollup_does_not_take_the_name_of_another_table(name: str) -> None:
    by_goals = {"by": {"goals": "goals"}, "sum": {"all": "goals"}}
    match_fact("home_id", "away_id", {"by_goals": by_goals})
    with pytest.raises(WrongUsage, match=f"rollup '{name}' of matches: the name is taken"):
        match_fact("home_id", "away_id", {name: by_goals, "by_goals": by_goals})


def test_a_dimension_does_not_take_the_name_of_the_fact() -> None:
    class Base(DeclarativeBase): ...

    class Fact(Base):
        __tablename__ = "facts"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class Claim(Base):
        __tablename__ = "claims"
        __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        fact_id: Mapped[int] = mapped_column(ForeignKey("facts.id"))
        fact: Mapped[Fact] = relationship()

    Base.registry.configure()
    with pytest.raises(WrongUsage, match="fact of claims: a dimension is named 'fact'"):
        describe("claims", list(Base.registry.mappers))


def test_what_sluice_keeps_in_clickhouse_is_known_by_name() -> None:
    text = (PROJECT / "plugins/sluice/sql/bookkeeping.sql").read_text()
    assert set(re.findall(r"TABLE IF NOT EXISTS cdc\.(\w+)", text)) == BOOKKEEPING


def test_what_may_wrap_is_indexed_as_it_is_and_not_by_its_range() -> None:
    by = {"by": {"tens": "toUInt8(goals)", "name": "upper(home_name)"}, "sum": {"all": "goals"}}
    lines = list(rollup_indexes(match_fact("home_id", "away_id", {"by_tens": by})))
    assert [line.partition(" TYPE ")[2] for line in lines] == ["set(100) GRANULARITY 1"] * 2


@pytest.mark.parametrize(
    ("server", "expression"),
    [((26, 7), "order_date"), ((26, 9), "toDate32(order_date)"), ((27, 1), "toDate32(order_date)")],
)
def test_a_date_that_may_be_null_is_found_by_its_day_where_the_server_can(
    server: tuple[int, int], expression: str
) -> None:
    ddl = fact_table(load_catalog("models").facts[0], "fact", server)
    assert f"INDEX order_date_range {expression} TYPE minmax" in ddl


def test_a_key_that_is_a_date_is_not_found_by_its_range() -> None:
    class Base(DeclarativeBase): ...

    class Day(Base):
        __tablename__ = "days"
        day: Mapped[date] = mapped_column(primary_key=True)

    class Sale(Base):
        __tablename__ = "sales"
        __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        sold: Mapped[date] = mapped_column(ForeignKey("days.day"))
        on: Mapped[Day] = relationship()

    Base.registry.configure()
    (fact,) = describe("sales", list(Base.registry.mappers)).facts
    ddl = fact_table(fact, fact.name)
    assert "INDEX sold_held sold TYPE bloom_filter" in ddl
    assert "minmax" not in ddl


def test_a_table_whose_key_is_an_array_is_left_out_and_a_domain_over_one_has_no_type() -> None:
    class Base(DeclarativeBase):
        pass

    class Board(Base):
        __tablename__ = "boards"
        place: Mapped[list[int]] = mapped_column(ARRAY(Integer), primary_key=True)

    catalog = describe("boards", [Board.__mapper__])
    assert (catalog.tables, len(catalog.left_out)) == ((), 1)
    assert "a key whose column place is an array" in str(catalog.left_out[0])
    assert declared_type(ARRAY(DOMAIN("row", ARRAY(Integer)))) is None


@pytest.mark.parametrize(
    ("kind", "named", "stored"),
    [
        (Float(24), "REAL", "Float32"),
        (Float(25), "FLOAT(25)", "Float64"),
        (Numeric(2, 4), "NUMERIC(2, 4)", "Decimal(4, 4)"),
        (Uuid(native_uuid=False), "CHAR(32)", "String"),
        (Interval(native=False), "TIMESTAMP WITHOUT TIME ZONE", "DateTime64(6, 'UTC')"),
        (DOMAIN("price", Numeric(10, 2)), "NUMERIC(10, 2)", "Decimal(10, 2)"),
        (
            ARRAY(DOMAIN("price", Numeric(10, 2))),
            "NUMERIC(10, 2)[]",
            "Array(Nullable(Decimal(10, 2)))",
        ),
    ],
)
def test_a_type_is_named_and_stored_as_postgresql_has_it(
    kind: TypeEngine[Any], named: str, stored: str
) -> None:
    declared = declared_type(kind)
    assert declared is not None
    assert (postgres_type(kind), column_type(declared).clickhouse) == (named, stored)


def test_a_catalog_that_is_made_from_another_leaves_that_as_it_is() -> None:
    catalog = load_catalog("models")
    table = catalog.table("customers")
    narrow = replace(catalog, tables=(replace(table, columns=table.columns[:1]),))
    assert len(narrow.table("customers").columns) == 1
    assert catalog.table("customers") is table
