"""Conversion of COPY's text of a column to the value that the drain stores for its event.

One rule keeps it correct: **what fits here, the drain accepts, with the same stored value.** So a
condition may be stricter than the drain and never more lenient, because ClickHouse alters values
that do not fit their type without an error. Rows that do not fit go through the topic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sluice.data_types.mapping import COMPACT, DeclaredType, column_type, mapped_over

_INTEGER = re.compile(r"(U?)Int(8|16|32|64)")
_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_TEXTS = frozenset(["String", "LowCardinality(String)"])
# Whole years of ClickHouse's Date32 and DateTime64, and whole seconds of its DateTime.
_DAYS = "{} BETWEEN '1900-01-01' AND '2299-12-31'"
_MOMENTS = "{} >= '1900-01-01' AND {} < '2300-01-01'"
_SECONDS = "{} >= '1970-01-01' AND {} < '2106-02-07 06:28:16'"
# Text of numbers that every parser of floats rounds alike: no infinity, NaN, over- or underflow.
_FLOATS = "({} = 0 OR abs({}) BETWEEN 1e-300 AND 1e300)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyForm:
    """The way of a column's values from COPY to the table.

    Attributes:
        sent: ClickHouse type, without NULL, that parses COPY's text.
        copied: SQL of a `{}` that COPY selects. Default: the column as it is.
        stored: SQL that converts a parsed `{}` to the stored value. Default: none.
        fits: condition of a `{}` that is not NULL. Default: empty, for every value.
    """

    sent: str
    copied: str = "{}"
    stored: str = "{}"
    fits: str = ""


_TEXT = CopyForm(sent="String")


def copy_form(declared: DeclaredType, *, nullable: bool = False) -> CopyForm | None:
    """Return the way of a column; None for types whose values go through the topic."""
    if declared.mask:  # the text of the mask, whatever the type
        return _TEXT
    if declared.clickhouse:
        return _overridden(declared)
    if declared.kind != "array":
        return _scalar(declared)
    return _TEXT if nullable else _array(declared)  # a nullable array is stored as its text


def _scalar(declared: DeclaredType) -> CopyForm:
    kind, compact = declared.kind, declared.profile == COMPACT
    plain = CopyForm(sent=column_type(declared).clickhouse)
    if kind == "timestamp" and compact:
        whole = "floor(extract(epoch FROM {}))::int8"
        return CopyForm(sent="UInt32", copied=whole, stored="toDateTime({}, 'UTC')", fits=_SECONDS)
    if kind == "timestamp":
        return replace(plain, copied="{}::timestamp", fits=_MOMENTS)
    if kind == "bytes":
        return replace(_TEXT, copied="encode({}, 'hex')", stored="unhex({})")
    return replace(plain, fits=_condition(kind, plain.sent, compact=compact))


def _condition(kind: str, sent: str, *, compact: bool) -> str:
    if kind in _BITS:
        return "{} >= 0" if compact else ""
    if kind == "numeric" and sent != "String":
        return _FLOATS if compact else "{} <> 'NaN'"
    return _DAYS if kind == "date" else ""


def _overridden(declared: DeclaredType) -> CopyForm | None:
    """Return the way to a type that a model's mark chose, where nothing can be altered on it."""
    form, chosen = _scalar(replace(declared, clickhouse="")), declared.clickhouse
    integer = _INTEGER.fullmatch(chosen)
    if integer and declared.kind in _BITS:
        bits, own = int(integer[2]), _BITS[declared.kind] - 1
        least = max(0 if integer[1] or form.fits else -(1 << bits - 1), -(1 << own))
        most = min((1 << (bits if integer[1] else bits - 1)) - 1, (1 << own) - 1)
        return CopyForm(sent=chosen, fits=f"{{}} BETWEEN {least} AND {most}")
    return _TEXT if form == _TEXT and chosen in _TEXTS else None


def _array(declared: DeclaredType) -> CopyForm | None:
    assert declared.element is not None
    element, dimensions = declared.element, declared.dimensions
    form = _scalar(element)
    if element.kind == "bytes" or form.sent == "UInt32":
        return None
    # A cast to text[] differs from the output of inet and character(n), which JSON has as it is;
    # numbers, JSON and moments, which JSON writes in another way, have no such difference.
    as_text = "" if form == _TEXT and element.kind not in {"json", "numeric"} else "::text[]"
    moments = "::timestamp[]" if element.kind == "timestamp" else ""
    nested = "Nullable(String)"
    for _ in range(dimensions):
        nested = f"Array({nested})"
    stored = f"JSONExtract({{}}, '{nested}')"
    if form.sent != "String":
        kind = form.sent.replace("'", "\\'")
        stored = mapped_over(f"CAST({{}}, 'Nullable({kind})')", dimensions).replace("{}", stored)
    return CopyForm(
        sent="String",
        copied=f"array_to_json({{}}{moments}{as_text})",
        stored=stored,
        fits=_shape(dimensions) + (_each(form.fits) if form.fits else ""),
    )


def _shape(dimensions: int) -> str:
    lower = "".join(f" AND array_lower({{}}, {at}) = 1" for at in range(1, dimensions + 1))
    return f"(cardinality({{}}) = 0 OR (array_ndims({{}}) = {dimensions}{lower}))"


def _each(fits: str) -> str:
    condition = fits.replace("{}", "e")
    return f" AND NOT EXISTS (SELECT FROM unnest({{}}) AS u (e) WHERE ({condition}) IS FALSE)"
