"""Expectations of a model of its own, on ClickHouse: each offender is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest
from sqlalchemy import ForeignKey, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sluice.catalog import Catalog
from sluice.catalog.models import describe
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import WrongUsage
from sluice.generate.clickhouse import table_statements
from sluice.quality.checks import Check
from sluice.quality.expectations import Expectations
from sluice.settings import Settings

pytestmark = pytest.mark.services


class Base(DeclarativeBase):
    pass


class Berth(Base):
    __tablename__ = "berths"
    harbour: Mapped[str] = mapped_column(String(9), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Ship(Base):
    __tablename__ = "ships"
    id: Mapped[int] = mapped_column(primary_key=True)
    call_sign: Mapped[str | None] = mapped_column(
        info={"expect": {"unique": True, "not_null": True, "severity": "warn"}}
    )
    flag: Mapped[str | None] = mapped_column(info={"expect": {"values": ["NO", "it's"]}})
    length: Mapped[Decimal] = mapped_column(
        Numeric(6, 2), info={"expect": {"range": ["0.01", 400]}}
    )
    sister_id: Mapped[int | None] = mapped_column(info={"expect": {"relationship": "ships.id"}})


class PortCall(Base):
    __tablename__ = "port_calls"
    harbour: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True)
    ship_id: Mapped[int] = mapped_column(ForeignKey("ships.id"))
    ship: Mapped[Ship] = relationship()


CATALOG: Catalog = describe("harbour", list(Base.registry.mappers))


@pytest.fixture
def clickhouse(services: Settings) -> Iterator[ClickHouse]:
    session = ClickHouse(services.clickhouse)
    for table in CATALOG.tables:
        for statement in table_statements(table).values():
            session.execute(statement)
    write(session, "dim_ship", "(1, 'LA', 'NO', 80, NULL), (2, 'LB', 'it''s', 0.01, 1)")
    write(session, "dim_port_call", "('Bergen', 1, 1), ('Oslo, old', 2, 2)")
    yield session
    for table in CATALOG.tables:
        session.execute(f"TRUNCATE TABLE cdc.{table.storage}")
    session.close()


def write(session: ClickHouse, storage: str, rows: str) -> None:
    table = next(table for table in CATALOG.tables if table.storage == storage)
    names = ", ".join(column.name for column in table.columns)
    session.execute(f"INSERT INTO cdc.{storage} ({names}) VALUES {rows}")


POINT = 1 << 40


def findings(
    session: ClickHouse,
    catch_up: Callable[[], object] = lambda: None,
    *,
    point: int = POINT,
    behind: frozenset[str] = frozenset(),
    drained: Callable[[], dict[str, int]] = dict,
) -> dict[str, Check]:
    def pass_now() -> tuple[int, frozenset[str]]:
        catch_up()
        return point, behind

    run = Expectations(
        clickhouse=session,
        catalog=CATALOG,
        pass_now=pass_now,
        version=lambda _, lsn: None if lsn < 0 else lsn,
        drained=drained,
    )
    checks = run.run(CATALOG.tables)
    return {f"{check.table} {check.check}": check for check in checks if check.status != "pass"}


def test_rows_that_are_as_expected_are_no_finding(clickhouse: ClickHouse) -> None:
    assert findings(clickhouse) == {}


def test_each_offender_is_found_with_its_key_and_severity(clickhouse: ClickHouse) -> None:
    write(
        clickhouse,
        "dim_ship",
        "(3, NULL, 'NO', 80, NULL), (4, 'LA', 'NO', 80, NULL), (5, 'LC', 'SE', 80, NULL),"
        " (6, 'LD', NULL, 400.01, NULL), (7, 'LE', NULL, 0, 99)",
    )
    write(clickhouse, "dim_port_call", "('Oslo, new', 3, 98)")
    found = findings(clickhouse)
    assert {name: (check.status, check.keys) for name, check in found.items()} == {
        "ships expect call_sign unique": ("warn", ("1", "4")),
        "ships expect call_sign not_null": ("warn", ("3",)),
        "ships expect flag values": ("fail", ("5",)),
        "ships expect length range": ("fail", ("6", "7")),
        "ships expect sister_id relationship": ("fail", ("7",)),
        "port_calls orphans ship": ("warn", ('"Oslo, new",3',)),
    }
    said = found["ships expect length range"].sentence()
    assert "2 of 7 ships have length outside 0.01..400 (id 6, 7)" in said
    orphan = found["port_calls orphans ship"].difference
    assert orphan == '1 of 3 port_calls has no matching ship (harbour, day "Oslo, new",3)'


def test_a_deleted_row_breaks_nothing(clickhouse: ClickHouse) -> None:
    write(clickhouse, "dim_ship", "(8, NULL, 'SE', 0, 99)")
    assert len(findings(clickhouse)) == 4
    clickhouse.execute(
        "INSERT INTO cdc.dim_ship (id, length, _version, _is_deleted) VALUES (8, 0, 9, 1)"
    )
    assert findings(clickhouse) == {}


def test_a_row_that_comes_before_the_one_it_refers_to_is_no_finding(
    clickhouse: ClickHouse,
) -> None:
    write(clickhouse, "dim_port_call", "('Bergen', 9, 9)")
    late = "(9, 'LI', NULL, 9, NULL)"
    assert findings(clickhouse, lambda: write(clickhouse, "dim_ship", late)) == {}


def test_where_the_drain_is_late_no_row_is_a_finding(clickhouse: ClickHouse) -> None:
    write(clickhouse, "dim_port_call", "('Bergen', 9, 9)")
    found = findings(clickhouse, behind=frozenset({"ships"}))
    assert {name: check.status for name, check in found.items()} == {
        "port_calls orphans ship": "unsettled"
    }


def test_a_row_whose_parents_delete_comes_after_the_point_is_no_finding(
    clickhouse: ClickHouse,
) -> None:
    """Both are deleted at once, and the parent's table is drained first."""
    write(clickhouse, "dim_port_call", "('Bergen', 9, 9)")

    def catch_up() -> None:
        write(clickhouse, "dim_ship", "(9, 'LI', NULL, 9, NULL)")
        clickhouse.execute(
            "INSERT INTO cdc.dim_ship (id, length, _version, _is_deleted)"
            f" VALUES (9, 0, {POINT} + 1, 1)"
        )

    assert findings(clickhouse, catch_up) == {}


