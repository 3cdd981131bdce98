"""Background calls, so that PostgreSQL gets feedback while another service is slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """A repeated call on a thread of the pool, never concurrent with itself."""

    def __init__(self, pool: ThreadPoolExecutor, call: Callable[[], T], every: float) -> None:
        self._pool, self._call, self._every = pool, call, every
        self._future: Future[T] | None = None
        self._due = 0.0

    def due(self) -> bool:
        """Whether no call is running and `every` seconds have passed since the last began."""
        return self._future is None and time.monotonic() >= self._due

    def begin(self) -> None:
        """Start the call; `answer` returns its result."""
        self._due = time.monotonic() + self._every
        self._future = self._pool.submit(self._call)

    def answer(self) -> T | None:
        """Return the call's result, once, or raise its error; None while it is running."""
        if self._future is None or not self._future.done():
            return None
        future, self._future = self._future, None
        return future.result()
