"""Waiting for a condition, never for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
Errors = type[Exception] | tuple[type[Exception], ...]


def until(
    condition: Callable[[], Value],
    reason: str,
    seconds: float = 90,
    *,
    retry: Errors = (),
    pause: float = 0.1,
) -> Value:
    """Call the condition until its value is true, and return that value.

    Args:
        reason: what is awaited, as a sentence: "the slot is free"; the AssertionError has it.
        seconds: how long to wait.
        retry: errors of the condition that mean not yet.
        pause: seconds between two calls.
    """
    deadline = time.monotonic() + seconds
    while True:
        error: Exception | None = None
        try:
            if value := condition():
                return value
            last = "" if value is False else f"; last: {value!r}"
        except retry as caught:
            error, last = caught, f"; last: {type(caught).__name__}: {caught}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {reason}{last}") from error
        time.sleep(pause)
