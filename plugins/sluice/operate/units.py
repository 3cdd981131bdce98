"""Formats values with their units for people; a dash stands for an unknown one."""

from __future__ import annotations

UNKNOWN = "—"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(seconds: float | None) -> str:
    """Return a duration in its largest fitting unit."""
    if seconds is None:
        return UNKNOWN
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.2f} s"


def whole(value: int | None) -> str:
    """Return a count with thousands separators."""
    return UNKNOWN if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Return a measured value with few digits."""
    if value is None:
        return UNKNOWN
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def amount(value: float | None, unit: str) -> str:
    """Return a measured value; only bytes get a unit, scaled to few digits."""
    if value is None or unit != "bytes":
        return number(value)
    for name in ("B", "kB", "MB"):
        if value < 1000:
            return f"{number(value)} {name}"
        value /= 1000
    return f"{number(value)} GB"
