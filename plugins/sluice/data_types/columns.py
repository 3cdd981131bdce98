"""Conversion of whole columns of PostgreSQL's text form to stored values.

Faster than value by value, and as exact: another form raises Unfit, and then the event schema and
`values` decide about each value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from sluice.data_types import values
from sluice.data_types.values import Unfit

_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_TIMESTAMP = re.compile(rb"0000-00-00T00:00:00(\.0{1,6})?Z")
_timestamps = msgspec.json.Decoder(list[datetime]).decode


def _lines(texts: Sequence[str], shape: re.Pattern[bytes]) -> str:
    """Join the texts, a line each; Unfit unless each has the shape, in which 0 is any digit.

    A column has few distinct shapes, so the pattern is matched few times.
    """
    lines = "\n".join(texts)
    shapes = set(lines.encode().translate(_ZEROS).split(b"\n"))
    if lines.count("\n") >= len(texts) or not all(map(shape.fullmatch, shapes)):
        raise Unfit("not in PostgreSQL's text form")
    return lines


def ticks(texts: Sequence[str]) -> list[int]:
    """Convert RFC 3339 timestamps in UTC to microseconds since 1970."""
    quoted = _lines(texts, _TIMESTAMP).replace("\n", '","')
    moments = [values.since_1970(moment) for moment in _timestamps(f'["{quoted}"]')]
    if min(moments) < values.FIRST_TICK or max(moments) > values.LAST_TICK:
        raise Unfit("timestamps out of range")
    return moments


def seconds(texts: Sequence[str]) -> list[int]:
    """Convert the same to seconds since 1970, without fractions."""
    moments = [tick // 1_000_000 for tick in ticks(texts)]
    if min(moments) < 0 or max(moments) > values.LAST_SECOND:
        raise Unfit("timestamps out of range")
    return moments


def scaled(precision: int, scale: int) -> Callable[[Sequence[str]], list[int]]:
    """Return a converter of decimal numbers with exactly `scale` fractional digits to integers."""
    point = rf"\.0{{{scale}}}" if scale else ""
    shape = re.compile(rf"-?0{{1,{precision}}}{point}".encode())
    limit = 10**precision

    def read(texts: Sequence[str]) -> list[int]:
        numbers = list(map(int, _lines(texts, shape).replace(".", "").split("\n")))
        if min(numbers) <= -limit or max(numbers) >= limit:
            raise Unfit(f"numbers do not fit Decimal({precision}, {scale})")
        return numbers

    return read


def floats(precision: int, scale: int) -> Callable[[Sequence[str]], list[float]]:
    """Return a converter of the same numbers to the nearest floats."""
    exact = scaled(precision, scale)

    def read(texts: Sequence[str]) -> list[float]:
        exact(texts)
        return list(map(float, texts))

    return read
