"""Values on their way to the driver: exact, or refused."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.data_types import values


def literal(items: list[Any]) -> str:
    """As Postgres writes an array, with every element quoted."""
    parts = []
    for item in items:
        if isinstance(item, list):
            parts.append(literal(item))
        elif item is None:
            parts.append("NULL")
        else:
            escaped = item.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{escaped}"')
    return "{" + ",".join(parts) + "}"


@given(st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=6))
def test_an_array_is_read_as_it_was_written(items: list[str | None]) -> None:
    assert values.array_of(str, 1)(literal(items)) == items


@given(st.lists(st.lists(st.text(max_size=4), min_size=2, max_size=2), max_size=4))
def test_a_nested_array_is_read_as_it_was_written(items: list[list[str]]) -> None:
    assert values.array_of(str, 2)(literal(items)) == items


@given(st.text(max_size=12))
def test_no_text_makes_the_array_reader_fail_otherwise_than_by_value_error(text: str) -> None:
    for candidate in (text, "{" + text, "{" + text + "}"):
        try:
            values.array_of(int, 1)(candidate)
        except ValueError:
            continue


@pytest.mark.parametrize("text", ["[0:1]={1,2}", "{{1},{2}}", "{1,2", "1", "{x}", "{1}}"])
def test_an_array_that_would_lose_its_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.array_of(int, 1)(text)


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_a_number_in_an_array_is_exact_or_refused(number: Decimal) -> None:
    try:
        read = values.scaled_of(10, 2)(str(number))
    except ValueError:
        assert (
            not number.is_finite()
            or abs(number) >= 10**8
            or number != number.quantize(Decimal("0.01"))
        )
    else:
        assert read == number * 100


@given(st.datetimes(datetime(1900, 1, 1), datetime(2299, 12, 31), timezones=st.just(timezone.utc)))
def test_a_timestamp_in_an_array_is_the_same_moment(moment: datetime) -> None:
    text = f"{moment:%Y-%m-%d %H:%M:%S}"
    if moment.microsecond:
        text += f".{moment.microsecond:06}".rstrip("0")
    text = text.zfill(19) + "+00"
    assert values.timestamp_ticks(text) == values.microsecond_ticks(moment)


@pytest.mark.parametrize("text", ['{"a": 1.10}', "1e400", '"x"', '{"a": 1, "a": 2}', "null"])
def test_json_text_keeps_its_bytes(text: str) -> None:
    assert values.json_text(text) == text


# JSON that PostgreSQL takes and Python's parser may not.
HOSTILE = st.recursive(
    st.one_of(
        st.sampled_from(["null", "true", "-0", "1e400", "1E-5000", '""', r'"\ud800"', r'"\u0000"']),
        st.integers(1, 20_000).map(lambda size: "9" * size),
        st.integers(1, 20_000).map(lambda size: f"-0.{'1' * size}e+{'9' * (size // 10 + 1)}"),
        st.text(max_size=9).map(json.dumps),
        st.integers(1, 20_000).map(lambda depth: "[" * depth + "]" * depth),
        st.integers(1, 5_000).map(lambda depth: '{"a": ' * depth + "0" + "}" * depth),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ " + " ,\n".join(items) + "\t]"),
        st.lists(inner, max_size=3).map(
            lambda items: "{" + ",".join(f'"a" :{item}' for item in items) + "}"
        ),
    ),
    max_leaves=4,
)


@given(HOSTILE)
def test_any_json_of_postgres_keeps_its_bytes(text: str) -> None:
    assert values.json_text(text) == text


@pytest.mark.parametrize("text", ["", "plain", "NaN", "01", "[1", "{a: 1}", "'x'", '"a" "b"'])
def test_text_that_is_no_json_becomes_a_json_string(text: str) -> None:
    assert json.loads(values.json_text(text)) == text


@pytest.mark.parametrize("value", [{"a": [1, None, "é"]}, [1.5], 3, True, "plain"])
def test_native_json_is_written_out(value: Any) -> None:
    assert json.loads(values.json_text(value)) == value


def test_native_json_is_written_as_postgres_writes_jsonb() -> None:
    value = {"long": [{"b": None, "a": 1}], "é": True, "zz": "\n", "aa": {}}
    written = '{"aa": {}, "zz": "\\n", "é": true, "long": [{"a": 1, "b": null}]}'
    assert values.json_text(value) == written


@pytest.mark.parametrize(
    "text", ['{"a": [1, 1.5, null, true, "é"], "bb": {"c": "\\"x\\""}}', "[]", "7", '["a", {}]']
)
def test_ordinary_jsonb_is_one_text_from_either_source(text: str) -> None:
    """The relay sends PostgreSQL's text, Redpanda Connect the value itself."""
    assert values.json_text(json.loads(text)) == values.json_text(text) == text


@given(st.integers(1, 64), st.integers(), st.booleans())
def test_an_integer_in_an_array_is_within_its_columns_bounds_or_refused(
    bits: int, number: int, signed: bool
) -> None:
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    try:
        assert values.integer_between(least, most)(str(number)) == number
    except ValueError:
        assert not least <= number <= most
