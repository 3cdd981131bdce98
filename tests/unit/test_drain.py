"""The drain on the twins: the same state however deliveries are cut, repeated or interrupted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.catalog import Table
from sluice.drain import drain as draining
from sluice.drain.backlog import read_backlog
from sluice.drain.drain import Drain
from sluice.drain.in_memory import MemoryLog, MemoryStore
from sluice.drain.ports import Checkpoint
from sluice.errors import PoisonedTopic, Refused, StaleCheckpoint, TopicGap
from sluice.events.event import TOO_LARGE, UNCHANGED, Record, Reject
from sluice.events.positions import pack
from sluice.execution import progress as pace
from sluice.settings import DrainSettings
from tests.support.products import (
    DECODER,
    LIMITS,
    ONE_CHUNK,
    TABLE,
    Step,
    event,
    history,
    names,
    row,
)

STEPS = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["write", "write", "partial", "delete", "truncate"]),
        key=st.integers(1, 4),
        to=st.one_of(st.none(), st.integers(1, 4)),
    ),
    max_size=25,
)


def filled(events: list[bytes]) -> MemoryLog:
    log = MemoryLog([TABLE.topic])
    for value in events:
        log.produce(TABLE.topic, value)
    return log


@given(STEPS, st.lists(st.integers(0, 25), max_size=4))
def test_redelivered_suffixes_and_wiped_brokers_leave_the_same_state(
    steps: list[Step], cuts: list[int]
) -> None:
    events, expected = history(steps)
    log, store = filled(events), MemoryStore()
    drain = Drain(changes=log, store=store, limits=LIMITS)
    drain.run(DECODER)
    assert names(store) == expected
    for number, cut in enumerate(cuts):
        log.wipe(f"epoch {number}")
        for value in events[min(cut, len(events)) :]:
            log.produce(TABLE.topic, value)
        drain.run(DECODER)
        assert names(store) == expected
    assert store.rejected == {}


@given(STEPS, st.integers(1, 9))
def test_an_interruption_before_any_checkpoint_leaves_the_same_state(
    steps: list[Step], until: int
) -> None:
    class Interrupted(Exception):
        pass

    class Failing(MemoryStore):
        remaining = until

        def advance(self, checkpoint: Any) -> None:
            self.remaining -= 1
            if self.remaining == 0:
                raise Interrupted
            super().advance(checkpoint)

    events, expected = history(steps)
    store = Failing()
    drain = Drain(changes=filled(events), store=store, limits=LIMITS)
    try:
        drain.run(DECODER)
    except Interrupted:
        drain.run(DECODER)
    assert names(store) == expected
    assert store.rejected == {}


def test_a_topic_that_was_made_again_is_a_gap_however_far_it_has_grown() -> None:
    events, _ = history([Step(kind="write", key=key) for key in (1, 2, 3)])
    log, store = filled(events[:2]), MemoryStore()
    drain = Drain(changes=log, store=store, limits=LIMITS)
    drain.run(DECODER)
    log.recreate(TABLE.topic)
    for value in (*events, *events):
        log.produce(TABLE.topic, value)
    with pytest.raises(TopicGap, match="recreated") as caught:
        drain.run(DECODER)
    assert caught.value.remedy == f"read the table again: sluice resync {TABLE.name}"
    drain.skip_gap(TABLE)
    assert drain.run(DECODER).events == 6


@pytest.mark.parametrize("moved", ["raise_epoch", "change_source"])
def test_a_move_that_a_drain_which_began_before_wins_over_is_refused(moved: str) -> None:
    class Overtaken(MemoryStore):
        """Where a drain's checkpoint of before comes after the next one that is written."""

        def advance(self, checkpoint: Checkpoint) -> None:
            super().advance(checkpoint)
            if late:
                self._checkpoints[TABLE.name] = replace(
                    late.pop(), generation=checkpoint.generation + 1
                )

    late: list[Checkpoint] = []
    store = Overtaken()
    drain = Drain(changes=filled([]), store=store, limits=LIMITS)
    store.advance(Checkpoint(source_table=TABLE.name).following(broker_epoch="1"))
    late.append(replace(store.checkpoints()[TABLE.name], committed_at=1))
    move: dict[str, Callable[[], object]] = {
        "raise_epoch": lambda: drain.raise_epoch(TABLE),
        "change_source": lambda: drain.change_source(TABLE, "connect"),
    }
    with pytest.raises(StaleCheckpoint):
        move[moved]()
    move[moved]()
    assert store.checkpoints()[TABLE.name].epoch == 1