def test_positions_that_are_no_points_of_the_wal_are_decided_at_rest_alone(
    clickhouse: ClickHouse,
) -> None:
    write(clickhouse, "dim_port_call", "('Bergen', 9, 9)")
    moving = iter(range(9))
    for drained, status in ((lambda: {"ships": next(moving)}, "unsettled"), (dict, "warn")):
        found = findings(clickhouse, point=-1, drained=drained)
        assert found["port_calls orphans ship"].status == status


def test_more_offenders_than_can_be_named_are_counted(clickhouse: ClickHouse) -> None:
    clickhouse.execute(
        "INSERT INTO cdc.dim_ship (id, call_sign, flag, length)"
        " SELECT number, toString(number), 'SE', 5 FROM numbers(100, 1500)"
    )
    check = findings(clickhouse)["ships expect flag values"]
    assert (check.clickhouse, len(check.keys)) == (1500, 1000)


def test_a_relationship_to_what_is_not_in_the_models_stops_the_catalog() -> None:
    class Other(DeclarativeBase):
        pass

    class Tug(Other):
        __tablename__ = "tugs"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[int] = mapped_column(info={"expect": {"relationship": "owners.id"}})

    with pytest.raises(WrongUsage, match=r"tugs.owner: owners.id is not in the models") as caught:
        describe("tugs", list(Other.registry.mappers))
    assert caught.value.remedy == "use one of tugs"
