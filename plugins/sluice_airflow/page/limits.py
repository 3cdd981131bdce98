"""What the page may take of Airflow's API server.

Airflow mounts the page in the process that serves its own API, and sync routes of both run on one
pool of 40 threads. So a few requests of the page run at once, some wait, others are refused; and an
answer that costs queries is made once for all who ask within a second.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from threading import Lock
from typing import Any, TypeVar

import anyio

T = TypeVar("T")
RUNNING = 4  # requests at once
WAITING = 16  # requests that wait for those
WAIT_S = 5.0
RETRY_AFTER_S = 5
KEPT_S = 1.0


class Busy(Exception):
    """More requests are under way than the page takes."""


class Gate:
    """Lets RUNNING requests through at once, lets WAITING wait for WAIT_S, and refuses others."""

    def __init__(self) -> None:
        self._free, self._places = anyio.Semaphore(RUNNING), WAITING

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it within the context.

        Raises:
            Busy: as many wait as may, or none of those that run ended in time.
        """
        if self._places == 0:
            raise Busy
        self._places -= 1
        try:
            with anyio.fail_after(WAIT_S):
                await self._free.acquire()
        except TimeoutError as late:
            raise Busy from late
        finally:
            self._places += 1
        try:
            yield
        finally:
            self._free.release()


class Shared:
    """Answers by name; each is made by one request at a time and kept for KEPT_S."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, Lock] = {}
        self._kept: dict[Hashable, tuple[float, Any]] = {}

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return the answer of this name, made again where it is older than KEPT_S."""
        with self._locks.setdefault(name, Lock()):
            made_at, answer = self._kept.get(name, (float("-inf"), None))
            if time.monotonic() - made_at >= KEPT_S:
                answer = make()
                self._kept[name] = (time.monotonic(), answer)
            found: T = answer
            return found
