"""Duties of the relay: calls that repeat beside its work.

Each has a thread and a clock of its own, so neither traffic nor another duty that takes long can
hold one back.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """A call that is made every so many seconds, counted from the end of the last one."""

    name: str
    every: float
    call: Callable[[], None]


class Duties:
    """Duties while a session lasts; the first that fails ends it.

    Attributes:
        done: by a duty's name, how often it was done.
    """

    def __init__(self, duties: Sequence[Duty]) -> None:
        self.done: Counter[str] = Counter()
        self._duties = duties
        self._ended = threading.Event()
        self._failed: list[Exception] = []

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Do them until the context ends; a call that is under way then ends by itself."""
        for duty in self._duties:
            threading.Thread(
                target=self._repeat, args=(duty,), name=f"relay {duty.name}", daemon=True
            ).start()
        try:
            yield
        finally:
            self._ended.set()

    def require_done(self) -> None:
        """Raise what the first duty to fail failed with."""
        if self._failed:
            raise self._failed[0]

    def _repeat(self, duty: Duty) -> None:
        while not self._ended.is_set() and not self._failed:
            try:
                duty.call()
            except Exception as error:  # noqa: BLE001 - raised where it is asked for
                self._failed.append(error)
            else:
                self.done[duty.name] += 1
            self._ended.wait(duty.every)


class Clock:
    """Tells when the work of a period is due; nothing but that work sets it back."""

    def __init__(self, every: float, now: Callable[[], float]) -> None:
        self._every, self._now = every, now
        self._at = now() + every

    def due(self) -> bool:
        """Whether the period is over; the next one begins where it is."""
        now = self._now()
        if now < self._at:
            return False
        self._at = now + self._every
        return True
