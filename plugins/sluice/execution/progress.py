"""Progress of long work, reported every few seconds as lines that also have the amounts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much of a work is done.

    Attributes:
        work: its name, which stays the same while it goes on, as in `orders: events`.
        total: None where it is not known.
        seconds_left: an estimate; None where it is not known.
    """

    work: str
    done: int
    total: int | None = None
    seconds_left: float | None = None


class Line(str):
    """A line for logs that says an amount, which terminals draw as a bar instead."""

    amount: Amount

    def __new__(cls, text: str, amount: Amount) -> Line:
        """Return the text with its amount."""
        line = super().__new__(cls, text)
        line.amount = amount
        return line


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
        whole = total or self._total or None
        left = (whole or 0) - done
        amount = Amount(
            work=self._what.replace("{} ", ""),
            done=done,
            total=whole,
            seconds_left=left / rate if left > 0 else None,
        )
        text = f"{self._what.format(f'{done:,}')}, {rate:,.0f} a second"
        text = f"{text}, {left:,} left: {duration(left / rate)}" if left > 0 else text
        self._log.info(Line(text, amount))


def report_every(seconds: float) -> None:
    """Report more or less often than every 5 seconds, for the whole process."""
    global SECONDS  # noqa: PLW0603 - as with the level of a logger
    SECONDS = seconds


def amount_of(record: logging.LogRecord) -> Amount | None:
    """Return the amount that a record says; None for other records."""
    values = record.args if isinstance(record.args, tuple) else ()
    return next((value.amount for value in (record.msg, *values) if isinstance(value, Line)), None)


def duration(seconds: float) -> str:
    """Return a duration in words: `about 40 s`, `about 12 min`, `about 3 h 20 min`."""
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"
