"""Background calls share one thread and its context, which end with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sluice.capture.background_call import BackgroundCall
from tests.support.waiting import until


class Entered:
    """A context that notes the threads which enter and leave it."""

    def __init__(self) -> None:
        self.by: list[int] = []

    @contextmanager
    def around(self) -> Iterator[None]:
        self.by.append(threading.get_ident())
        yield
        self.by.append(threading.get_ident())


def test_all_calls_run_on_one_thread_within_its_context() -> None:
    entered = Entered()
    call = BackgroundCall(threading.get_ident, 0.0, entered.around())
    threads: list[int | None] = []
    for _ in range(3):
        assert call.due()
        call.begin()
        threads.append(until(call.answer, "the call ends", seconds=10))
    assert {*threads} == {*entered.by}
    assert len(entered.by) == 1
    call.close()
    until(lambda: len(entered.by) == 2, "the context ends", seconds=10)
    assert {*entered.by} == {*threads}
    assert threading.get_ident() not in threads


def test_a_call_that_hangs_holds_up_nobody_and_ends_within_the_context() -> None:
    entered, going_on, calls = Entered(), threading.Event(), []

    def hang() -> int:
        going_on.wait(10)
        calls.append(len(entered.by))
        return 1

    call = BackgroundCall(hang, 0.0, entered.around())
    call.begin()
    assert not call.due()
    assert call.answer() is None
    call.close()
    assert not calls
    going_on.set()
    until(lambda: len(entered.by) == 2, "the context ends", seconds=10)
    assert calls == [1]
