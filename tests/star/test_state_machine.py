"""Random changes, drains and rebuilds in any order: the fact is the source's join in the end, and
at no moment does a reader see a fact twice or one that never was.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.settings import ClickHouseSettings
from sluice.star.rebuild import POINTS
from tests.star.rebuilds import KilledError, run
from tests.star.store import (
    TABLES,
    Pipeline,
    Store,
    customer,
    item,
    order,
    product,
)

pytestmark = pytest.mark.services

KEYS, FEW = st.integers(1, 5), st.integers(1, 3)
KINDS = st.sampled_from(["incremental", "full", "days", "rollback"])
# Rows of a range: rollups are added to by one range, and summed anew after several.
WIDTHS = st.sampled_from([3, 1000])


class Star(RuleBasedStateMachine):
    """The store, its drains and its rebuilds."""

    warehouse: ClickHouseSettings

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.pipeline = Pipeline(self.warehouse, self.store)
        self.version = 0
        for key in range(1, 4):
            self.write_customer(key)
            self.write_product(key)
            self.write_order(key, key, key)
            self.write_item(key, key, key)
            self.write_item(key + 2, key, 1)
        self.pipeline.settle()

    def teardown(self) -> None:
        self.pipeline.settle()
        self.pipeline.require_equal()
        self.pipeline.close()

    @rule(key=KEYS, of=FEW, what=FEW)
    def write_item(self, key: int, of: int, what: int) -> None:
        self.store.write("order_items", key, **item(of, what, self._next()))

    @rule(key=FEW, of=FEW, offset=st.integers(0, 3))
    def write_order(self, key: int, of: int, offset: int) -> None:
        self.store.write("orders", key, **order(of, offset, self._next()))

    @rule(key=FEW)
    def write_customer(self, key: int) -> None:
        self.store.write("customers", key, **customer(self._next(), self.version))

    @rule(key=FEW)
    def write_product(self, key: int) -> None:
        self.store.write("products", key, **product(self._next(), self.version))

    @rule(table=st.sampled_from(TABLES), key=KEYS)
    def delete(self, table: str, key: int) -> None:
        self.store.delete(table, key)

    @rule(table=st.sampled_from(TABLES), key=KEYS, to=KEYS)
    def change_key(self, table: str, key: int, to: int) -> None:
        self.store.move(table, key, to)

    @rule(table=st.sampled_from(TABLES), really=st.sampled_from([False, False, True]))
    def truncate(self, table: str, really: bool) -> None:
        if really:
            self.store.truncate(table)

    @rule(table=st.sampled_from(TABLES), events=st.integers(1, 5))
    def drain(self, table: str, events: int) -> None:
        self.pipeline.drain(table, events)

    @rule(kind=KINDS, width=WIDTHS)
    def rebuild(self, kind: str, width: int) -> None:
        run(self.pipeline.rebuild(range_rows=width), kind)

    @rule(kind=KINDS, width=WIDTHS, point=st.sampled_from(POINTS))
    def end_a_rebuild_early(self, kind: str, width: int, point: str) -> None:
        def end() -> None:
            raise KilledError

        self._at(kind, width, point, end)

    @rule(
        kind=KINDS,
        width=WIDTHS,
        point=st.sampled_from(POINTS),
        table=st.sampled_from(TABLES),
        key=FEW,
    )
    def drain_amid_a_rebuild(self, kind: str, width: int, point: str, table: str, key: int) -> None:
        def drain() -> None:
            self.store.delete(table, key)
            self.pipeline.drain(table)
            self.pipeline.require_possible()

        self._at(kind, width, point, drain)

    @rule(
        kind=KINDS,
        width=WIDTHS,
        point=st.sampled_from(POINTS),
        other=KINDS,
        table=st.sampled_from(TABLES),
    )
    def rebuild_amid_a_rebuild(
        self, kind: str, width: int, point: str, other: str, table: str
    ) -> None:
        def rebuild() -> None:
            self.pipeline.drain(table)
            clickhouse = ClickHouse(self.warehouse)
            run(self.pipeline.rebuild(clickhouse, range_rows=width), other)
            clickhouse.close()
            self.pipeline.require_possible()

        self._at(kind, width, point, rebuild)

    @rule(table=st.sampled_from(["fact_order_item", "revenue_by_day", "dim_order"]))
    def merge(self, table: str) -> None:
        self.pipeline.clickhouse.execute(f"OPTIMIZE TABLE cdc.{table} FINAL")

    @rule()
    def settle(self) -> None:
        self.pipeline.settle()
        self.pipeline.require_equal()

    @invariant()
    def readers_see_what_was_once_true(self) -> None:
        self.pipeline.require_possible()

    def _next(self) -> int:
        self.version += 1
        return self.version

    def _at(self, kind: str, width: int, point: str, act: Callable[[], None]) -> None:
        """Run a rebuild that is interrupted when it first reaches the point."""
        left = [act]

        def reached(name: str) -> None:
            self.pipeline.require_possible()
            if name == point and left:
                left.pop()()

        clickhouse = ClickHouse(self.warehouse)
        with suppress(KilledError):
            run(self.pipeline.rebuild(clickhouse, reached=reached, range_rows=width), kind)
        clickhouse.close()


@pytest.fixture
def machine(warehouse: ClickHouseSettings) -> type[Star]:
    Star.warehouse = warehouse
    return Star


def test_any_order_of_changes_drains_and_rebuilds_gives_the_join(machine: type[Star]) -> None:
    chosen = settings(
        max_examples=8,
        stateful_step_count=30,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run: Callable[..., None] = run_state_machine_as_test  # untyped in the release for 3.10
    try:
        run(machine, settings=chosen)
    except SluiceError as error:
        raise AssertionError(f"a rebuild failed: {error}") from error
