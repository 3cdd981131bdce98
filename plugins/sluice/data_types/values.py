"""Conversion of event values to values that clickhouse-driver stores unaltered, or ValueError.

clickhouse-driver 0.2.11 silently alters values that do not fit their column (dates out of range,
timestamps before 1970, extra digits), so every value is converted exactly here.
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
# Outside of these whole years ClickHouse shows a DateTime64 or Date32 as another day.
_FIRST, _LAST = date(1900, 1, 1), date(2299, 12, 31)
FIRST_TICK, LAST_TICK = -2_208_988_800_000_000, 10_413_791_999_999_999
LAST_SECOND = 2**32 - 1
DATES, SECONDS = f"{_FIRST} to {_LAST}", "1970-01-01 00:00:00 to 2106-02-07 06:28:15"
# Special values, which errors may name: they disclose no personal data.
SPECIAL = frozenset({"infinity", "-infinity", "Infinity", "-Infinity", "NaN"})
_EXACT = Context(prec=1000)  # more digits than a column can have
_ELEMENT = re.compile(r'[{},]|"((?:[^"\\]|\\.)*)"|((?:[^{},"\\]|\\.)+)', re.DOTALL)


class Unfit(ValueError):
    """A value does not fit its column; the message gives the reason, never the value."""


def microsecond_ticks(value: datetime) -> int:
    """Convert a time to microseconds since 1970; a value without a zone is UTC.

    The driver takes ticks of a DateTime64 because its own conversion is off by a second for
    fractions before 1970 and assumes the machine's zone where a value has none.
    """
    ticks = since_1970(value if value.tzinfo else value.replace(tzinfo=timezone.utc))
    if not FIRST_TICK <= ticks <= LAST_TICK:
        raise Unfit(f"this timestamp has no value in ClickHouse's DateTime64 ({DATES})")
    return ticks


def since_1970(value: datetime) -> int:
    """Convert a time with a zone to microseconds since 1970."""
    return (value - _EPOCH) // _MICROSECOND


def whole_seconds(value: datetime) -> int:
    """Convert a time to whole seconds since 1970; ValueError outside of ClickHouse's DateTime."""
    seconds = microsecond_ticks(value) // 1_000_000
    if not 0 <= seconds <= LAST_SECOND:
        raise Unfit(f"this timestamp has no value in ClickHouse's DateTime ({SECONDS})")
    return seconds


def date_in_range(value: date) -> date:
    """Return the date; ValueError outside of ClickHouse's Date32."""
    if not _FIRST <= value <= _LAST:
        raise Unfit(f"this date has no value in ClickHouse's Date32 ({DATES})")
    return value


def json_text(value: Any) -> str:
    """Return JSON as text: the relay's text unchanged, native JSON in jsonb's form."""
    if isinstance(value, str):
        return value if _is_json(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(_in_order(value), ensure_ascii=False, allow_nan=False)


def _is_json(text: str) -> bool:
    """Whether a text is a JSON document; does not convert its numbers, however long."""
    try:
        _parsed(text)
    except RecursionError:  # too deep for Python's parser: no plain text is
        return True
    except ValueError:
        return False
    return True


def _no_constant(name: str) -> None:
    raise Unfit(f"{name} is no JSON")


_parsed = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant).decode


def _in_order(value: Any) -> Any:
    """Return the value with its objects' keys in jsonb's order: by length, then by bytes."""
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return {key: _in_order(value[key]) for key in keys}
    return value


def base64_bytes(value: str) -> bytes:
    """Decode base64 text."""
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise Unfit("this text is not base64, the form of bytea in an event") from None


def hexadecimal_bytes(text: str) -> bytes:
    r"""Decode PostgreSQL's text of bytea, `\x00ff`."""
    if not text.startswith("\\x"):
        raise Unfit("bytea is not in hexadecimal")
    return bytes.fromhex(text[2:])


def array_of(
    element: Callable[[str], Any], dimensions: int, held: str = "column"
) -> Callable[[str], list[Any]]:
    """Return a converter of PostgreSQL's array text, `{1,NULL,"a b"}`, of these dimensions.

    Args:
        held: an element's ClickHouse type with its limits, for error messages.

    An array of other dimensions, or whose subscripts do not begin at 1, is a ValueError: its shape
    would be lost. The error of an element does not contain it: reasons hold no row data.
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
    """Parse array text into nested lists of texts and None."""
    if text.startswith("["):
        raise Unfit("an array whose subscripts do not begin at 1 has no value in ClickHouse")
    if not text.startswith("{"):
        raise Unfit("this text is no array of PostgreSQL")
    stack: list[list[Any]] = [[]]
    at = 0
    while at < len(text):
        token = _ELEMENT.match(text, at)
        if token is None:
            raise Unfit("this text is no array of PostgreSQL")
        at = token.end()
        mark, quoted, bare = token.group(0), token.group(1), token.group(2)
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
    except ValueError:  # its message may contain the text
        name = text if text in SPECIAL else "an element"
        raise Unfit(f"{name} of the array has no value in ClickHouse's {held}") from None


def boolean(text: str) -> bool:
    """Convert PostgreSQL's `t` or `f`."""
    if text not in {"t", "f"}:
        raise Unfit("not a boolean")
    return text == "t"


def integer_between(least: int, most: int) -> Callable[[str], int]:
    """Return a converter of integers within these bounds, both included."""

    def read(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise Unfit(f"integer outside {least} to {most}")
        return number

    return read


def scaled(scale: int) -> Callable[[Decimal], int]:
    """Return a converter of numbers with at most `scale` fractional digits to scaled integers.

    The driver takes integers because its own conversion of a Decimal is slow.
    """
    return lambda number: int(number.scaleb(scale, _EXACT))


def scaled_of(precision: int, scale: int) -> Callable[[str], int]:
    """Return a converter of such numbers in PostgreSQL's text; ValueError for others and NaN."""
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
    """Convert PostgreSQL's text of a timestamp in an array to microseconds since 1970."""
    return microsecond_ticks(_timestamp(text))


def whole_seconds_of(text: str) -> int:
    """Convert PostgreSQL's text of a timestamp in an array to seconds since 1970."""
    return whole_seconds(_timestamp(text))


def _timestamp(text: str) -> datetime:
    moment, sign, zone = text.partition("+")
    seconds, point, fraction = moment.partition(".")
    padded = f"{seconds}.{fraction:0<6}" if point else seconds
    return datetime.fromisoformat(f"{padded}{sign}{zone}:00" if sign else padded)


def date_of(text: str) -> date:
    """Convert PostgreSQL's text of a date in an array."""
    return date_in_range(date.fromisoformat(text))
