"""When tables are past a fence, whatever the drain before it takes or leaves."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sluice.catalog import Table
from sluice.clients.postgres import Fence, SlotState
from sluice.errors import Lagging, NotReady, PoisonedTopic, SlotAwaited, SluiceError
from sluice.quality.fences import CaughtUp, Fences

ONE, OTHER = (cast(Table, SimpleNamespace(name=name)) for name in ("one", "other"))
POISONED = PoisonedTopic("one: poisoned")


class Source:
    """A slot that has confirmed this at one look after the other; None where it is not there."""

    def __init__(self, *confirmed: int | None, wal_status: str = "reserved") -> None:
        self.confirmed, self.wal_status = list(confirmed), wal_status

    def slot(self, name: str) -> SlotState:
        confirmed = self.confirmed.pop(0) if len(self.confirmed) > 1 else self.confirmed[0]
        if confirmed is None:
            raise SlotAwaited()
        return SlotState(
            confirmed_lsn=confirmed,
            wal_status=self.wal_status,
            lag_bytes=0,
            safe_wal_size=None,
            active=True,
        )

    def fence(self, tables: object) -> Fence:
        return Fence(lsn=7, rows={}, troubles={})


class Drains:
    """Drains that end at these tables, one after the other, and what troubles the last has."""

    def __init__(
        self, *ended: set[str], seconds: float = 0.0, troubles: dict[str, SluiceError] | None = None
    ) -> None:
        self.ended, self.seconds, self.troubles, self.done = list(ended), seconds, troubles, 0
        self.limits: list[float] = []

    def __call__(self, limit: float) -> CaughtUp:
        self.limits.append(limit)
        time.sleep(self.seconds)
        self.done += 1
        ended = self.ended.pop(0) if len(self.ended) > 1 else self.ended[0]
        return CaughtUp(ended=frozenset(ended), troubles=self.troubles or {})


def fences(source: Source, drains: Drains, **chosen: Any) -> Fences:
    wanted = {"published": lambda: 0, "had_slot": lambda: True, "seconds": 0.5, **chosen}
    return Fences(**{"source": source, "slot": "sluice", "catch_up": drains, **wanted})


@pytest.mark.parametrize(
    ("confirmed", "drains", "passed"), [((7,), 1, True), ((6, 7), 2, True), ((6, 6), 1, False)]
)
def test_a_slow_drain_is_followed_by_another_look(
    confirmed: tuple[int, ...], drains: int, passed: bool
) -> None:
    source, slow = Source(*confirmed), Drains({"one"}, seconds=0.6)
    assert (not fences(source, slow).behind(7, [ONE])) is passed
    assert slow.done == drains


def test_a_table_that_cannot_be_drained_keeps_back_no_other() -> None:
    """With `ack=drained` it holds the slot, so that the slot says nothing of the others."""
    drains = Drains({"other"}, troubles={"one": POISONED})
    found = fences(Source(1), drains, published=lambda: 7).behind(7, [ONE, OTHER])
    assert found == {"one": POISONED}


def test_what_is_not_on_the_topics_yet_is_not_drained_though_a_topic_ended() -> None:
    drains = Drains({"other"}, troubles={"one": POISONED})
    found = fences(Source(1), drains, published=lambda: 6).behind(7, [ONE, OTHER])
    assert found["one"] is POISONED
    assert isinstance(found["other"], Lagging)


def test_a_backlog_of_more_than_one_drain_is_drained_before_anything_is_compared() -> None:
    drains = Drains(set(), set(), {"one"})
    assert fences(Source(7), drains, seconds=60).behind(7, [ONE]) == {}
    assert drains.done == 3


def test_a_catch_up_has_the_time_that_is_left_and_a_little_when_none_is() -> None:
    drains = Drains(set(), set(), {"one"}, seconds=0.01)
    assert fences(Source(7), drains, seconds=20).behind(7, [ONE]) == {}
    assert len(drains.limits) == 3
    assert 20 >= drains.limits[0] > drains.limits[1] > drains.limits[2]
    late = Drains({"one"})
    assert fences(Source(7), late, seconds=0).behind(7, [ONE]) == {}
    assert late.limits == [5.0]


def test_tables_that_are_all_in_trouble_are_not_waited_for() -> None:
    drains = Drains(set(), troubles={"one": POISONED})
    assert fences(Source(1), drains, seconds=60).behind(7, [ONE]) == {"one": POISONED}


def test_trouble_that_ended_while_others_were_waited_for_is_none() -> None:
    drains = Drains({"one", "other"})
    troubles: list[dict[str, SluiceError]] = [{"one": POISONED}, {}]

    def caught_up(limit: float) -> CaughtUp:
        return CaughtUp(ended=drains(limit).ended, troubles=troubles.pop(0))

    step = fences(Source(6, 7), drains, seconds=60, catch_up=caught_up)
    assert step.behind(7, [ONE, OTHER]) == {}


def test_a_slot_that_is_gone_leaves_every_table_behind_and_one_that_never_was_is_awaited() -> None:
    drains = Drains({"one"})
    found = fences(Source(None), drains).behind(7, [ONE])["one"]
    assert (found.what, found.remedy) == (
        "replication slot 'sluice' is gone",
        "run: sluice recover",
    )
    with pytest.raises(NotReady):
        fences(Source(None), drains, had_slot=lambda: False).behind(7, [ONE])


def test_a_lost_slot_is_not_waited_for() -> None:
    found = fences(Source(1, wal_status="lost"), Drains(set()), seconds=60).behind(7, [ONE])
    assert isinstance(found["one"], Lagging)
