"""Two change sources of one table: the later one wins, whatever positions the other had."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.generated import ProductEvent
from sluice.catalog import load_catalog
from sluice.drain.decoder import Decoder
from sluice.drain.drain import Drain
from sluice.drain.in_memory import MemoryLog, MemoryStore
from sluice.errors import NotReady, WrongUsage
from sluice.events.positions import format_lsn
from sluice.settings import DrainSettings

TABLE = load_catalog("models").table("products")
DECODER = Decoder(TABLE, ProductEvent)
LIMITS = DrainSettings(
    events=10_000, seconds=10, chunk=3, chunk_bytes=1 << 20, reject_ratio=0.5, reject_run=1000
)
RELAY: dict[str, Any] = {"source": "relay", "commit_ts_ms": 1}
CONNECT: dict[str, Any] = {"source": "connect", "commit_ts_ms": 1}

Write = tuple[int, str | None]
WRITES = st.lists(st.tuples(st.integers(1, 3), st.one_of(st.none(), st.text("ab"))), max_size=12)


def event(place: dict[str, Any], write: Write) -> bytes:
    """A row of this key and name; of no name its delete."""
    key, name = write
    metadata = {**place, "table": "products", "lsn": "0/1"}
    metadata["operation"] = "delete" if name is None else "update"
    row = {"name": name, "category": "c", "price": "1", "created_at": "2026-01-01T00:00:00Z"}
    payload = {"id": key} if name is None else {"id": key, **row}
    return json.dumps({"metadata": metadata, "payload": payload, "before": None}).encode()


def relayed(number: int, write: Write) -> bytes:
    lsn = (1 << 40) + number  # far above any offset
    return event({**RELAY, "commit_lsn": format_lsn(lsn), "ordinal": 1}, write)


def names(store: MemoryStore) -> dict[int, str]:
    return {key: values[1] for (key,), values in store.live(TABLE).items()}


def started() -> tuple[MemoryLog, MemoryStore, Drain]:
    log, store = MemoryLog([TABLE.topic]), MemoryStore()
    return log, store, Drain(changes=log, store=store, limits=LIMITS)


@given(WRITES, st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_a_change_of_source_and_back_keeps_the_order_of_writes(
    writes: list[Write], first: int, second: int, again: int
) -> None:
    log, store, drain = started()
    expected = {key: name for key, name in dict(writes).items() if name is not None}
    first, second = sorted((min(first, len(writes)), min(second, len(writes))))
    for number, write in enumerate(writes[:first]):
        log.produce(TABLE.topic, relayed(number, write))
    drain.run(DECODER)
    assert drain.change_source(TABLE, "connect")
    for write in writes[max(0, first - again) : second]:  # Connect may send some once more
        log.produce(TABLE.topic, event(CONNECT, write))
    drain.run(DECODER)
    assert drain.change_source(TABLE, "relay")
    for number, write in enumerate(writes[second:]):
        log.produce(TABLE.topic, relayed(number, write))
    drain.run(DECODER)
    assert names(store) == expected
    checkpoint = store.checkpoint("products")
    assert checkpoint is not None
    assert (checkpoint.epoch, checkpoint.source) == (2, "relay")


@pytest.mark.parametrize("announced", ["relay", "connect"])
@pytest.mark.parametrize("first", [True, False])
def test_events_of_another_source_are_dead_letters_until_that_step(
    announced: str, first: bool
) -> None:
    """However they come: first of all, in one chunk with others, or alone."""
    log, store, _ = started()
    drain = Drain(changes=log, store=store, limits=LIMITS, announced=lambda: announced)
    values = {"relay": relayed(1, (1, "a")), "connect": event(CONNECT, (1, "b"))}
    own, foreign = values.pop(announced), *values.values()
    for value in [foreign, own] if first else [own, foreign, foreign]:
        log.produce(TABLE.topic, value)
    drain.run(DECODER)
    log.produce(TABLE.topic, foreign)
    assert drain.run(DECODER).rejected == 1
    assert names(store) == {1: "a" if announced == "relay" else "b"}
    reasons = {reject.reason for reject in store.rejected.values()}
    assert all(
        f"come from {announced}" in reason and "sluice source" in reason for reason in reasons
    )
    (other,) = values
    assert drain.change_source(TABLE, other)
    log.produce(TABLE.topic, foreign)
    assert drain.run(DECODER).rejected == 0
    assert names(store) == {1: "b" if announced == "relay" else "a"}


def test_events_that_are_not_drained_keep_the_source() -> None:
    log, store, drain = started()
    log.produce(TABLE.topic, relayed(1, (1, "a")))
    with pytest.raises(NotReady, match="undrained events"):
        drain.change_source(TABLE, "connect")
    assert store.checkpoint("products") is None


def test_the_present_source_is_kept_in_its_epoch_and_an_unknown_one_refused() -> None:
    _, store, drain = started()
    assert drain.change_source(TABLE, "connect")
    assert not drain.change_source(TABLE, "connect")
    checkpoint = store.checkpoint("products")
    assert checkpoint is not None
    assert checkpoint.epoch == 1
    with pytest.raises(WrongUsage, match="debezium"):
        drain.change_source(TABLE, "debezium")


def test_connects_events_on_a_new_broker_win_over_those_of_the_old_one() -> None:
    log, store, drain = started()
    drain.change_source(TABLE, "connect")
    for name in ("a", "b", "c"):
        log.produce(TABLE.topic, event(CONNECT, (1, name)))
    drain.run(DECODER)
    log.wipe("another")
    log.produce(TABLE.topic, event(CONNECT, (1, "d")))
    drain.run(DECODER)
    assert names(store) == {1: "d"}


def test_a_resyncs_row_wins_over_what_its_fence_has_seen_and_loses_to_what_came_after() -> None:
    log, store, drain = started()
    drain.change_source(TABLE, "connect")
    for write in ((1, "stale"), (2, "stale"), (3, "ghost")):
        log.produce(TABLE.topic, event(CONNECT, write))
    fence = {**CONNECT, "fence": 3}
    log.produce(TABLE.topic, event(CONNECT, (2, "newer than the snapshot")))
    for write in ((1, "snapshot"), (2, "snapshot")):
        log.produce(TABLE.topic, event({**fence, "ordinal": 1}, write))
    for key in (2, 3):
        log.produce(TABLE.topic, event({**fence, "ordinal": 0}, (key, None)))
    drain.run(DECODER)
    assert names(store) == {1: "snapshot", 2: "newer than the snapshot"}
