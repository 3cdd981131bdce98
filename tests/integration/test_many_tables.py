"""Many tables in ClickHouse: what asks each of them asks once for all, and none stops another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sluice.catalog import Catalog, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import NeedsPerson, NotReady, SluiceError, TableDiffers
from sluice.generate.clickhouse import quoted, table_statements
from sluice.generate.star import star_statements
from sluice.operate.doctor.clickhouse import checks
from sluice.settings import Settings
from sluice.star.create import create_warehouse
from sluice.warehouse.creation import created
from sluice.warehouse.evolution import Plan, differing, evolve, present_of
from tests.support.many import many_tables

pytestmark = pytest.mark.services

NOTE = "    note: Mapped[str | None] = mapped_column(String(9))\n"
FEW, MANY = 4, 40


@pytest.fixture(scope="module")
def clickhouse(services: Settings) -> Iterator[ClickHouse]:
    with closing(ClickHouse(services.clickhouse)) as session:
        yield session
        forget(session, "few|many|odd|race|late")


def forget(session: ClickHouse, prefixes: str) -> None:
    """Drop the tables and views of models with these prefixes."""
    rows = session.execute(
        "SELECT database, name FROM system.tables WHERE database IN ('cdc', 'olap')"
        " AND match(name, concat('(', {prefixes:String}, ')_?[0-9s]'))"
        " ORDER BY engine IN ('View', 'MaterializedView') DESC",
        prefixes=prefixes,
    )
    for database, name in rows:
        session.execute(f"DROP TABLE IF EXISTS {database}.{quoted(name)} SYNC")


@pytest.fixture(scope="module")
def catalogs(
    clickhouse: ClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Catalog, Catalog]]:
    """Few and many tables, made by `sluice init`."""
    folder = tmp_path_factory.mktemp("models")
    with ExitStack() as stack:
        few = stack.enter_context(many_tables(folder, "few", FEW))
        many = stack.enter_context(many_tables(folder, "many", MANY))
        for catalog in (few, many):
            assert create_warehouse(clickhouse, catalog) == ([], {})
        yield few, many


def again(session: ClickHouse, _: Settings, catalog: Catalog) -> None:
    assert create_warehouse(session, catalog) == ([], {})


def compared(session: ClickHouse, _: Settings, catalog: Catalog) -> None:
    assert differing(session, catalog.tables) == {}


def examined(_: ClickHouse, settings: Settings, catalog: Catalog) -> None:
    assert [one for one in checks(settings, catalog) if not one.ok] == []


@pytest.mark.parametrize("ask", [again, compared, examined])
def test_the_number_of_queries_does_not_grow_with_the_tables(
    services: Settings,
    clickhouse: ClickHouse,
    catalogs: tuple[Catalog, Catalog],
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[ClickHouse, Settings, Catalog], None],
) -> None:
    run, counts = ClickHouse._run, list[int]()

    def counted(self: ClickHouse, *rest: Any, **options: Any) -> Any:
        counts[-1] += 1
        return run(self, *rest, **options)

    monkeypatch.setattr(ClickHouse, "_run", counted)
    for catalog in catalogs:
        counts.append(0)
        ask(clickhouse, services, catalog)
    assert counts[0] == counts[1]


Places = list[tuple[str, list[str]]]


def places(catalog: Catalog) -> tuple[Places, Places]:
    """What init makes of each table and of each fact: its name and the tables and views."""
    stars = {table.name for fact in catalog.facts for table in fact.tables}
    plain = [
        (
            table.name,
            [place for text in table_statements(table).values() for place in created([text])],
        )
        for table in catalog.tables
        if table.name not in stars
    ]
    facts = [
        (fact.name, [place for text in star_statements(fact).texts() for place in created([text])])
        for fact in catalog.facts
    ]
    return plain, facts


def one_each(catalog: Catalog) -> dict[str, str]:
    """A table or view of every kind that init makes, each of another table or fact."""
    return {
        name: of_it[kind]
        for group in places(catalog)
        for kind, (name, of_it) in enumerate(group[: len(group[0][1])])
    }


def present(session: ClickHouse) -> set[str]:
    query = "SELECT concat(database, '.', name) FROM system.tables"
    return {place for (place,) in session.execute(query)}


def test_each_kind_of_table_and_view_is_made_again_where_it_is_gone(
    services: Settings, clickhouse: ClickHouse, catalogs: tuple[Catalog, Catalog]
) -> None:
    gone = one_each(catalogs[1])
    assert len(gone) == 9
    for place in gone.values():
        clickhouse.execute(f"DROP TABLE {place} SYNC")
    wrong = [one.check for one in checks(services, catalogs[1]) if not one.ok]
    assert set(wrong) == set(gone)
    again(clickhouse, services, catalogs[1])
    assert set(gone.values()) <= present(clickhouse)
    examined(clickhouse, services, catalogs[1])


@pytest.mark.parametrize("kind", ["TABLE {} ENGINE = Memory", "VIEW {}"])
def test_a_foreign_table_or_view_of_the_same_name_is_kept_and_stops_its_table_alone(
    services: Settings, clickhouse: ClickHouse, tmp_path: Path, kind: str
) -> None:
    with many_tables(tmp_path, "odd", MANY) as catalog:
        taken = one_each(catalog)
        for place in taken.values():
            clickhouse.execute(f"CREATE {kind.format(place)} AS SELECT 7 AS kept")
        done, troubles = create_warehouse(clickhouse, catalog)
        assert (done, set(troubles)) == ([], set(taken))
        for name, place in taken.items():
            assert isinstance(troubles[name], TableDiffers)
            assert place in troubles[name].what
            assert clickhouse.execute(f"SELECT kept FROM {place}") == [(7,)]
        for group in places(catalog):
            for name, of_it in group:
                assert name in taken or set(of_it) <= present(clickhouse)
        for place in taken.values():
            clickhouse.execute(f"DROP TABLE {place} SYNC")
        again(clickhouse, services, catalog)
        examined(clickhouse, services, catalog)
        forget(clickhouse, "odd")


@pytest.mark.parametrize(
    "differs",
    [
        "VIEW {} AS SELECT id, name FROM cdc.{} FINAL",
        "VIEW {} (id Int8, name Nullable(String), amount Float32) AS {query}",
    ],
)
def test_a_view_of_another_query_or_with_other_types_is_replaced(
    services: Settings,
    clickhouse: ClickHouse,
    catalogs: tuple[Catalog, Catalog],
    differs: str,
) -> None:
    table = catalogs[0].tables[2]
    query = table_statements(table)["view"].partition(" AS\n")[2]
    text = differs.format(f"olap.{table.storage}", table.storage, query=query)
    clickhouse.execute(f"CREATE OR REPLACE {text}")
    assert [one.check for one in checks(services, catalogs[0]) if not one.ok] == [table.name]
    again(clickhouse, services, catalogs[0])
    examined(clickhouse, services, catalogs[0])
    types = [row[1] for row in clickhouse.execute(f"DESCRIBE TABLE olap.{table.storage}")]
    assert types == ["Int32", "Nullable(String)", "Decimal(12, 2)"]


def test_two_inits_at_once_end_with_the_models_tables(
    services: Settings, clickhouse: ClickHouse, tmp_path: Path
) -> None:
    def init(catalog: Catalog, start: threading.Barrier) -> dict[str, SluiceError]:
        with closing(ClickHouse(services.clickhouse)) as session:
            start.wait()
            return create_warehouse(session, catalog)[1]

    for more in ("", NOTE, ""):
        with many_tables(tmp_path, "race", FEW, more) as catalog, ThreadPoolExecutor(2) as pool:
            start = threading.Barrier(2)
            inits = [pool.submit(init, catalog, start) for _ in range(2)]
            assert [one.result() for one in inits] == [{}, {}]
            again(clickhouse, services, catalog)
            examined(clickhouse, services, catalog)


def test_a_change_that_another_init_made_meanwhile_is_not_made_again(
    clickhouse: ClickHouse, tmp_path: Path
) -> None:
    with many_tables(tmp_path, "late", FEW) as before:
        create_warehouse(clickhouse, before)
    with many_tables(tmp_path, "late", FEW, NOTE) as after:
        table = after.tables[2]
        stale = present_of(clickhouse, [table])
        assert evolve(clickhouse, table, stale).safe
        assert evolve(clickhouse, table, stale) == Plan()


def test_tables_that_differ_are_missing_or_refused_are_told_apart(
    clickhouse: ClickHouse, catalogs: tuple[Catalog, Catalog]
) -> None:
    tables = list(catalogs[1].tables)
    unknown, wider, missing = 3, 11, 22
    tables[unknown] = with_type(tables[unknown], "NoType(3)")
    tables[wider] = with_type(tables[wider], "Decimal(20, 2)")
    tables[missing] = replace(tables[missing], entity="nowhere", name="nowhere")
    errors = differing(clickhouse, tables)
    assert {name: type(error) for name, error in errors.items()} == {
        tables[unknown].name: NeedsPerson,
        tables[wider].name: TableDiffers,
        "nowhere": NotReady,
    }
    assert "NoType" in errors[tables[unknown].name].what


def with_type(table: Table, kind: str) -> Table:
    """The table with another type of its amount."""
    columns = [
        replace(column, declared=replace(column.declared, clickhouse=kind))
        if column.name == "amount"
        else column
        for column in table.columns
    ]
    return replace(table, columns=tuple(columns))
