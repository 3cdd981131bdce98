"""Reasons for rejected events, in the terms of PostgreSQL and ClickHouse.

A reason names the column and the values its ClickHouse type holds. It repeats a value only where
that reveals no personal data: `infinity`, `NaN`, NULL, the kind of value (see SECURITY.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from sluice.catalog import Column
from sluice.data_types.values import SPECIAL

_FAR = re.compile(r"\d{5,}-\d\d-\d\d")
_BEFORE_CHRIST = re.compile(r"\d{4,}-\d\d-\d\d.* BC")
_KINDS = ((bool, "this boolean"), (int, "this number"), (float, "this number"))
_MORE_KINDS = ((str, "this text"), (list, "an array of JSON"), (dict, "an object"))


def explain(error: ValidationError, columns: Mapping[str, Column]) -> str:
    """Return why the event schema rejects an event, one reason for each field."""
    return "; ".join(dict.fromkeys(_reasons(error, columns)))


def _reasons(error: ValidationError, columns: Mapping[str, Column]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        kind, place = problem["type"], problem["loc"]
        if kind == "json_invalid":
            yield _not_json(problem["ctx"]["error"])
        elif len(place) < 2:
            yield f"{_where(place)} is {'missing' if kind == 'missing' else 'not a JSON object'}"
        elif kind == "missing":
            yield f"{_where(place)} is missing"
        elif place[0] == "metadata":
            yield f"{_where(place)} does not match the event format"
        elif place[1] not in columns:
            yield f"{_where(place)} is not a column of the model"
        else:
            yield f"{_where(place)}: {refusal(columns[str(place[1])], problem['input'])}"


def refusal(column: Column, value: Any) -> str:
    """Return why a column cannot hold a value."""
    if value is None:
        return "NULL in a column that is NOT NULL in the model"
    return f"{described(value)} has no value in ClickHouse's {column.type.held}"


def described(value: Any) -> str:
    """Return the kind of a value, or the value itself where it is special and no secret."""
    if isinstance(value, str):
        if value in SPECIAL:
            return value
        if _BEFORE_CHRIST.fullmatch(value):
            return "a date BC"
        if _FAR.match(value):
            return "a year beyond 9999"
    return next((name for kind, name in (*_KINDS, *_MORE_KINDS) if isinstance(value, kind)), "this")


def _where(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place[:2])) or "the event"


def _not_json(message: str) -> str:
    if "hex escape" in message or "surrogate" in message or "unicode" in message:
        return f"the event holds text that is not UTF-8: {message}"
    return f"the event is not JSON: {message}"