WHOLE = STEPS.map(lambda steps: [step for step in steps if step.kind != "partial"])


@given(WHOLE, st.sets(st.integers(0, 25)), st.randoms())
def test_events_that_were_rejected_and_are_replayed_in_any_order_leave_the_same_state(
    steps: list[Step], held: set[int], chance: Random
) -> None:
    events, expected = history(steps)
    log = filled([b"bad" if at in held else event for at, event in enumerate(events)])
    store = MemoryStore()
    drain = Drain(changes=log, store=store, limits=LIMITS)
    drain.run(DECODER)
    letters = [
        Record(offset=offset, key=None, value=events[offset]) for _, _, offset in store.rejected
    ]
    for _ in range(2):
        chance.shuffle(letters)
        for start in range(0, len(letters), 2):
            assert drain.replay(DECODER, letters[start : start + 2], 0) == []
        assert names(store) == expected


def test_a_replayed_event_is_one_that_a_rebuild_has_yet_to_see() -> None:
    events, _ = history([Step(kind="write", key=1), Step(kind="write", key=2)])
    log, store = filled([b"bad", events[1]]), MemoryStore()
    drain = Drain(changes=log, store=store, limits=LIMITS)
    drain.run(DECODER)
    seen = store.checkpoint(TABLE.name)
    assert seen is not None
    drain.replay(DECODER, [Record(offset=0, key=None, value=events[0])], 0)
    drained = store.checkpoint(TABLE.name)
    assert drained is not None
    assert drained.last_seq == seen.last_seq + 1
    assert drained.next_offset == seen.next_offset


def test_a_slower_drain_is_told_and_changes_nothing() -> None:
    events, expected = history([Step(kind="write", key=key) for key in (1, 2, 3, 4)])
    log, store = filled(events), MemoryStore()
    other = Drain(changes=log, store=store, limits=LIMITS)

    class Overtaken(MemoryLog):
        def read(self, *arguments: Any) -> Any:
            for chunk in super().read(*arguments):
                if store.checkpoint(TABLE.name) is None:
                    other.run(DECODER)
                yield chunk

    slow = Overtaken([TABLE.topic])
    for value in events:
        slow.produce(TABLE.topic, value)
    with pytest.raises(StaleCheckpoint):
        Drain(changes=slow, store=store, limits=LIMITS).run(DECODER)
    assert names(store) == expected


def rereading(whole: dict[int, Any]) -> tuple[list[Any], Any]:
    """What is asked for, and a source with these rows; None is a row that is too large."""
    asked: list[Any] = []

    def reread(table: Any, keys: Any) -> list[Record]:
        asked.append(keys)
        wanted = [int(key) for (key,) in keys if int(key) in whole]
        values = [(key, whole[key] and event("read", whole[key])) for key in wanted]
        return [Record(0, json.dumps({"id": key}).encode(), value) for key, value in values]

    return asked, reread


def test_rows_that_no_event_has_whole_are_read_from_the_source_unless_they_are_gone() -> None:
    asked, reread = rereading({key: row(key, f"now {key}") for key in (1, 2)})
    sent = [{"id": 1, "name": "old"}, row(2, UNCHANGED), row(3, UNCHANGED)]
    log = filled([event("update", payload, number) for number, payload in enumerate(sent)])
    store = MemoryStore()
    Drain(changes=log, store=store, limits=ONE_CHUNK, reread=reread).run(DECODER)
    assert names(store) == {1: "now 1", 2: "now 2"}
    assert (store.rejected, asked) == ({}, [[("1",), ("2",), ("3",)]])


def test_a_row_that_the_source_has_and_that_cannot_be_stored_is_rejected_for_its_own_reason() -> (
    None
):
    """Beside rows that are gone and rows that are stored, in one chunk."""
    source = {1: row(1, "one"), 2: {**row(2, "two"), "price": "NaN"}, 3: None, 4: {"id": 4}}
    _, reread = rereading(source)
    log = filled([event("update", {"id": key}, key) for key in (1, 2, 3, 4, 5)])
    store = MemoryStore()
    report = Drain(changes=log, store=store, limits=ONE_CHUNK, reread=reread).run(DECODER)
    assert names(store) == {1: "one"}
    reasons = {reject.record.offset: reject.reason for _, reject in log.dead_letters}
    assert report.rejected == len(reasons) == 3
    assert "payload.price" in reasons[1]
    assert reasons[2] == "the row is too large"
    assert "lacks columns of the models" in reasons[3]


