"""Declared column types mapped to ClickHouse, to events and to the API.

Two profiles. `lossless`: every value of a PostgreSQL column arrives unaltered or is rejected.
`compact`: fewer and smaller types, where the exact value is not needed. A type that is not in the
table is an error of `sluice generate`, never a silent String.

| SQLAlchemy, PostgreSQL           | lossless             | compact        |
|----------------------------------|----------------------|----------------|
| SmallInteger, Integer, BigInteger | Int16, Int32, Int64 | UInt64         |
| Numeric(p, s)                    | Decimal(p, s)        | Float64        |
| Numeric                          | String, exact text   | Float64        |
| Float, REAL                      | Float64, Float32     | Float64        |
| Boolean                          | Bool                 | Bool           |
| String, Text, CITEXT             | String               | String         |
| Enum                             | LowCardinality(String) | the same     |
| DateTime                         | DateTime64(6, 'UTC') | DateTime('UTC') |
| Date                             | Date32               | Date32         |
| Uuid                             | UUID                 | UUID           |
| LargeBinary                      | String, the bytes    | String         |
| JSON, JSONB                      | String, their text   | String         |
| ARRAY                            | Array; of a nullable column String, its text | the same |
| Time, Interval, INET, CIDR, MACADDR, BIT, HSTORE, TSVECTOR, ranges | String, their text | String |
| any, of a masked column          | String               | String         |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Annotated, Any
from uuid import UUID

import msgspec

from sluice.data_types import columns, values
from sluice.data_types.annotations import Annotation, plain

LOSSLESS, COMPACT = "lossless", "compact"
PROFILES = (LOSSLESS, COMPACT)
_DECIMALS = ((32, 9), (64, 18), (128, 38), (256, 76))  # bits and digits of ClickHouse's Decimals
_MOST_DIGITS = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredType:
    """A column's type as the models declare it: all that its ColumnType is derived from.

    Attributes:
        kind: a key of `_FIXED`, or `numeric`, `text`, `enum` or `array`.
        profile: `lossless` or `compact`.
        precision, scale: digits of a numeric. Default: None and 0, for any number of them.
        length: most characters of a text. Default: None, for no limit.
        api: annotation of an enum's values.
        element, dimensions: element type and dimensions of an array.
        clickhouse: ClickHouse type by the column's mark. Default: empty, for the mapped one.
        mask: how its values are masked, `hash` or `redact`. Default: empty, for not at all.
    """

    kind: str
    profile: str = LOSSLESS
    precision: int | None = None
    scale: int = 0
    length: int | None = None
    api: Annotation | None = None
    element: DeclaredType | None = None
    dimensions: int = 1
    clickhouse: str = ""
    mask: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnType:
    """A column type at each stage of the pipeline.

    Attributes:
        clickhouse: ClickHouse type without NULL.
        event: annotation that validates a change event's value.
        api: annotation that validates the store API's value.
        zero: driver value in the columns of a delete marker.
        plain: msgspec type of a value in PostgreSQL's form; accepts no more than `event`.
        whole: converts a column of such values, without NULL, like `to_driver` each of them, or
            raises ValueError. Default: None, for `to_driver` alone.
        to_driver: converts a validated value to a value that clickhouse-driver stores unaltered,
            or raises ValueError. Default: None, for no conversion.
        wire: ClickHouse type that the driver sends, of the same bits. Default: the column's own.
        to_storage, from_storage: SQL that converts a `{}` of `to_driver` to the stored value, and
            back.
        from_text: converts PostgreSQL's text of a value like `to_driver`, for arrays.
        dictionary: whether few distinct values are expected.
        nullable: whether ClickHouse allows NULL in it; an Array cannot be NULL.
        postgres_text, clickhouse_text: SQL that gives a `{}` the same text on both sides, for
            comparisons; never NULL.
        clickhouse_literal: SQL that writes a stored `{}` as PostgreSQL and `from_text` read it.
        clickhouse_json: SQL that writes a stored `{}` as in an event.
        limits: least and greatest value, in words. Default: none.
    """

    clickhouse: str
    event: Annotation
    api: Annotation
    zero: Any
    plain: Any = str
    whole: Callable[[Sequence[Any]], list[Any]] | None = None
    to_driver: Callable[[Any], Any] | None = None
    wire: str = ""
    to_storage: str = "{}"
    from_storage: str = "{}"
    from_text: Callable[[str], Any] = str
    dictionary: bool = False
    nullable: bool = True
    postgres_text: str = "{}::text"
    clickhouse_text: str = "toString({})"
    clickhouse_literal: str = "toString({})"
    clickhouse_json: str = "toJSONString(toString({}))"
    limits: str = ""

    @property
    def held(self) -> str:
        """Return the ClickHouse type with its limits, in words."""
        return (
            f"{self.clickhouse.partition('(')[0]} ({self.limits})"
            if self.limits
            else self.clickhouse
        )


def _type(kind: type, clickhouse: str, zero: Any, **more: Any) -> ColumnType:
    annotation = plain(kind)
    known = {"event": annotation, "api": annotation, "plain": kind, **more}
    return ColumnType(clickhouse=clickhouse, zero=zero, **known)


def _reinterpreted(mapped: ColumnType, wire: str) -> ColumnType:
    """Return the type sent as integers, which the driver writes without conversion."""
    return replace(
        mapped,
        wire=wire,
        to_storage=f"reinterpret({{}}, {_quoted(mapped.clickhouse)})",
        from_storage=f"reinterpret({{}}, '{wire}')",
    )


def _quoted(clickhouse: str) -> str:
    return "'{}'".format(clickhouse.replace("'", "\\'"))


def _overridden(mapped: ColumnType, clickhouse: str, *, nullable: bool) -> ColumnType:
    """Return the type stored as another; its values are read back through the mapped one."""
    stored = f"Nullable({mapped.clickhouse})" if nullable else mapped.clickhouse
    through = f"CAST({{}}, {_quoted(stored)})" if mapped.wire else "{}"
    return replace(mapped, clickhouse=clickhouse, from_storage=mapped.from_storage.format(through))


def _integer(bits: int) -> ColumnType:
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1
    bounds = plain(int).constrained(ge=least, le=most)
    return ColumnType(
        clickhouse=f"Int{bits}",
        event=bounds,
        api=bounds,
        zero=0,
        plain=Annotated[int, msgspec.Meta(ge=least, le=most)],
        from_text=values.integer_between(least, most),
        clickhouse_json="toString({})",
        limits=f"{least} to {most}",
    )


def _bits(size: int) -> tuple[str, str]:
    """Return SQL of a float's bits as text: both sides write digits differently, and many NaNs."""
    postgres = (
        f"CASE WHEN {{}} = 'NaN' THEN 'nan' ELSE encode(float{size // 8}send({{}}), 'hex') END"
    )
    number = f"hex(reinterpretAsUInt{size}({{}}))"
    padded = f"leftPad(lower({number}), {size // 4}, '0')"
    return postgres, f"if(isNaN({{}}), 'nan', {padded})"


