"""Limits the page's share of Airflow's API server.

Airflow mounts the page in the process of its own API, and sync routes of both share a pool of 40
threads. So a few requests of the page run concurrently, some wait, others are refused. Answers that
cost queries are shared by all requests within a second.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from threading import Lock
from typing import Any, TypeVar

import anyio

T = TypeVar("T")
RUNNING = 4  # concurrent requests
WAITING = 16  # requests that wait for one of those
WAIT_S = 5.0
RETRY_AFTER_S = 5
KEPT_S = 1.0


class Busy(Exception):
    """The page has too many requests."""


class Gate:
    """Admits RUNNING concurrent requests, lets WAITING more wait for WAIT_S, refuses others."""

    def __init__(self) -> None:
        self._free, self._places = anyio.Semaphore(RUNNING), WAITING

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it within the context.

        Raises:
            Busy: too many requests wait, or no running request ended in time.
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
    """Caches answers by name for KEPT_S; one request at a time computes an answer."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, Lock] = {}
        self._kept: dict[Hashable, tuple[float, Any]] = {}

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return the answer of this name, recomputed if it is older than KEPT_S."""
        with self._locks.setdefault(name, Lock()):
            computed_at, answer = self._kept.get(name, (float("-inf"), None))
            if time.monotonic() - computed_at >= KEPT_S:
                answer = make()
                self._kept[name] = (time.monotonic(), answer)
            current: T = answer
            return current
