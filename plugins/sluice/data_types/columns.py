"""Whole columns of texts in the form that Postgres writes, as what is stored.

Several times as fast as value by value, and no less exact: what is not in that form is Unfit,
and the event schema and `values` say what becomes of it.
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
    """The texts, a line each; Unfit unless each has the shape, in which 0 is any digit.

    A column has few shapes, however many values: the pattern is asked for few of them.
    """
    lines = "\n".join(texts)
    shapes = set(lines.encode().translate(_ZEROS).split(b"\n"))
    if lines.count("\n") >= len(texts) or not all(map(shape.fullmatch, shapes)):
        raise Unfit("not in the form that Postgres writes")
    return lines


def ticks(texts: Sequence[str]) -> list[int]:
    """RFC 3339 in UTC to the microsecond, as microseconds since 1970."""
    quoted = _lines(texts, _TIMESTAMP).replace("\n", '","')
    found = [values.since_1970(moment) for moment in _timestamps(f'["{quoted}"]')]
    if min(found) < values.FIRST_TICK or max(found) > values.LAST_TICK:
        raise Unfit("timestamps out of range")
    return found


def seconds(texts: Sequence[str]) -> list[int]:
    """The same as seconds since 1970, fractions dropped."""
    found = [tick // 1_000_000 for tick in ticks(texts)]
    if min(found) < 0 or max(found) > values.LAST_SECOND:
        raise Unfit("timestamps out of range")
    return found


def scaled(precision: int, scale: int) -> Callable[[Sequence[str]], list[int]]:
    """A reader of decimal numbers with all `scale` digits behind the point, as integers."""
    point = rf"\.0{{{scale}}}" if scale else ""
    shape = re.compile(rf"-?0{{1,{precision}}}{point}".encode())
    limit = 10**precision

    def read(texts: Sequence[str]) -> list[int]:
        found = list(map(int, _lines(texts, shape).replace(".", "").split("\n")))
        if min(found) <= -limit or max(found) >= limit:
            raise Unfit(f"numbers do not fit Decimal({precision}, {scale})")
        return found

    return read


def floats(precision: int, scale: int) -> Callable[[Sequence[str]], list[float]]:
    """The same numbers as the floats nearest to them."""
    exact = scaled(precision, scale)

    def read(texts: Sequence[str]) -> list[float]:
        exact(texts)
        return list(map(float, texts))

    return read
