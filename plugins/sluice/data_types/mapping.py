"""SQLAlchemy column types and what they become in ClickHouse, in events and in the API.

Two profiles. `lossless`: what a Postgres column can hold arrives unaltered or is rejected loudly.
`compact`: fewer and smaller types, for those who can do without the exact value. A type that is
not in the table is an error when generating, never a silent String.

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
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.ranges import AbstractRange
from sqlalchemy.types import TypeEngine

from sluice.data_types import columns, values
from sluice.data_types.annotations import Annotation, plain
from sluice.errors import WrongUsage

LOSSLESS, COMPACT = "lossless", "compact"
PROFILES = (LOSSLESS, COMPACT)
_DECIMALS = ((32, 9), (64, 18), (128, 38), (256, 76))  # bits, digits of ClickHouse's Decimals
_MOST_DIGITS = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnType:
    """What one column type is at each station.

    Attributes:
        clickhouse: the ClickHouse type of a value that is never NULL.
        event: how a change event's value is validated.
        api: how the store API's value is validated.
        zero: the driver value that stands in a deleted row's columns.
        plain: how msgspec reads a value in Postgres' form; takes no more than `event` does.
        whole: gives of a column of such values, none of them NULL, what `to_driver` would give
            of each, or raises ValueError; None where `to_driver` is asked for each.
        to_driver: turns a validated value into what clickhouse-driver stores unaltered, or
            raises ValueError when it does not fit; None where the value is right as it is.
        wire: the ClickHouse type that the driver sends, of the same bits; empty where it is the
            column's own.
        to_storage, from_storage: SQL that makes of a `{}` that `to_driver` gave the stored value,
            and the reverse.
        from_text: reads Postgres' text of the value as `to_driver` would give it, for arrays.
        dictionary: whether few distinct values are to be expected.
        nullable: whether ClickHouse allows NULL in it; an Array cannot be NULL.
        postgres_text, clickhouse_text: SQL that gives a `{}` the same text on both sides, for
            comparing them; never given a NULL.
        clickhouse_literal: SQL that writes a stored `{}` as PostgreSQL reads it; so does
            `from_text`.
        clickhouse_json: SQL that writes a stored `{}` as an event has it.
        limits: the least and the greatest value that it holds, in words; or empty.
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
        """What the type in ClickHouse holds, in words."""
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
    """The type as the driver is given it: integers, which it writes as they are."""
    return replace(
        mapped,
        wire=wire,
        to_storage=f"reinterpret({{}}, {_quoted(mapped.clickhouse)})",
        from_storage=f"reinterpret({{}}, '{wire}')",
    )


def _quoted(clickhouse: str) -> str:
    return "'{}'".format(clickhouse.replace("'", "\\'"))


def _overridden(mapped: ColumnType, clickhouse: str, *, nullable: bool) -> ColumnType:
    """The type stored as another; the mapped one is what its values are read back through."""
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
    """A float's text: its bits, because its digits differ; NaN has more than one form."""
    postgres = (
        f"CASE WHEN {{}} = 'NaN' THEN 'nan' ELSE encode(float{size // 8}send({{}}), 'hex') END"
    )
    number = f"hex(reinterpretAsUInt{size}({{}}))"
    padded = f"leftPad(lower({number}), {size // 4}, '0')"
    return postgres, f"if(isNaN({{}}), 'nan', {padded})"


def _floating(bits: int) -> ColumnType:
    # JSON has no NaN and no infinity; the relay sends their names.
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


# What pgoutput sends of a value: its type's output, whatever the type is. A cast to text is not
# (it takes the blanks from a character(n)); concat() is, but makes an empty text of NULL.
OUTPUT = "CASE WHEN {} IS NOT NULL THEN concat({}) END"


def _text(length: int | None = None, api: type = str) -> ColumnType:
    """Text as PostgreSQL writes it."""
    limited = {} if length is None else {"max_length": length}
    return ColumnType(
        clickhouse="String",
        event=plain(str),
        api=plain(api).constrained(**limited),
        zero="",
        postgres_text=OUTPUT,
    )


def _numeric(column_type: sa.Numeric[Any]) -> ColumnType:
    digits = _digits(column_type)
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


def _digits(column_type: sa.Numeric[Any]) -> tuple[int, int] | None:
    """All of its digits and those behind the point; None where ClickHouse has no Decimal of it."""
    precision, scale = column_type.precision, column_type.scale or 0
    if precision is not None and scale < 0:  # numeric(2, -3) holds 99,000
        precision, scale = precision - scale, 0
    elif precision is not None:  # numeric(2, 4) holds 0.0099
        precision = max(precision, scale)
    return None if precision is None or precision > _MOST_DIGITS else (precision, scale)


def _enum(column_type: sa.Enum) -> ColumnType:
    """As text, so that a value that is added in Postgres is no reason to stop."""
    if column_type.enum_class is None:
        names = ", ".join(json.dumps(name, ensure_ascii=False) for name in column_type.enums)
        api = Annotation(text=f"Literal[{names}]", imports=(("typing", "Literal"),))
    else:
        api = plain(column_type.enum_class)
    return replace(_text(), api=api, dictionary=True)


