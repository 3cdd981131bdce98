"""Progress of long work, logged every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

SECONDS = 5.0


class Pace:
    """Logs how much is done, the rate and the time left; short work logs nothing.

    Args:
        what: the work and its unit, as in `orders: {} events`.
        total: returns the amount of work; called once, before the first line. Default: None.
    """

    def __init__(
        self, log: logging.Logger, what: str, total: Callable[[], int] | None = None
    ) -> None:
        self._log, self._what, self._count = log, what, total
        self._total: int | None = None
        self._began = self._logged = time.monotonic()

    def at(self, done: int, total: int | None = None) -> None:
        """Take in the work done so far, and the total where it is known by now."""
        now = time.monotonic()
        if now - self._logged < SECONDS or not done:
            return
        if self._count is not None and self._total is None:
            self._total = self._count()
        self._logged, rate = now, done / (now - self._began)
        text = f"{self._what.format(f'{done:,}')}, {rate:,.0f} a second"
        left = (total or self._total or 0) - done
        self._log.info(f"{text}, {left:,} left: {duration(left / rate)}" if left > 0 else text)


def duration(seconds: float) -> str:
    """Return a duration in words: `about 40 s`, `about 12 min`, `about 3 h 20 min`."""
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"
