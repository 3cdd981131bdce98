"""Steps in several threads: each item once, and none begins after an error."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest

from sluice.execution.side_by_side import until_one_fails


def test_each_item_is_taken_once_and_by_several_threads() -> None:
    meeting, taken = threading.Barrier(3, timeout=30), list[int]()

    def step(_: None, item: int) -> None:
        if item < 3:
            meeting.wait()
        taken.append(item)

    stop = threading.Event()
    until_one_fails(step, range(20), nullcontext, 3, stop)
    assert sorted(taken) == list(range(20))
    assert not stop.is_set()


def test_the_first_error_is_raised_and_no_other_step_begins() -> None:
    begun, stop = list[int](), threading.Event()
    meeting = threading.Barrier(2, timeout=30)

    def step(_: None, item: int) -> None:
        begun.append(item)
        meeting.wait()
        if item == 1:
            raise ValueError("one fails")
        assert stop.wait(30)

    with pytest.raises(ValueError, match="one fails"):
        until_one_fails(step, range(20), nullcontext, 2, stop)
    assert sorted(begun) == [0, 1]


def test_resources_that_cannot_be_opened_end_the_run() -> None:
    def opened() -> nullcontext[None]:
        raise ValueError("no session")

    with pytest.raises(ValueError, match="no session"):
        until_one_fails(lambda _, __: None, range(3), opened, 2, threading.Event())


def test_nothing_is_opened_for_no_items() -> None:
    def opened() -> nullcontext[None]:
        raise AssertionError("opened")

    until_one_fails(lambda _, __: None, list[int](), opened, 2, threading.Event())
