"""SQLAlchemy column types and what they become in ClickHouse, in events and in the API.

Lossless by default: what a Postgres column can hold arrives unaltered or is rejected loudly.
A type that is not in the table is an error when generating, never a silent String.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.types import TypeEngine

from sluice.errors import WrongUsage

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
# ClickHouse shows DateTime64 and Date32 outside of these years as another day.
_FIRST, _LAST = date(1900, 1, 1), date(2299, 12, 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A Python type with Pydantic constraints, as an object and as source text."""

    base: type
    constraints: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self) -> Any:
        """The annotation as a run-time object."""
        return Annotated[self.base, Field(**self.constraints)] if self.constraints else self.base

    def source(self) -> str:
        """The annotation as source text; needs `Annotated`, `Field` and the base's name."""
        if not self.constraints:
            return self.base.__name__
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.constraints.items())
        return f"Annotated[{self.base.__name__}, Field({arguments})]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnType:
    """What one column type is at each station.

    Attributes:
        clickhouse: the ClickHouse type of a value that is never NULL.
        event: how a change event's value is validated.
        api: how the store API's value is validated.
        to_driver: turns a validated value into what clickhouse-driver stores unaltered, or
            raises ValueError when it does not fit; None where the value is right as it is.
        from_storage: SQL that reads a stored `{}` as the value `to_driver` gave.
        zero: the driver value that stands in a deleted row's columns.
        toastable: Postgres may leave a large value out of an update that does not change it.
    """

    clickhouse: str
    event: Annotation
    api: Annotation
    zero: Any
    to_driver: Callable[[Any], Any] | None = None
    from_storage: str = "{}"
    toastable: bool = False


def microsecond_ticks(value: datetime) -> int:
    """Microseconds since 1970 in UTC; a value without a zone is UTC.

    DateTime64 goes to the driver as ticks because clickhouse-driver 0.2.11 is off by a second
    for fractions before 1970 and reads values without a zone in the machine's own.
    """
    if not _FIRST <= value.date() <= _LAST:
        raise ValueError(f"timestamp outside {_FIRST} to {_LAST}")
    aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    return (aware - _EPOCH) // _MICROSECOND


def date_in_range(value: date) -> date:
    """The date itself; ValueError outside of ClickHouse's Date32."""
    if not _FIRST <= value <= _LAST:
        raise ValueError(f"date outside {_FIRST} to {_LAST}")
    return value


def _integer(bits: int) -> ColumnType:
    limit = 1 << bits - 1
    bounds = Annotation(base=int, constraints={"ge": -limit, "le": limit - 1})
    return ColumnType(clickhouse=f"Int{bits}", event=bounds, api=bounds, zero=0)


def _numeric(column_type: sa.Numeric[Any]) -> ColumnType | None:
    if column_type.precision is None:
        return None
    precision, scale = column_type.precision, column_type.scale or 0
    exact = Annotation(base=Decimal, constraints={"max_digits": precision, "decimal_places": scale})
    return ColumnType(
        clickhouse=f"Decimal({precision}, {scale})",
        event=exact,
        api=exact,
        zero=Decimal(0),
    )


def _text(length: int | None) -> ColumnType:
    limited = {} if length is None else {"max_length": length}
    return ColumnType(
        clickhouse="String",
        event=Annotation(base=str),
        api=Annotation(base=str, constraints=limited),
        zero="",
        toastable=True,
    )


def _plain(base: type, clickhouse: str, zero: Any) -> ColumnType:
    annotation = Annotation(base=base)
    return ColumnType(clickhouse=clickhouse, event=annotation, api=annotation, zero=zero)


_FIXED: tuple[tuple[type[TypeEngine[Any]], ColumnType], ...] = (
    # Subclasses before the classes they derive from.
    (sa.SmallInteger, _integer(16)),
    (sa.BigInteger, _integer(64)),
    (sa.Integer, _integer(32)),
    (sa.Float, _plain(float, "Float64", 0.0)),
    (sa.Boolean, _plain(bool, "Bool", False)),
    (
        sa.DateTime,
        replace(
            _plain(datetime, "DateTime64(6, 'UTC')", 0),
            to_driver=microsecond_ticks,
            from_storage="toUnixTimestamp64Micro({})",
        ),
    ),
    (sa.Date, replace(_plain(date, "Date32", date(1970, 1, 1)), to_driver=date_in_range)),
    (sa.Uuid, _plain(UUID, "UUID", UUID(int=0))),
)


def map_type(column_type: TypeEngine[Any]) -> ColumnType | None:
    """The mapping of a SQLAlchemy type; None when there is none."""
    for kind, mapped in _FIXED:
        if isinstance(column_type, kind):
            return mapped
    if isinstance(column_type, sa.Numeric):
        return _numeric(column_type)
    if isinstance(column_type, sa.String) and not isinstance(column_type, sa.Enum):
        return _text(column_type.length)
    return None


def column_type(column: sa.Column[Any]) -> ColumnType:
    """The mapping of a column; WrongUsage, naming column and remedy, when there is none."""
    mapped = map_type(column.type)
    if mapped is None:
        raise WrongUsage(
            f"column {column.table.fullname}.{column.name}: no lossless mapping for"
            f" {column.type!r}",
            remedy="give the column another type, or leave it out of the models",
        )
    return mapped