def _floating(bits: int) -> ColumnType:
    # JSON has no NaN and no infinity: the relay sends their names.
    named = Annotation(
        text='float | Literal["NaN", "Infinity", "-Infinity"]', imports=(("typing", "Literal"),)
    )
    return ColumnType(
        clickhouse=f"Float{bits}",
        event=named,
        api=plain(float),
        zero=0.0,
        plain=float,
        whole=list,
        to_driver=float,
        from_text=float,
        postgres_text=_bits(bits)[0],
        clickhouse_text=_bits(bits)[1],
        clickhouse_json=(
            "multiIf(isNaN({}), '\"NaN\"', isInfinite({}), if({} > 0, '\"Infinity\"',"
            " '\"-Infinity\"'), toString({}))"
        ),
    )


# pgoutput sends the output of a value's type. A cast to text differs: it strips the blanks of a
# character(n). concat() does not, but turns NULL into an empty text.
OUTPUT = "CASE WHEN {} IS NOT NULL THEN concat({}) END"


def _text(length: int | None = None, api: type = str) -> ColumnType:
    """Return the type of a value stored as PostgreSQL's text of it."""
    limited = {} if length is None else {"max_length": length}
    return ColumnType(
        clickhouse="String",
        event=plain(str),
        api=plain(api).constrained(**limited),
        zero="",
        postgres_text=OUTPUT,
    )


