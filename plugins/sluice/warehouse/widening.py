"""Which ClickHouse types hold every value of another."""

from __future__ import annotations

import re

_WRAPPED = re.compile(r"(LowCardinality|Nullable)\((.*)\)", re.DOTALL)
_INTEGER = re.compile(r"(U?Int)(\d+)")
_DECIMAL = re.compile(r"Decimal\((\d+), (\d+)\)")
_ENUM = re.compile(r"Enum(?:8|16)\((.*)\)", re.DOTALL)


def widens(present: str, wanted: str) -> bool:
    """Whether the wanted ClickHouse type holds every value of the present one."""
    if present == wanted:
        return True
    old, nullable = _bare(present)
    new, accepts_null = _bare(wanted)
    return (accepts_null or not nullable) and (old == new or _holds(new, old))


def _holds(new: str, old: str) -> bool:
    if (a := _INTEGER.fullmatch(old)) and (b := _INTEGER.fullmatch(new)):
        grows = int(a[2]) < int(b[2])
        return grows and (a[1] == b[1] or a[1] == "UInt")
    if (a := _DECIMAL.fullmatch(old)) and (b := _DECIMAL.fullmatch(new)):
        whole = int(a[1]) - int(a[2]) <= int(b[1]) - int(b[2])
        return whole and int(a[2]) <= int(b[2])
    if (a := _ENUM.fullmatch(old)) and (b := _ENUM.fullmatch(new)):
        return b[1].startswith(f"{a[1]}, ")
    return (old, new) == ("Float32", "Float64")


def _bare(kind: str) -> tuple[str, bool]:
    """Return the type without LowCardinality and Nullable, and whether it is nullable."""
    nullable = False
    while match := _WRAPPED.fullmatch(kind):
        nullable, kind = nullable or match[1] == "Nullable", match[2]
    return kind, nullable
