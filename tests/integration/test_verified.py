"""A resync that verifies what it has read: damage is found, and changes beside it are none."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import Engine

from sluice import wiring
from sluice.catalog.key_selection import Selection
from sluice.errors import QualityFailed
from sluice.repair import resync as repair
from sluice.repair.resync import Resync
from sluice.settings import Settings
from tests.integration import stock
from tests.integration.stock import ITEMS, ROWS, restock, states
from tests.support.background import repeating
from tests.support.damage import corrupt
from tests.support.oracle import change
from tests.support.pipeline import assert_fact_equals_join

pytestmark = pytest.mark.services
engine, forgotten = stock.engine, stock.forgotten
# What happens to a row of the second range once it is stored.
DAMAGE = {
    "lost": "DELETE FROM cdc.src_order_item WHERE id = 100",
    "wrong": "INSERT INTO cdc.src_order_item SELECT * REPLACE (quantity + 1 AS quantity)"
    " FROM cdc.src_order_item FINAL WHERE id = 100",
}


@pytest.fixture
def verifying(services: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Several small ranges, which are verified."""
    monkeypatch.setattr(wiring.resyncs, "Resync", partial(Resync, rows=ROWS))
    monkeypatch.setattr(repair, "_PAUSES", (0.0, 0.0, 0.0, 0.5))
    return replace(services, copy_verify=True)


def test_changes_and_truncations_beside_it_are_no_differences(
    verifying: Settings, engine: Engine
) -> None:
    chance = random.Random(3)

    def write() -> None:
        change(engine, chance, 60)
        restock(engine)

    corrupt(verifying)
    with repeating(write, 0.2):
        report = wiring.resync(replace(verifying, copy_readers=3), ITEMS.name)
    ranges = report.before[1]
    assert report.verified == ranges >= 5
    assert f"; {ranges} of {ranges} ranges were verified" in report.sentence()
    assert_fact_equals_join(verifying, engine)


@pytest.mark.parametrize("point", ["rows stored", "deletes drained"])
def test_a_change_that_is_drained_at_any_point_is_no_difference(
    verifying: Settings, engine: Engine, point: str
) -> None:
    numbers = iter(range(1, 1000))

    def reached(at: str) -> None:
        if at == point:
            change(engine, random.Random(next(numbers)), 20)
            wiring.drain(verifying, ITEMS.name)

    with wiring.resyncing(verifying, ITEMS) as step:
        report = replace(step, reached=reached).run(ITEMS, Selection())
    assert report.verified == report.before[1]
    assert_fact_equals_join(verifying, engine)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_a_range_is_an_error_that_names_it_and_it_is_read_again(
    verifying: Settings, engine: Engine, damage: str
) -> None:
    passed: list[str] = []

    def reached(point: str) -> None:
        passed.append(point)
        if point == "deletes drained" and passed.count(point) == 2:
            wiring.query(verifying, DAMAGE[damage])

    with wiring.resyncing(verifying, ITEMS) as step, pytest.raises(QualityFailed) as caught:
        replace(step, reached=reached).run(ITEMS, Selection())
    second = f"keys from {ROWS + 1} to before {2 * ROWS + 1}"
    assert f"order_items: {second} differ after they were read" in str(caught.value)
    assert states(verifying) == {"done": 1, "open": 4}
    report = wiring.resync(verifying, ITEMS.name)
    assert (report.before, report.verified) == ((1, 5), 4)
    assert_fact_equals_join(verifying, engine)