def _numeric(declared: DeclaredType) -> ColumnType:
    digits = _digits(declared)
    if digits is None:
        return replace(_text(), api=plain(Decimal))
    precision, scale = digits
    exact = plain(Decimal).constrained(max_digits=precision, decimal_places=scale)
    mapped = ColumnType(
        clickhouse=f"Decimal({precision}, {scale})",
        event=exact,
        api=exact,
        zero=0,
        whole=columns.scaled(precision, scale),
        to_driver=values.scaled(scale),
        from_text=values.scaled_of(precision, scale),
        clickhouse_text=f"toDecimalString({{}}, {scale})",
        clickhouse_literal=f"toDecimalString({{}}, {scale})",
        clickhouse_json=f"toJSONString(toDecimalString({{}}, {scale}))",
    )
    bits = next(bits for bits, digits in _DECIMALS if precision <= digits)
    return _reinterpreted(mapped, f"Int{bits}")


def _digits(declared: DeclaredType) -> tuple[int, int] | None:
    """Return precision and scale; None where ClickHouse has no such Decimal."""
    precision, scale = declared.precision, declared.scale
    if precision is not None and scale < 0:  # numeric(2, -3) holds 99,000
        precision, scale = precision - scale, 0
    elif precision is not None:  # numeric(2, 4) holds 0.0099
        precision = max(precision, scale)
    return None if precision is None or precision > _MOST_DIGITS else (precision, scale)


def _enum(api: Annotation) -> ColumnType:
    """Map an enum to text, so that a value added in PostgreSQL does not stop the pipeline."""
    return replace(_text(), api=api, dictionary=True)


def _array(element: ColumnType, dimensions: int) -> ColumnType:
    form, api = "Nullable({})", element.api.optional()
    for _ in range(dimensions):
        form, api = f"Array({form})", api.listed()
    return ColumnType(
        clickhouse=form.format(element.clickhouse),
        event=plain(str),
        api=api,
        zero=[],
        to_driver=values.array_of(element.from_text, dimensions, element.held),
        wire=form.format(element.wire) if element.wire else "",
        to_storage=mapped_over(element.to_storage, dimensions),
        from_storage=mapped_over(element.from_storage, dimensions),
        nullable=False,
        postgres_text=(
            "(SELECT coalesce(string_agg("
            f"coalesce(octet_length(t) || ':' || t, '~'), '' ORDER BY n), '') FROM (SELECT n,"
            f" {element.postgres_text.replace('{}', 'e')} AS t"
            " FROM unnest({}) WITH ORDINALITY AS u(e, n)) AS v)"
        ),
        clickhouse_text=(
            "arrayStringConcat(arrayMap(t -> if(isNull(t), '~',"
            " concat(toString(length(assumeNotNull(t))), ':', assumeNotNull(t))),"
            f" arrayMap(e -> {element.clickhouse_text.replace('{}', 'e')},"
            f" {_flat(dimensions)})))"
        ),
    )


def _flat(dimensions: int) -> str:
    return "{}" if dimensions == 1 else "arrayFlatten({})"


def mapped_over(element: str, dimensions: int) -> str:
    """Return an element's SQL as SQL of a nested array."""
    if element == "{}":
        return element
    expression = element.format("x1")
    for level in range(1, dimensions + 1):
        within = f"x{level + 1}" if level < dimensions else "{}"
        expression = f"arrayMap(x{level} -> {expression}, {within})"
    return expression


_JSON = ColumnType(
    clickhouse="String",
    event=Annotation(
        text="str | dict[str, Any] | list[Any] | int | float | bool", imports=(("typing", "Any"),)
    ),
    api=Annotation(text="Any", imports=(("typing", "Any"),)),
    zero="",
    to_driver=values.json_text,
    postgres_text=OUTPUT,
)
_TIMESTAMP = _reinterpreted(
    _type(
        datetime,
        "DateTime64(6, 'UTC')",
        0,
        plain=str,
        whole=columns.ticks,
        to_driver=values.microsecond_ticks,
        from_text=values.timestamp_ticks,
        postgres_text=(
            "CASE WHEN isfinite({}) THEN (extract(epoch FROM {}) * 1000000)::bigint::text"
            " ELSE {}::text END"
        ),
        clickhouse_text="toString(toUnixTimestamp64Micro({}))",
        limits=values.DATES,
        clickhouse_literal="concat(toString({}), '+00')",
        clickhouse_json="""concat('"', replaceOne(toString({}), ' ', 'T'), 'Z"')""",
    ),
    "Int64",
)
_BYTES = replace(
    _text(),
    api=plain(bytes),
    zero=b"",
    to_driver=values.base64_bytes,
    from_text=values.hexadecimal_bytes,
    postgres_text="encode({}, 'hex')",
    clickhouse_text="lower(hex({}))",
    clickhouse_literal="concat('\\\\x', lower(hex({})))",
    clickhouse_json="""concat('"', base64Encode({}), '"')""",
)

