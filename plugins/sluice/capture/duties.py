"""Duties of the relay: calls repeated in the background.

Each has a thread and a clock of its own, so that neither traffic nor another, slow duty delays it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """A call that is repeated `every` seconds after the end of the last one."""

    name: str
    every: float
    call: Callable[[], None]


class Duties:
    """The duties of a session; the first failure ends it.

    Attributes:
        done: duty's name -> number of successful calls.
    """

    def __init__(self, duties: Sequence[Duty]) -> None:
        self.done: Counter[str] = Counter()
        self._duties = duties
        self._ended = threading.Event()
        self._failed: list[Exception] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the duties until the context ends; a running call then ends by itself."""
        for duty in self._duties:
            threading.Thread(
                target=self._repeat, args=(duty,), name=f"relay {duty.name}", daemon=True
            ).start()
        try:
            yield
        finally:
            self._ended.set()

    def require_done(self) -> None:
        """Raise the error of the first duty that failed."""
        if self._failed:
            raise self._failed[0]

    def _repeat(self, duty: Duty) -> None:
        while not self._ended.is_set() and not self._failed:
            try:
                duty.call()
            except Exception as error:  # noqa: BLE001 - raised by require_done
                self._failed.append(error)
            else:
                self.done[duty.name] += 1
            self._ended.wait(duty.every)


class Clock:
    """Reports when periodic work is due."""

    def __init__(self, every: float, now: Callable[[], float]) -> None:
        self._every, self._now = every, now
        self._at = now() + every

    def due(self) -> bool:
        """Whether the period is over; if so, the next one begins."""
        now = self._now()
        if now < self._at:
            return False
        self._at = now + self._every
        return True
