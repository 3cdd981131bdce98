"""What events say of their place is bounded: a broken or forged position costs its event alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.drain.drain import Drain
from sluice.drain.in_memory import MemoryLog, MemoryStore
from sluice.drain.origin import WalEnd
from sluice.errors import Unreachable
from sluice.events.positions import format_lsn, pack, unpack
from tests.support.places import END, PLACES, placed
from tests.support.products import DECODER, LIMITS, ONE_CHUNK, TABLE, event, names, row

HERE = WalEnd(server="1/00000001", lsn=END)
HOSTILE = st.tuples(st.sampled_from(["update", "delete", "truncate", "read"]), PLACES)


def drain_of(
    log: MemoryLog, store: MemoryStore, wal_end: Callable[[], WalEnd | None], **changed: Any
) -> Drain:
    limits = replace(LIMITS, reject_ratio=1.0)
    return replace(Drain(changes=log, store=store, limits=limits, wal_end=wal_end), **changed)


@given(st.lists(HOSTILE, max_size=12), st.sampled_from(["relay", "connect"]))
def test_whatever_places_events_name_the_honest_ones_after_them_are_stored(
    hostile: list[tuple[str, dict[str, Any]]], source: str
) -> None:
    log, store = MemoryLog([TABLE.topic]), MemoryStore()
    drain = drain_of(log, store, lambda: HERE, announced=lambda: source)
    for operation, place in hostile:
        log.produce(TABLE.topic, placed(operation, place))
    drain.run(DECODER)
    checkpoint = store.checkpoint(TABLE.name)
    newest = max([checkpoint.truncated if checkpoint else 0, *versions(store)])
    assert newest <= pack(0, END, (1 << 48) - 1)
    honest = {"source": source, "commit_lsn": format_lsn(END), "ordinal": (1 << 48) - 1}
    for key in (1, 2):
        log.produce(TABLE.topic, placed_row(key, honest))
    assert drain.run(DECODER).rejected == 0
    assert names(store) == {1: "honest", 2: "honest"}
    present = store.checkpoint(TABLE.name)
    assert present is not None
    assert present.committed_at <= time.time() * 1000


def placed_row(key: int, place: dict[str, Any]) -> bytes:
    whole = json.loads(event("update", row(key, "honest")))
    whole["metadata"].update(place)
    return json.dumps(whole).encode()


def versions(store: MemoryStore) -> list[int]:
    return [stored[-4] for stored in store._rows[TABLE.name].values()]


def test_the_end_is_asked_again_only_where_a_position_lies_beyond_the_one_that_is_known() -> None:
    log, store = MemoryLog([TABLE.topic]), MemoryStore()
    ends = iter([103, 103, 108, 108])
    asked = list[int]()

    def ask() -> WalEnd:
        asked.append(next(ends))
        return WalEnd(server="1", lsn=asked[-1])

    drain = drain_of(log, store, ask)
    drain.run(DECODER)
    assert asked == []  # nothing came
    for number in range(9):  # at 100 to 108; three in a chunk
        log.produce(TABLE.topic, event("insert", row(number, f"n{number}"), number))
    drain.run(DECODER)
    assert asked == [103, 103, 108]
    assert [offset for _, _, offset in store.rejected] == [4, 5]
    assert len(names(store)) == 7


def test_the_reason_names_the_position_and_the_limit_and_a_flood_asks_once() -> None:
    log, store, answers = MemoryLog([TABLE.topic]), MemoryStore(), iter([HERE])
    drain = drain_of(log, store, lambda: next(answers), limits=ONE_CHUNK)
    for number in range(40):
        log.produce(TABLE.topic, placed("update", {"commit_lsn": f"FFFFFFFF/{number:X}"}))
    log.produce(TABLE.topic, placed("truncate", {"commit_lsn": "FFFFFFFF/FFFFFFF0"}))
    drain.run(DECODER)
    assert list(answers) == []
    assert (len(store.rejected), names(store)) == (41, {})
    reason = store.rejected[TABLE.name, "1", 40].reason
    assert "FFFFFFFF/FFFFFFF0 is beyond the end of PostgreSQL's WAL, 100/0" in reason


def gone() -> WalEnd:
    raise Unreachable("PostgreSQL does not answer")


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (gone, "does not answer"),
        (lambda: None, "standby"),
        (lambda: WalEnd(server="2/00000002", lsn=1), "2/00000002"),
    ],
    ids=["down", "standby", "another server"],
)
def test_a_server_that_says_nothing_of_the_positions_keeps_no_event_back(
    ask: Callable[[], WalEnd | None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Events of before a failover are ahead of the WAL of the server after it."""
    log, store = MemoryLog([TABLE.topic]), MemoryStore()
    log.produce(TABLE.topic, event("insert", row(1, "first")))
    drain_of(log, store, lambda: HERE).run(DECODER)
    log.produce(TABLE.topic, placed_row(1, {"commit_lsn": format_lsn(END + 5)}))
    assert drain_of(log, store, ask).run(DECODER).rejected == 0
    assert names(store) == {1: "honest"}
    assert why in caplog.text


def test_an_epoch_begins_with_the_server_that_answers_then() -> None:
    log, store = MemoryLog([TABLE.topic]), MemoryStore()
    log.produce(TABLE.topic, event("insert", row(1, "first"), END))
    before = drain_of(log, store, lambda: WalEnd(server="1", lsn=2 * END))
    before.run(DECODER)
    before.raise_epoch(TABLE)
    for number in (1, 2 * END):
        log.produce(TABLE.topic, event("insert", row(1, f"of {number}"), number))
    after = drain_of(log, store, lambda: WalEnd(server="2", lsn=END))
    assert after.run(DECODER).rejected == 1
    assert names(store) == {1: "of 1"}
    checkpoint = store.checkpoint(TABLE.name)
    assert checkpoint is not None
    assert (checkpoint.server, checkpoint.epoch) == ("2", 1)
    assert unpack(max(versions(store))).epoch == 1
