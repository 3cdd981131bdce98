"""What goes on beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(step: Callable[[], object], pause: float = 0.0) -> Iterator[None]:
    """Call it again and again in a thread, each time after a pause in seconds, as long as this."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(pause):
            step()

    busy = threading.Thread(target=work)
    busy.start()
    try:
        yield
    finally:
        stop.set()
        busy.join()
