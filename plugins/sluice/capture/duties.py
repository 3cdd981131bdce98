"""Duties of the relay: calls repeated in the background.

Each has a thread and a clock of its own, so that neither traffic nor another, slow duty delays it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """A call that is repeated `every` seconds after the end of the last one."""

    name: str
    every: float
    call: Callable[[], None]


_END_S = 1.0  # for the threads to close their clients


class Duties:
    """The duties of a session; the first failure ends it.

    Args:
        around: the context of a duty's thread. Default: none.

    Attributes:
        done: duty's name -> number of successful calls.
    """

    def __init__(
        self,
        duties: Sequence[Duty],
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.done: Counter[str] = Counter()
        self._duties, self._around = duties, around
        self._ended = threading.Event()
        self._failed: list[Exception] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the duties until the context ends; a call that hangs then ends by itself."""
        threads = [
            threading.Thread(target=self._run, args=(duty,), name=f"relay {duty.name}", daemon=True)
            for duty in self._duties
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            deadline = time.monotonic() + _END_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def require_done(self) -> None:
        """Raise the error of the first duty that failed."""
        if self._failed:
            raise self._failed[0]

    def _run(self, duty: Duty) -> None:
        with self._around():
            self._repeat(duty)

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
