"""What the stream keeps of transactions that wait for the drain, however long it is held back."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.capture.publisher import Batch
from sluice.capture.stream import Stream


def stream(batches: list[Batch], asked: int) -> Stream:
    """A stream without a session that holds these batches."""
    made = Stream.__new__(Stream)
    made._pending, made._on_broker = deque(batches), asked
    return made


def batch(number: int, topics: set[str], undelivered: int) -> Batch:
    return Batch(
        end_lsn=number,
        commit_ms=1000 + number,
        messages=1,
        undelivered=undelivered,
        offsets=dict.fromkeys(topics, number),
    )


@given(topics=st.lists(st.sets(st.sampled_from("abc")), min_size=1, max_size=20), data=st.data())
def test_batches_that_are_joined_wait_for_the_same_offsets_and_confirm_no_more(
    topics: list[set[str]], data: st.DataObject
) -> None:
    delivered = data.draw(st.integers(0, len(topics)))
    asked = data.draw(st.integers(0, delivered))
    batches = [batch(at + 1, one, int(at >= delivered)) for at, one in enumerate(topics)]
    joined = stream(batches, asked)
    joined._join()
    left = list(joined._pending)
    assert len(left) == (delivered + 1) // 2 + len(topics) - delivered
    assert [one.end_lsn for one in left][-1] == len(topics)
    assert all(one.end_lsn < other.end_lsn for one, other in pairwise(left))
    first = 1
    for one in left:
        members = batches[first - 1 : one.end_lsn]
        expected: dict[str, int] = {}
        for member in members:
            expected.update(member.offsets)
        assert one.offsets == expected
        assert (one.messages, one.commit_ms) == (len(members), 1000 + first)
        first = one.end_lsn + 1
    # Of what was on the broker when the drain was asked, and of nothing else, an answer tells.
    known = sum(one.end_lsn <= asked for one in left)
    assert joined._on_broker <= known
    assert joined._on_broker >= known - 1


@pytest.mark.parametrize("waiting", [5_000, 20_000])
def test_a_table_that_holds_the_drain_does_not_make_the_relay_keep_every_transaction(
    waiting: int,
) -> None:
    held = stream([], 0)
    for number in range(1, waiting + 1):
        held._pending.append(batch(number, {"a"}, 0))
        if len(held._pending) > 5_000:
            held._join()
    assert len(held._pending) <= 5_000
    assert held._pending[-1].end_lsn == waiting
