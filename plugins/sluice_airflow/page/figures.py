"""Formats figures for people: 1,234 or 0.18, 1.50 MB, 3 min ago; a dash for unknown values."""

from __future__ import annotations

from datetime import datetime, timezone

from sluice.events.positions import format_lsn
from sluice.operate.overview import CheckResult
from sluice.operate.row_comparison import alike
from sluice.operate.units import UNKNOWN, amount, duration, number, whole

__all__ = [
    "UNKNOWN",
    "ago",
    "amount",
    "apart",
    "check_value",
    "counted",
    "duration",
    "minute",
    "number",
    "whole",
]


def minute(at: int) -> str:
    """Return seconds since 1970 as a minute in UTC, as an input of HTML has it."""
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%dT%H:%M}"


def ago(at: datetime) -> str:
    """Return how long ago a time was."""
    return f"{duration(max(0.0, (datetime.now(timezone.utc) - at).total_seconds()))} ago"


def counted(count: int, one: str, many: str) -> str:
    """Return a count with its noun: `1 row`, `2 rows`."""
    return f"{whole(count)} {one if count == 1 else many}"


def check_value(result: CheckResult, side: str) -> str:
    """Return one side's value of a check in its unit: rows, a duration, bytes or an LSN."""
    value: int = getattr(result, side)
    if result.check == "caught_up":
        return format_lsn(value)
    if result.check == "freshness":
        return duration(value)
    return amount(value, "bytes") if result.check == "slot_lag" else whole(value)


def apart(value: str, other: str | None) -> tuple[str, str, str]:
    """Divide a text into the start and end that another has too, and what differs between them."""
    if other is None:
        return "", value, ""
    start = alike(value, other)
    end = min(alike(value[::-1], other[::-1]), len(value) - start, len(other) - start)
    return value[:start], value[start : len(value) - end], value[len(value) - end :]
