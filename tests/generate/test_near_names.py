"""Dimensions and rollups may have the names of steps: no statement takes another's place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import date

import pytest

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.generate.joins import select_all
from sluice.generate.star import star_statements
from sluice.settings import ONE_SERVER, Cluster, Settings
from sluice.star.create import create_warehouse, make_rebuild
from sluice.star.rebuild import Rebuild

CATALOG = load_catalog("tests.generate.near_names")
(FACT,) = CATALOG.facts
ROLLUPS = [rollup.name for rollup in FACT.table.rollups]
NEAR = [dimension.table for dimension in FACT.dimensions]
DAY = date(2026, 1, 1)


@pytest.fixture(scope="module")
def clickhouse(services: Settings) -> Iterator[ClickHouse]:
    """A session where the star is made, with three sales of the day."""
    with closing(ClickHouse(services.clickhouse)) as session:
        assert create_warehouse(session, CATALOG)[1] == {}
        for table in NEAR:
            drained(session, table.name, 1, f"cdc.{table.storage} (id, name", "concat('a', number)")
        keys = ", ".join(f"{table.entity}_id" for table in NEAR)
        columns = f"cdc.src_sale (id, day, amount, {keys}"
        drained(session, "sales", 1, columns, f"'{DAY}', number{', number' * len(NEAR)}")
        yield session


def drained(session: ClickHouse, table: str, turn: int, columns: str, values: str) -> None:
    """What a drain does with three rows of a table, in its first turn or in another."""
    session.execute(
        f"INSERT INTO {columns}, _version, _seq)"
        f" SELECT number, {values}, {turn}, {3 * (turn - 1)} + number FROM numbers(1, 3)"
    )
    session.insert_row(
        "cdc.checkpoints", {"source_table": table, "generation": turn, "next_offset": 3 * turn}
    )


def require_right(rebuild: Rebuild) -> None:
    """The fact is the join of what lives, and each rollup the sums over it."""
    session = rebuild.clickhouse
    rows = session.execute("SELECT * FROM olap.fact_sale")
    assert len(rows) == 3
    assert sorted(rows) == sorted(session.execute(select_all(FACT)))
    for rollup in FACT.table.rollups:
        ((_, column),) = rollup.by
        sums = f"SELECT {column}, count(), sum(amount) FROM olap.fact_sale GROUP BY 1"
        kept = session.execute(f"SELECT * FROM olap.{rollup.name}")
        assert sorted(kept) == sorted(session.execute(sums))


@pytest.mark.parametrize("cluster", [ONE_SERVER, Cluster(name="two")])
def test_the_fact_and_every_rollup_are_created(cluster: Cluster) -> None:
    texts = "\n".join(star_statements(FACT, cluster).texts())
    made = re.findall(r"^CREATE (?:OR REPLACE )?TABLE (?:IF NOT EXISTS )?cdc\.(\w+)", texts, re.M)
    for name in ("fact_sale", *ROLLUPS):
        assert {made.count(name), made.count(cluster.local(name))} == {1}


@pytest.mark.services
def test_a_rebuild_in_full_by_changes_and_by_days_uses_each_dimension_and_rollup(
    clickhouse: ClickHouse,
) -> None:
    rebuild = make_rebuild(clickhouse, FACT)
    assert rebuild.run(full=True).rows == 3
    require_right(rebuild)
    for turn, table in enumerate(NEAR, start=2):
        drained(
            clickhouse, table.name, turn, f"cdc.{table.storage} (id, name", "concat('b', number)"
        )
        assert rebuild.run().mode == "incremental"
        require_right(rebuild)
    assert rebuild.backfill(DAY, DAY).rows == 3
    require_right(rebuild)
