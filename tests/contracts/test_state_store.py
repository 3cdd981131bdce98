"""What a StateStore promises, on the twin and on ClickHouse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import DateTime, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sluice.capture.json_rows import RowEncoder, Transaction
from sluice.capture.pgoutput import RelationColumn
from sluice.catalog import Table, load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.in_memory import MemoryStore
from sluice.drain.ports import Checkpoint, StateStore
from sluice.errors import StaleCheckpoint
from sluice.events.event import Record, Reject, Truncated, place_of
from sluice.events.positions import MOST_VERSION
from sluice.generate.clickhouse import table_statements
from sluice.settings import Settings

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
        for table in ("checkpoints", "dead_letters"):
            session.execute(f"DELETE FROM cdc.{table} WHERE source_table = 'contract'")
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


def test_rows_are_counted_by_their_version(store: StateStore) -> None:
    store.append(PRODUCTS, rows((1, "a", 1 << 100, 0), (2, "b", 1 << 100, 0), (3, "c", 5, 0)))
    newest = 1 << 100
    ranges = [(newest, newest), (5, 5), (6, newest - 1), (5, newest), (0, MOST_VERSION)]
    assert [store.rows_between(PRODUCTS, *versions) for versions in ranges] == [2, 1, 0, 3, 3]


def test_values_come_back_as_the_driver_took_them(store: StateStore) -> None:
    store.append(PRODUCTS, rows((1, "x", 1 << 112, 0)))
    found = store.current(PRODUCTS, [(1,)])
    assert found[1,] == (1 << 112, (1, "x", "c", 150, -1))


def test_a_truncate_takes_the_rows_below_its_version_alone(store: StateStore) -> None:
    store.append(PRODUCTS, rows((1, "below", 4, 0), (2, "above", 6, 0)))
    for _ in range(2):
        store.truncate(PRODUCTS, Truncated(version=5, seq=5, committed_at=0))
    assert names(store, PRODUCTS, 1, 2) == {2: (6, "above")}


def test_rejected_rows_of_a_snapshot_are_counted_by_reason(store: StateStore) -> None:
    """By their place; no other events, and none before an offset."""
    column = RelationColumn(name="id", type_oid=23, in_key=True)

    def reject(offset: int, reason: str, operation: str, lsn: int, ordinal: int) -> Reject:
        encoder = RowEncoder("products", [column], ["id"])
        row = b'{"id":1,"name":"\\"operation\\":\\"read\\""}'
        event = Transaction(lsn, 1).event(encoder, operation.encode(), 1, ordinal, row, b"null")
        return Reject(record=Record(offset=offset, key=None, value=event), reason=reason)

    rejects = [
        reject(1, "odd", "read", 16, 1),
        reject(2, "odd", "read", 17, 1),
        reject(3, "odd", "read", 17, 1),
        reject(4, "new", "read", 17, 1),
        reject(5, "odd", "insert", 17, 1),
        reject(6, "odd", "delete", 17, 0),
    ]
    store.reject(Checkpoint(source_table="counted"), "", rejects)
    counts = store.unstored("counted", place_of(17))
    assert sorted((reason[:3], count) for reason, count in counts.items()) == [
        ("new", 1),
        ("odd", 2),
    ]
    assert list(store.unstored("counted", place_of(17), first=3).values()) == [1, 1]
    assert list(store.unstored("counted", place_of(17), below=3).values()) == [1]
    assert not store.unstored("counted", place_of(18))
    assert not store.unstored("others", place_of(17))


def test_a_checkpoint_follows_the_current_one(store: StateStore) -> None:
    assert store.checkpoint("contract") is None
    first = Checkpoint(source_table="contract").following(next_offset=5)
    store.advance(first)
    assert store.checkpoint("contract") == first
    second = first.following(truncated=1 << 120)
    for other in (Checkpoint(source_table="contract").following(), second.following()):
        with pytest.raises(StaleCheckpoint):
            store.advance(other)
    store.advance(second)
    assert store.checkpoint("contract") == store.checkpoints()["contract"] == second
    assert second.generation > first.generation


def test_tables_with_open_rejects_are_named(store: StateStore) -> None:
    assert "contract" not in store.rejecting()
    bad = Reject(record=Record(offset=0, key=b"k", value=b"{}"), reason="odd")
    store.reject(Checkpoint(source_table="contract", broker_epoch="e"), "s", [bad])
    assert "contract" in store.rejecting()
    store.resolve("contract", store.open_rejects("contract"))
    assert "contract" not in store.rejecting()


def test_a_reject_is_open_with_its_key_and_what_it_says_of_itself_until_it_is_resolved(
    store: StateStore,
) -> None:
    checkpoint = Checkpoint(source_table="contract", broker_epoch="e", epoch=3)
    value = b'{"metadata": {"source": "relay", "ordinal": 1}, "payload": {"n": "\xc3\xa4"}}'
    for offset, key, one in ((5, b'{"id": 1}', value), (6, b"", b"\xff no event")):
        reject = Reject(record=Record(offset, key, one), reason="r")
        store.reject(checkpoint, "s", [reject])
    found = {one.offset: one for one in store.open_rejects("contract")}
    assert {(one.broker_epoch, one.epoch) for one in found.values()} == {("e", 3)}
    assert found[5].key == b'{"id": 1}'
    assert json.loads(found[5].metadata) == {"source": "relay", "ordinal": 1}
    assert (found[6].key, found[6].metadata) == (b"", b"")
    for _ in range(2):
        store.resolve("contract", [found[5]])
        assert [one.offset for one in store.open_rejects("contract")] == [6]
    assert store.open_rejects("another") == []


class Base(DeclarativeBase):
    """The declarative base."""


class Overridden(Base):
    """Columns that are stored as other types than their own."""

    __tablename__ = "overridden"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[Decimal] = mapped_column(
        Numeric(10, 2), info={"clickhouse_type": "Decimal(18, 4)"}
    )
    discount: Mapped[Decimal | None] = mapped_column(
        Numeric(10, 2), info={"clickhouse_type": "Float64"}
    )
    moment: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), info={"clickhouse_type": "DateTime64(9, 'UTC')"}
    )


@pytest.mark.services
def test_values_come_back_whatever_type_a_model_stores_them_as(services: Settings) -> None:
    table = load_catalog(__name__).table("overridden")
    with closing(ClickHouse(services.clickhouse)) as session:
        for statement in table_statements(table, services.clickhouse.cluster).values():
            session.execute(statement)
        store = ClickHouseStore(session)
        given = [(1, 150, 25, 1_500_000, 1, 0, 1, 0), (2, -1, None, -1, 1, 0, 2, 0)]
        store.append(table, [list(column) for column in zip(*given, strict=True)])
        found = store.current(table, [(1,), (2,)])
        assert {key: row for key, (_, row) in found.items()} == {
            (1,): (1, 150, 25, 1_500_000),
            (2,): (2, -1, None, -1),
        }
        amounts = f"SELECT id, amount, discount FROM cdc.{table.storage} ORDER BY id"
        assert session.execute(amounts) == [(1, Decimal("1.5"), 0.25), (2, Decimal("-0.01"), None)]
