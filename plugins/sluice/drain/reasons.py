"""Why an event is rejected, in the words of PostgreSQL and ClickHouse.

A reason names the column and what its ClickHouse type holds. Of the value it repeats only what
says nothing of a person: `infinity`, `NaN`, NULL, the kind of value (see SECURITY.md).
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
    """Why the event schema does not take an event; one reason a place."""
    return "; ".join(dict.fromkeys(_reasons(error, columns)))


def _reasons(error: ValidationError, columns: Mapping[str, Column]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        kind, place = problem["type"], problem["loc"]
        if kind == "json_invalid":
            yield _not_json(problem["ctx"]["error"])
        elif len(place) < 2:
            yield f"{_where(place)} is {'missing' if kind == 'missing' else 'no JSON object'}"
        elif kind == "missing":
            yield f"{_where(place)} is missing"
        elif place[0] == "metadata":
            yield f"{_where(place)} is not what an event says of itself"
        elif place[1] not in columns:
            yield f"{_where(place)} is no column of the model"
        else:
            yield f"{_where(place)}: {refusal(columns[str(place[1])], problem['input'])}"


def refusal(column: Column, value: Any) -> str:
    """Why a column does not take a value."""
    if value is None:
        return "NULL in a column that is NOT NULL in the model"
    return f"{described(value)} has no value in ClickHouse's {column.type.held}"


def described(value: Any) -> str:
    """A value by its kind, or by name where that is no secret."""
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


def _not_json(said: str) -> str:
    if "hex escape" in said or "surrogate" in said or "unicode" in said:
        return f"the event holds text that is not UTF-8: {said}"
    return f"the event is not JSON: {said}"
