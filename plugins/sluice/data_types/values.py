"""Values between events and clickhouse-driver: what it stores unaltered, or ValueError.

clickhouse-driver 0.2.11 alters silently what does not fit its column (dates outside a range,
timestamps before 1970, extra digits), so every value is brought to its exact form here.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
# ClickHouse shows DateTime64 and Date32 outside of these whole years as another day.
_FIRST, _LAST = date(1900, 1, 1), date(2299, 12, 31)
FIRST_TICK, LAST_TICK = -2_208_988_800_000_000, 10_413_791_999_999_999
LAST_SECOND = 2**32 - 1
DATES, SECONDS = f"{_FIRST} to {_LAST}", "1970-01-01 00:00:00 to 2106-02-07 06:28:15"
# Values that have a name; it says nothing of a person.
SPECIAL = frozenset({"infinity", "-infinity", "Infinity", "-Infinity", "NaN"})
_EXACT = Context(prec=1000)  # more digits than any column has
_ELEMENT = re.compile(r'[{},]|"((?:[^"\\]|\\.)*)"|((?:[^{},"\\]|\\.)+)', re.DOTALL)


class Unfit(ValueError):
    """A value that its column does not take; the message says why, and never the value."""


def microsecond_ticks(value: datetime) -> int:
    """Microseconds since 1970 in UTC; a value without a zone is UTC.

    DateTime64 goes to the driver as ticks because the driver is off by a second for fractions
    before 1970 and reads values without a zone in the machine's own.
    """
    ticks = since_1970(value if value.tzinfo else value.replace(tzinfo=timezone.utc))
    if not FIRST_TICK <= ticks <= LAST_TICK:
        raise Unfit(f"this timestamp has no value in ClickHouse's DateTime64 ({DATES})")
    return ticks


def since_1970(value: datetime) -> int:
    """Microseconds since 1970 of a time with a zone."""
    return (value - _EPOCH) // _MICROSECOND


def whole_seconds(value: datetime) -> int:
    """Seconds since 1970 in UTC, fractions dropped; ValueError outside of ClickHouse's DateTime."""
    seconds = microsecond_ticks(value) // 1_000_000
    if not 0 <= seconds <= LAST_SECOND:
        raise Unfit(f"this timestamp has no value in ClickHouse's DateTime ({SECONDS})")
    return seconds


def date_in_range(value: date) -> date:
    """The date itself; ValueError outside of ClickHouse's Date32."""
    if not _FIRST <= value <= _LAST:
        raise Unfit(f"this date has no value in ClickHouse's Date32 ({DATES})")
    return value


def json_text(value: Any) -> str:
    """JSON as its text. The relay sends the text itself; native JSON is written as jsonb's is."""
    if isinstance(value, str):
        return value if _is_json(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(_in_order(value), ensure_ascii=False, allow_nan=False)


def _is_json(text: str) -> bool:
    """Whether a text is a JSON document; numbers are not made of its digits, however many."""
    try:
        _parsed(text)
    except RecursionError:  # deeper than Python follows: no plain text of an application is
        return True
    except ValueError:
        return False
    return True


def _no_constant(name: str) -> None:
    raise Unfit(f"{name} is no JSON")


_parsed = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant).decode


def _in_order(value: Any) -> Any:
    """The value with the keys of its objects in jsonb's order: by length, then by their bytes."""
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return {key: _in_order(value[key]) for key in keys}
    return value


def base64_bytes(value: str) -> bytes:
    """The bytes of base64 text."""
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise Unfit("this text is not base64, which an event has of bytea") from None


def hexadecimal_bytes(text: str) -> bytes:
    r"""Postgres' text of bytea, `\x00ff`."""
    if not text.startswith("\\x"):
        raise Unfit("bytea is not in hexadecimal")
    return bytes.fromhex(text[2:])


def array_of(
    element: Callable[[str], Any], dimensions: int, held: str = "column"
) -> Callable[[str], list[Any]]:
    """A reader of Postgres' array text, `{1,NULL,"a b"}`, with so many dimensions.

    Args:
        held: what an element's type in ClickHouse holds, for reasons.

    An array whose subscripts do not begin at 1, or of other dimensions, is a ValueError: its
    shape could not be kept. The error of an element does not hold it: reasons are not row data.
    """

    def read(text: str) -> list[Any]:
        values = _nested(text)
        if _depth(values) not in {dimensions, 0}:
            raise Unfit(
                f"an array of {_depth(values)} dimensions has no value in a column of {dimensions}"
            )
        return _converted(values, element, held)

    return read