def _array(column_type: sa.ARRAY[Any], profile: str) -> ColumnType | None:
    element = map_type(column_type.item_type, profile)
    if element is None or not element.nullable:  # of a domain over an array
        return None
    dimensions = column_type.dimensions or 1
    form = "Nullable({})" if element.nullable else "{}"
    api = element.api.optional()
    for _ in range(dimensions):
        form, api = f"Array({form})", api.listed()
    return ColumnType(
        clickhouse=form.format(element.clickhouse),
        event=plain(str),
        api=api,
        zero=[],
        to_driver=values.array_of(element.from_text, dimensions, element.held),
        wire=form.format(element.wire) if element.wire else "",
        to_storage=_mapped(element.to_storage, dimensions),
        from_storage=_mapped(element.from_storage, dimensions),
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


def _mapped(element: str, dimensions: int) -> str:
    """SQL of an element as SQL of a nested array."""
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

_FIXED: tuple[tuple[type[TypeEngine[Any]], ColumnType], ...] = (
    # Subclasses before the classes they derive from.
    (sa.SmallInteger, _integer(16)),
    (sa.BigInteger, _integer(64)),
    (sa.Integer, _integer(32)),
    (sa.REAL, _floating(32)),
    (sa.Float, _floating(64)),  # of more than 24 bits; see _on_postgres
    (
        sa.Boolean,
        _type(
            bool,
            "Bool",
            False,
            from_text=values.boolean,
            clickhouse_literal="if({}, 't', 'f')",
            clickhouse_json="toString({})",
        ),
    ),
    (sa.DateTime, _TIMESTAMP),
    (
        sa.Date,
        _type(
            date,
            "Date32",
            date(1970, 1, 1),
            to_driver=values.date_in_range,
            from_text=values.date_of,
            limits=values.DATES,
        ),
    ),
    (sa.Time, _text(api=time)),
    (sa.Interval, _text(api=timedelta)),
    (postgresql.INTERVAL, _text(api=timedelta)),
    (sa.Uuid, _type(UUID, "UUID", UUID(int=0), from_text=UUID)),
    (sa.LargeBinary, _BYTES),
    (sa.JSON, _JSON),
    *(
        (kind, _text())
        for kind in (
            postgresql.INET,
            postgresql.CIDR,
            postgresql.MACADDR,
            postgresql.MACADDR8,
            postgresql.BIT,
            postgresql.HSTORE,
            postgresql.TSVECTOR,
            AbstractRange,
        )
    ),
)


def map_type(column_type: TypeEngine[Any], profile: str = LOSSLESS) -> ColumnType | None:
    """The mapping of a SQLAlchemy type; None when there is none."""
    kind = _on_postgres(column_type)
    if isinstance(kind, sa.ARRAY):
        return _array(kind, profile)
    if isinstance(kind, sa.Enum):
        return _enum(kind)
    if isinstance(kind, sa.Uuid) and not kind.native_uuid:  # char(32)
        return _text(api=UUID)
    mapped = next((mapped for base, mapped in _FIXED if isinstance(kind, base)), None)
    if mapped is None and isinstance(kind, sa.Numeric):
        mapped = _numeric(kind)
    if mapped is None and isinstance(kind, sa.String):
        mapped = _text(kind.length)
    return _compacted(kind, mapped) if profile == COMPACT and mapped else mapped


def _on_postgres(column_type: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type that stands in PostgreSQL: of decorators and domains what they are made of."""
    kind = column_type._variant_mapping.get("postgresql", column_type)
    while True:
        if isinstance(kind, sa.TypeDecorator) and not isinstance(kind, sa.Interval):
            kind = kind.load_dialect_impl(_DIALECT)
        elif isinstance(kind, postgresql.DOMAIN):
            kind = kind.data_type
        else:
            break
    if isinstance(kind, sa.Interval) and not kind.native:
        return sa.DateTime()
    if isinstance(kind, sa.Float) and kind.precision is not None and kind.precision <= _REAL_BITS:
        return sa.REAL()
    if isinstance(kind, sa.ARRAY):
        item = _on_postgres(kind.item_type)
        nested = isinstance(item, sa.ARRAY)  # of a domain over an array, which has no mapping
        return kind if nested else postgresql.ARRAY(item, dimensions=kind.dimensions)
    return kind


def postgres_type(column_type: TypeEngine[Any]) -> str:
    """The type's name in PostgreSQL, with its modifier and without domains."""
    return str(_on_postgres(column_type).compile(dialect=_DIALECT))


_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_REAL_BITS = 24  # FLOAT(24) and less is a real


def _compacted(kind: TypeEngine[Any], mapped: ColumnType) -> ColumnType:
    if isinstance(kind, sa.Integer):
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
    if isinstance(kind, sa.Numeric):
        postgres, clickhouse = _bits(64)
        digits = None if isinstance(kind, sa.Float) else _digits(kind)
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
    if isinstance(kind, sa.DateTime):
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


def column_type(column: sa.Column[Any], profile: str = LOSSLESS) -> ColumnType:
    """The mapping of a column; WrongUsage, naming column and remedy, when there is none."""
    mapped = map_type(column.type, profile)
    if mapped is None:
        raise WrongUsage(
            f"column {column.table.fullname}.{column.name}: no lossless mapping for"
            f" {column.type!r}",
            remedy="give the column another type, or leave it out of the models",
        )
    if column.nullable and not mapped.nullable:  # ClickHouse has no NULL array: its text has
        mapped = replace(_text(), api=mapped.api)
    override = column.info.get("clickhouse_type")
    return _overridden(mapped, override, nullable=bool(column.nullable)) if override else mapped
