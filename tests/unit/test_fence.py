"""When a check's fence is passed, whatever the drain before it takes."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from sluice.adapters.postgres import SlotState
from sluice.quality import Quality

UNUSED: Any = None


class Confirming:
    """A slot that has confirmed this at one look after the other."""

    def __init__(self, *confirmed: int) -> None:
        self.confirmed = list(confirmed)

    def slot(self, name: str) -> SlotState:
        return SlotState(
            confirmed_lsn=self.confirmed.pop(0),
            wal_status="reserved",
            lag_bytes=0,
            safe_wal_size=None,
            active=True,
        )


@pytest.mark.parametrize(
    ("confirmed", "drains", "passed"), [((7,), 1, True), ((6, 7), 2, True), ((6, 6), 1, False)]
)
def test_a_slow_drain_is_followed_by_another_look(
    confirmed: tuple[int, ...], drains: int, passed: bool
) -> None:
    done = []

    def drain() -> None:
        time.sleep(0.6)
        done.append(1)

    slots = Confirming(*confirmed)
    quality = Quality(
        source=cast(Any, slots),
        clickhouse=UNUSED,
        catalog=UNUSED,
        queries={},
        rebuilds={},
        slot="sluice",
        had_slot=lambda: True,
        exact=UNUSED,
        catch_up=drain,
        seconds=0.5,
        gaps={},
        keep=UNUSED,
        most_rows=0,
    )
    assert quality.passed(7) is passed
    assert len(done) == drains
    assert not slots.confirmed