_FIXED: dict[str, ColumnType] = {
    "smallint": _integer(16),
    "integer": _integer(32),
    "bigint": _integer(64),
    "real": _floating(32),
    "float": _floating(64),
    "boolean": _type(
        bool,
        "Bool",
        False,
        from_text=values.boolean,
        clickhouse_literal="if({}, 't', 'f')",
        clickhouse_json="toString({})",
    ),
    "timestamp": _TIMESTAMP,
    "date": _type(
        date,
        "Date32",
        date(1970, 1, 1),
        to_driver=values.date_in_range,
        from_text=values.date_of,
        limits=values.DATES,
    ),
    "time": _text(api=time),
    "interval": _text(api=timedelta),
    "uuid": _type(UUID, "UUID", UUID(int=0), from_text=UUID),
    "uuid as text": _text(api=UUID),
    "bytes": _BYTES,
    "json": _JSON,
}
_INTEGERS = frozenset(["smallint", "integer", "bigint"])


@cache
def column_type(declared: DeclaredType, *, nullable: bool = False) -> ColumnType:
    """Return the mapping of a column's declared type."""
    mapped = _compacted(declared) if declared.profile == COMPACT else _lossless(declared)
    # A masked value is a text. ClickHouse allows NULL in a text, not in an array.
    if declared.mask or (nullable and not mapped.nullable):
        mapped = replace(_text(), api=mapped.api)
    if declared.clickhouse:
        mapped = _overridden(mapped, declared.clickhouse, nullable=nullable)
    return mapped


def _lossless(declared: DeclaredType) -> ColumnType:
    if declared.kind == "array":
        assert declared.element is not None
        return _array(column_type(declared.element), declared.dimensions)
    if declared.kind == "enum":
        assert declared.api is not None
        return _enum(declared.api)
    if declared.kind == "numeric":
        return _numeric(declared)
    if declared.kind == "text":
        return _text(declared.length)
    return _FIXED[declared.kind]


def _compacted(declared: DeclaredType) -> ColumnType:
    mapped = _lossless(declared)
    if declared.kind in _INTEGERS:
        never_negative = plain(int).constrained(ge=0, le=2**64 - 1)
        return replace(
            mapped,
            clickhouse="UInt64",
            event=never_negative,
            api=never_negative,
            plain=Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)],
            from_text=values.integer_between(0, 2**64 - 1),
            limits=f"0 to {2**64 - 1}",
        )
    if declared.kind == "numeric":
        postgres, clickhouse = _bits(64)
        digits = _digits(declared)
        return replace(
            mapped,
            clickhouse="Float64",
            zero=0.0,
            whole=columns.floats(*digits) if digits else mapped.whole,
            to_driver=float,
            wire="",
            to_storage="{}",
            from_storage="{}",
            from_text=float,
            limits="",
            # A real is read by its digits, not widened.
            postgres_text=postgres.replace("{}", "{}::text::float8"),
            clickhouse_text=clickhouse,
            clickhouse_literal="toString({})",
            clickhouse_json=_floating(64).clickhouse_json,
        )
    if declared.kind == "timestamp":
        compacted = replace(
            mapped,
            clickhouse="DateTime('UTC')",
            whole=columns.seconds,
            to_driver=values.whole_seconds,
            from_text=values.whole_seconds_of,
            limits=values.SECONDS,
            postgres_text="floor(extract(epoch FROM {}))::text",
            clickhouse_text="toString(toUnixTimestamp({}))",
        )
        return _reinterpreted(compacted, "UInt32")
    return mapped