@pytest.mark.parametrize("chunk", [1, 500])
@pytest.mark.parametrize("bad", [True, False])
def test_a_snapshots_truncate_takes_nothing_where_a_row_of_it_was_not_stored(
    bad: bool, chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = [event("insert", row(key, f"old {key}"), key, ordinal=5) for key in (1, 2, 3)]
    unstorable = {**row(1, "new 1"), **({"price": "NaN"} if bad else {})}
    snapshot = [event("read", value, 9) for value in (unstorable, row(2, "new 2"))]
    closing = event("truncate", None, 9, ordinal=0)
    log, store = filled([*before, *snapshot, closing]), MemoryStore()
    drain = Drain(changes=log, store=store, limits=replace(LIMITS, chunk=chunk))
    drain.run(DECODER)
    kept = {1: "old 1", 2: "new 2", 3: "old 3"}
    assert names(store) == (kept if bad else {1: "new 1", 2: "new 2"})
    assert ("run: sluice resync products" in caplog.text) == bad
    log.produce(TABLE.topic, event("truncate", None, 10, ordinal=7))  # PostgreSQL's own
    drain.run(DECODER)
    assert names(store) == {}


def test_a_few_rejects_are_kept_and_a_poisoned_topic_stops_where_it_is() -> None:
    log, store = filled([b"bad", *history([Step(kind="write", key=1)])[0]]), MemoryStore()
    limits = DrainSettings(
        events=10_000, seconds=10, chunk=500, chunk_bytes=1 << 20, reject_ratio=0.5, reject_run=1000
    )
    report = Drain(changes=log, store=store, limits=limits).run(DECODER)
    assert (report.events, report.rejected, names(store)) == (2, 1, {1: "n0"})
    assert len(log.dead_letters) == 1
    for _ in range(200):
        log.produce(TABLE.topic, b"bad")
    with pytest.raises(PoisonedTopic, match="200 of 200"):
        Drain(changes=log, store=store, limits=limits).run(DECODER)
    assert len(store.rejected) == 1
    assert store.checkpoint(TABLE.name) is not None
    assert log.committed[TABLE.topic] == 2


@pytest.mark.parametrize(("run", "stops"), [(10, False), (11, True)])
def test_a_run_of_rejects_over_the_limit_stops_the_drain(run: int, stops: bool) -> None:
    good = history([Step(kind="write", key=1)])[0]
    log = filled([*good * 50, *[b"bad"] * run, *good * 5, b"bad", *good * 5])
    store, limits = MemoryStore(), replace(LIMITS, chunk=500, reject_run=10)
    drain = Drain(changes=log, store=store, limits=limits)
    if stops:
        with pytest.raises(
            PoisonedTopic, match="11 events in a row are invalid, first at offset 50"
        ):
            drain.run(DECODER)
        assert store.checkpoint(TABLE.name) is None
    else:
        assert drain.run(DECODER).rejected == 11


def test_what_another_drain_has_drained_and_let_expire_is_no_gap() -> None:
    events, expected = history([Step(kind="write", key=key) for key in (1, 2, 3)])
    log, store = filled(events), MemoryStore()
    drain = Drain(changes=log, store=store, limits=LIMITS)
    late = read_backlog(log, store, [TABLE]).standing(TABLE)
    drain.run(DECODER, late)
    log.expire(TABLE.topic, len(events))
    with pytest.raises(StaleCheckpoint):
        drain.run(DECODER, late)
    assert (drain.run(DECODER).events, names(store)) == (0, expected)
    log.produce(TABLE.topic, events[0])
    log.expire(TABLE.topic, len(events) + 1)
    with pytest.raises(TopicGap):
        drain.run(DECODER)


@pytest.mark.parametrize(
    ("resyncs", "operation", "reason", "stops"),
    [
        (False, "read", "odd", True),
        (True, "read", "odd", False),
        (True, "update", "odd", True),
        (False, "update", TOO_LARGE, False),
    ],
)
def test_what_a_resync_sends_and_rows_that_are_too_large_stop_no_drain(
    resyncs: bool, operation: str, reason: str, stops: bool
) -> None:
    odd = event(operation, None if reason == TOO_LARGE else {"id": "odd"})
    store = MemoryStore()
    store.resyncs |= {TABLE.name} if resyncs else set()
    drain = Drain(changes=filled([odd] * 200), store=store, limits=replace(LIMITS, chunk=500))
    if stops:
        with pytest.raises(PoisonedTopic):
            drain.run(DECODER)
    else:
        assert drain.run(DECODER).rejected == 200


@pytest.mark.parametrize(
    ("stored", "lsn", "kept", "stops"),
    [
        (99, 109, (), True),
        (100, 109, (), False),
        (100, 109, (7,), True),
        (100, 109, (8, 107), False),  # of the same chunk, by a drain that was killed
        (100, 900, (), False),  # of a later snapshot, as this one was killed
        (100, 108, (), True),
    ],
)
def test_rejects_of_a_snapshot_stop_the_drain_by_their_share_of_the_rows_stored_since(
    stored: int, lsn: int, kept: tuple[int, ...], stops: bool
) -> None:
    """Rows in bulk are not on the topic."""
    store, full = MemoryStore(), row(1, "stored")
    rows = [(*{**full, "id": n}.values(), pack(0, lsn, 1), 0, n, 0) for n in range(stored)]
    store.append(TABLE, [list(column) for column in zip(*rows, strict=True)])
    drain = Drain(changes=filled([b"drained"] * 8), store=store, limits=ONE_CHUNK)
    assert drain.run(DECODER).next_offset == 8
    odd = [event("read", {"id": f"odd {n}"}, 9) for n in range(100)]
    rejects = [
        Reject(record=Record(offset=offset, key=None, value=odd[0]), reason="odd")
        for offset in kept
    ]
    store.reject(drain.present(TABLE), "", rejects)
    drain = replace(drain, changes=filled([b"drained"] * 8 + odd))
    if stops:
        with pytest.raises(PoisonedTopic, match="100 of 100 events are invalid"):
            drain.run(DECODER)
    else:
        assert drain.run(DECODER).rejected == 100


def test_other_rejects_count_beside_those_of_a_stored_snapshot() -> None:
    store = MemoryStore()
    store.append(TABLE, [[value] for value in (*row(1, "x").values(), pack(0, 109, 1), 0, 1, 0)])
    events = [event("read", {"id": "odd"}, 9), *[event("insert", {"id": "odd"}, 9)] * 100]
    with pytest.raises(PoisonedTopic, match="100 of 101 events are invalid"):
        Drain(changes=filled(events), store=store, limits=ONE_CHUNK).run(DECODER)


def test_a_snapshots_truncate_takes_none_of_its_rows_where_an_epoch_has_begun_since(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, store = filled([]), MemoryStore()
    drain = Drain(changes=log, store=store, limits=LIMITS)
    store.append(TABLE, [[value] for value in (*row(1, "x").values(), pack(0, 109, 1), 0, 1, 0)])
    drain.raise_epoch(TABLE)
    log.produce(TABLE.topic, event("truncate", None, 9, ordinal=0))
    drain.run(DECODER)
    assert names(store) == {1: "x"}
    assert "before a new epoch of positions began" in caplog.text


def test_a_long_drain_tells_its_rate_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pace, "SECONDS", 0.0)
    caplog.set_level("INFO", "sluice.drain.drain")
    events, _ = history([Step(kind="write", key=1 + number % 4) for number in range(12)])
    limits = replace(LIMITS, chunk=4, events=8)
    report = Drain(changes=filled(events), store=MemoryStore(), limits=limits).run(DECODER)
    assert re.fullmatch(
        r"products: 4 events, [\d,]+ a second, 8 left: about 1 s", caplog.messages[0]
    )
    assert report.sentence().endswith("; 4 more are waiting")


class Refusing(MemoryStore):
    """A store that refuses inserts of more than `most` rows, and the first `times` of all."""

    def __init__(self, most: int = 1 << 30, times: int = 0) -> None:
        super().__init__()
        self.most, self.times = most, times
        self.sizes: list[int] = []

    def append(self, table: Table, columns: Sequence[Sequence[Any]]) -> None:
        self.sizes.append(len(columns[0]))
        if len(columns[0]) > self.most:
            raise Refused("memory", too_large=True)
        self.times -= 1
        if self.times >= 0:
            raise Refused("parts")
        super().append(table, columns)


def refused_drain(store: Refusing) -> dict[int, str]:
    """A drain of nine rows in one chunk; the names that are expected."""
    events, expected = history([Step(kind="write", key=key) for key in range(1, 10)])
    limits = replace(LIMITS, chunk=500)
    Drain(changes=filled(events), store=store, limits=limits).run(DECODER)
    return expected


def test_an_insert_that_needs_too_much_memory_is_split_until_it_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(draining, "_SMALLEST", 2)
    store = Refusing(most=3)
    assert refused_drain(store) == names(store)
    assert store.sizes == [9, 4, 2, 2, 5, 2, 3]


def test_a_refused_insert_is_tried_again_and_nothing_advances_when_it_stays_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(draining, "_WAITS", (0, 0))
    store = Refusing(times=2)
    assert refused_drain(store) == names(store)
    for stubborn in (Refusing(times=3), Refusing(most=0)):
        with pytest.raises(Refused):
            refused_drain(stubborn)
        assert stubborn.checkpoint(TABLE.name) is None


def of_kind(kind: str) -> bytes:
    """An event of which nothing new is stored: rejected at once or later, read again, or old."""
    change = json.loads(event("update", row(1, "n"), number=9))
    if kind == "not valid":
        change["payload"]["price"] = "dear"
    elif kind == "not whole":
        change["payload"] |= {"id": 7, "name": UNCHANGED}
        change["metadata"]["commit_ts_ms"] = 5
    elif kind == "read again":
        change["metadata"] |= {"operation": "read", "commit_ts_ms": None}
    return json.dumps(change).encode()


@pytest.mark.parametrize("kind", ["not valid", "not whole", "read again", "sent again"])
def test_a_drain_that_stores_nothing_newer_tells_no_freshness(kind: str) -> None:
    log, store = filled([event("insert", row(1, "n"))]), MemoryStore()
    drain = Drain(changes=log, store=store, limits=LIMITS)
    assert drain.run(DECODER).freshness_s is not None
    log.produce(TABLE.topic, of_kind(kind))
    report = drain.run(DECODER)
    assert (report.events, report.rejected) == (1, int(kind.startswith("not")))
    assert report.freshness_s is None
    assert store.checkpoint(TABLE.name).committed_at == 1  # type: ignore[union-attr]


# What comes after a rejected update of row 1 at place 109, and whether that resolves it.
FOLLOWING: dict[str, tuple[bytes | None, bool]] = {
    "a newer row": (event("update", row(1, "right"), number=10), True),
    "its end": (event("delete", {"id": 1}, number=10), True),
    "an empty table": (event("truncate", None, number=10), True),
    "itself, as a schema takes it": (event("update", row(1, "right"), number=9), True),
    "an older row": (event("update", row(1, "old"), number=8), False),
    "a row of another key": (event("update", row(2, "other"), number=10), False),
    "nothing": (None, False),
}


@pytest.mark.parametrize("one_run", [False, True])
@pytest.mark.parametrize("kind", FOLLOWING)
def test_a_reject_is_resolved_by_what_is_newer_of_its_row_alone(kind: str, one_run: bool) -> None:
    following, resolved = FOLLOWING[kind]
    log, store = filled([event("insert", row(1, "n"))]), MemoryStore()
    drain = Drain(changes=log, store=store, limits=LIMITS)

    def run() -> None:
        drain.run(DECODER, read_backlog(log, store, [TABLE]).standing(TABLE))

    run()
    log.produce(TABLE.topic, of_kind("not valid"), b'{"id": 1}')
    if not one_run:
        run()
        assert [reject.offset for reject in store.open_rejects(TABLE.name)] == [1]
    if following:
        log.produce(TABLE.topic, following, b'{"id": 1}')
    run()
    assert [one.offset for one in store.open_rejects(TABLE.name)] == ([] if resolved else [1])
    assert drain.run(DECODER).events == 0
    assert len(store.rejected) == 1


@pytest.mark.parametrize("key", [b"", b"{}", b'{"id": "x"}', b"[" * 5000, b"null", b"\xff"])
@pytest.mark.parametrize("value", [b"", b"bad", b"{}", b'{"metadata": 1}', b"[" * 5000, b"\xff"])
def test_what_has_no_place_or_no_key_is_never_resolved(key: bytes, value: bytes) -> None:
    log, store = filled([]), MemoryStore()
    log.produce(TABLE.topic, value, key)
    log.produce(TABLE.topic, of_kind("not valid"), key)
    log.produce(TABLE.topic, event("insert", row(1, "n"), number=99), b'{"id": 1}')
    Drain(changes=log, store=store, limits=LIMITS).run(DECODER)
    assert sorted(one.offset for one in store.open_rejects(TABLE.name)) == [0, 1]
