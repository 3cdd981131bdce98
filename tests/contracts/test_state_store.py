"""What a StateStore promises, on the twin and on ClickHouse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sluice.adapters.clickhouse import ClickHouse
from sluice.adapters.memory import MemoryStore
from sluice.adapters.state_store import ClickHouseStore
from sluice.catalog import Table, load_catalog
from sluice.errors import StaleCheckpoint
from sluice.events import Truncated
from sluice.ports import Checkpoint, StateStore

PRODUCTS = load_catalog("models").table("products")


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.services)])
def store(request: pytest.FixtureRequest) -> Iterator[StateStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    session = ClickHouse(request.getfixturevalue("services").clickhouse)
    session.execute(f"CREATE TABLE cdc.kept AS cdc.{PRODUCTS.storage}")
    session.execute(f"EXCHANGE TABLES cdc.kept AND cdc.{PRODUCTS.storage}")
    try:
        yield ClickHouseStore(session)
    finally:
        session.execute(f"EXCHANGE TABLES cdc.kept AND cdc.{PRODUCTS.storage}")
        session.execute("DROP TABLE cdc.kept SYNC")
        session.execute("DELETE FROM cdc.checkpoints WHERE source_table = 'contract'")
        session.close()


def rows(*given: tuple[int, str, int, int]) -> list[list[Any]]:
    """Columns of product rows from (id, name, version, deleted)."""
    full = [(key, name, "c", 150, -1, v, gone, key, 0) for key, name, v, gone in given]
    return [list(column) for column in zip(*full, strict=True)]


def names(store: StateStore, table: Table, *keys: int) -> dict[int, tuple[int, str]]:
    found = store.current(table, [(key,) for key in keys])
    return {key: (version, row[1]) for (key,), (version, row) in found.items() if row}


def test_the_row_of_the_highest_version_counts_in_whatever_order(store: StateStore) -> None:
    store.append(PRODUCTS, rows((1, "new", 9, 0), (2, "gone", 8, 1)))
    store.append(PRODUCTS, rows((1, "old", 5, 0), (2, "late", 7, 0), (3, "only", 1, 0)))
    assert names(store, PRODUCTS, 1, 2, 3, 4) == {1: (9, "new"), 3: (1, "only")}
    assert store.current(PRODUCTS, [(2,)]) == {(2,): (8, None)}


def test_values_come_back_as_the_driver_took_them(store: StateStore) -> None:
    store.append(PRODUCTS, rows((1, "x", 1 << 112, 0)))
    found = store.current(PRODUCTS, [(1,)])
    assert found[1,] == (1 << 112, (1, "x", "c", 150, -1))


def test_a_truncate_takes_the_rows_below_its_version_alone(store: StateStore) -> None:
    store.append(PRODUCTS, rows((1, "below", 4, 0), (2, "above", 6, 0)))
    for _ in range(2):
        store.truncate(PRODUCTS, Truncated(version=5, seq=5, committed_at=0))
    assert names(store, PRODUCTS, 1, 2) == {2: (6, "above")}


def test_a_checkpoint_moves_one_generation_at_a_time(store: StateStore) -> None:
    assert store.checkpoint("contract") is None
    first = Checkpoint(source_table="contract", generation=1, writer="a", next_offset=5)
    store.advance(first)
    assert store.checkpoint("contract") == first
    for generation in (1, 3):
        with pytest.raises(StaleCheckpoint):
            store.advance(replace(first, generation=generation, writer="b"))
    second = replace(first, generation=2, truncated=1 << 120)
    store.advance(second)
    assert store.checkpoint("contract") == second
