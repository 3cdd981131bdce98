"""Background calls, so that PostgreSQL gets feedback while another service is slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """A repeated call on a thread of its own, never concurrent with itself.

    Args:
        every: seconds from the begin of a call to that of the next.
        around: the thread's context, such as the clients that its calls share. Default: none.
    """

    def __init__(
        self,
        call: Callable[[], T],
        every: float,
        around: AbstractContextManager[None] | None = None,
    ) -> None:
        self._call, self._every = call, every
        self._future: Future[T] | None = None
        self._due = 0.0
        self._thread, self._context = ThreadPoolExecutor(max_workers=1), ExitStack()
        self._thread.submit(self._context.enter_context, around or nullcontext())

    def due(self) -> bool:
        """Whether no call is running and `every` seconds have passed since the last began."""
        return self._future is None and time.monotonic() >= self._due

    def begin(self) -> None:
        """Start the call; `answer` returns its result."""
        self._due = time.monotonic() + self._every
        self._future = self._thread.submit(self._call)

    def answer(self) -> T | None:
        """Return the call's result, once, or raise its error; None while it is running."""
        if self._future is None or not self._future.done():
            return None
        future, self._future = self._future, None
        return future.result()

    def close(self) -> None:
        """End the thread and its context, after the call that is running; does not wait for it."""
        self._thread.submit(self._context.close)
        self._thread.shutdown(wait=False)