def _nested(text: str) -> list[Any]:
    """Array text as nested lists of texts and None."""
    if text.startswith("["):
        raise Unfit("an array whose subscripts do not begin at 1 has no value in ClickHouse")
    if not text.startswith("{"):
        raise Unfit("this text is no array of PostgreSQL")
    stack: list[list[Any]] = [[]]
    at = 0
    while at < len(text):
        found = _ELEMENT.match(text, at)
        if found is None:
            raise Unfit("this text is no array of PostgreSQL")
        at = found.end()
        mark, quoted, bare = found.group(0), found.group(1), found.group(2)
        if mark == "{":
            stack.append([])
        elif mark == "}":
            closed = stack.pop()
            if not stack:
                raise Unfit("this text is no array of PostgreSQL")
            stack[-1].append(closed)
        elif quoted is not None:
            stack[-1].append(_unescaped(quoted))
        elif bare is not None:
            stack[-1].append(None if bare.upper() == "NULL" else _unescaped(bare))
    if len(stack) != 1 or len(stack[0]) != 1:
        raise Unfit("this text is no array of PostgreSQL")
    array: list[Any] = stack[0][0]
    return array


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _depth(values: list[Any]) -> int:
    if not values:
        return 0
    return 1 + _depth(values[0]) if isinstance(values[0], list) else 1


def _converted(values: list[Any], element: Callable[[str], Any], held: str) -> list[Any]:
    return [
        _converted(value, element, held)
        if isinstance(value, list)
        else None
        if value is None
        else _element(value, element, held)
        for value in values
    ]


def _element(text: str, element: Callable[[str], Any], held: str) -> Any:
    try:
        return element(text)
    except ValueError:  # its message may repeat the text
        name = text if text in SPECIAL else "an element"
        raise Unfit(f"{name} of the array has no value in ClickHouse's {held}") from None


def boolean(text: str) -> bool:
    """Postgres' `t` or `f`."""
    if text not in {"t", "f"}:
        raise Unfit("not a boolean")
    return text == "t"


def integer_between(least: int, most: int) -> Callable[[str], int]:
    """A reader of integers within these bounds, both included."""

    def read(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise Unfit(f"integer outside {least} to {most}")
        return number

    return read


def scaled(scale: int) -> Callable[[Decimal], int]:
    """A number of at most so many digits behind the point as an integer of its last digit.

    Decimals go to the driver as integers, because it takes a microsecond for each to make one.
    """
    return lambda number: int(number.scaleb(scale, _EXACT))


def scaled_of(precision: int, scale: int) -> Callable[[str], int]:
    """A reader of such numbers in Postgres' text; ValueError for others, and for NaN."""
    convert = scaled(scale)

    def read(text: str) -> int:
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise Unfit("not a number") from None
        if not number.is_finite():
            raise Unfit("not a finite number")
        exponent = number.normalize(_EXACT).as_tuple().exponent
        assert isinstance(exponent, int)
        if -exponent > scale or (number and number.adjusted() >= precision - scale):
            raise Unfit(f"number does not fit Decimal({precision}, {scale})")
        return convert(number)

    return read


def timestamp_ticks(text: str) -> int:
    """Postgres' text of a timestamp in an array as microseconds since 1970."""
    return microsecond_ticks(_timestamp(text))


def whole_seconds_of(text: str) -> int:
    """Postgres' text of a timestamp in an array as seconds since 1970."""
    return whole_seconds(_timestamp(text))


def _timestamp(text: str) -> datetime:
    moment, sign, zone = text.partition("+")
    seconds, point, fraction = moment.partition(".")
    padded = f"{seconds}.{fraction:0<6}" if point else seconds
    return datetime.fromisoformat(f"{padded}{sign}{zone}:00" if sign else padded)


def date_of(text: str) -> date:
    """Postgres' text of a date in an array."""
    return date_in_range(date.fromisoformat(text))
