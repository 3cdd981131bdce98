"""Steps that run side by side in several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Event, Lock
from typing import Generic, TypeVar

from sluice.errors import SluiceError
from sluice.execution.outcomes import Named, Outcomes, together

N = TypeVar("N", bound=Named)
Item = TypeVar("Item")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Results(Generic[T]):
    """The results of steps.

    Attributes:
        results: in the order in which the steps ended.
        troubles: errors by table or fact.
    """

    results: Sequence[T]
    troubles: Mapping[str, SluiceError]

    def require(self) -> None:
        """Raise the errors as one."""
        if self.troubles:
            raise together(self.troubles)


def side_by_side(
    step: Callable[[R, N], T],
    items: Sequence[N],
    opened: Callable[[], AbstractContextManager[R]],
    threads: int,
) -> Results[T]:
    """Run a step for each table or fact; an error of one does not stop the others.

    Args:
        items: the next one goes to the thread that is free first.
        opened: opens what a thread needs for itself, such as a session.
        threads: the most steps at a time.

    Raises:
        SluiceError: an error that ends the step for all; see Outcomes.of.
    """
    outcomes, results, turn = Outcomes(), list[T](), Lock()

    def kept(resources: R, item: N) -> None:
        try:
            results.append(step(resources, item))
        except SluiceError as error:
            with turn, outcomes.of(item.name):
                raise error

    until_one_fails(kept, items, opened, threads, Event())
    return Results(results=results, troubles=outcomes.troubles)


def until_one_fails(
    step: Callable[[R, Item], object],
    items: Sequence[Item],
    opened: Callable[[], AbstractContextManager[R]],
    threads: int,
    stop: Event,
) -> None:
    """Run a step for each item; after an error, or an interruption of the caller, no other begins.

    Args:
        items, opened, threads: see side_by_side.
        stop: set by an error or an interruption. A running step may look at it and return early.
    """
    waiting = deque(items)

    def work() -> None:
        try:
            with opened() as resources:
                while waiting and not stop.is_set():
                    take(resources)
        except BaseException:
            stop.set()
            raise

    def take(resources: R) -> None:
        try:
            item = waiting.popleft()
        except IndexError:  # another thread took the last one
            return
        step(resources, item)

    with ThreadPoolExecutor(max(1, min(threads, len(items)))) as pool:
        try:
            for thread in [pool.submit(work) for _ in range(min(threads, len(items)))]:
                thread.result()
        except BaseException:
            stop.set()
            raise
