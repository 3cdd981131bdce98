"""SQLAlchemy's column types as declared types, and their names in PostgreSQL."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.ranges import AbstractRange
from sqlalchemy.types import TypeEngine

from sluice.data_types.annotations import Annotation, importable, plain
from sluice.data_types.mapping import LOSSLESS, DeclaredType

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_REAL_BITS = 24  # FLOAT(24) and less is a real
_KINDS: tuple[tuple[type[TypeEngine[Any]], str], ...] = (
    # Subclasses before the classes they derive from.
    (sa.SmallInteger, "smallint"),
    (sa.BigInteger, "bigint"),
    (sa.Integer, "integer"),
    (sa.REAL, "real"),
    (sa.Float, "float"),  # of more than 24 bits; see _on_postgres
    (sa.Boolean, "boolean"),
    (sa.DateTime, "timestamp"),
    (sa.Date, "date"),
    (sa.Time, "time"),
    (sa.Interval, "interval"),
    (postgresql.INTERVAL, "interval"),
    (sa.Uuid, "uuid"),
    (sa.LargeBinary, "bytes"),
    (sa.JSON, "json"),
    *(
        (kind, "text")
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


def column_declared(column: sa.Column[Any], profile: str = LOSSLESS) -> DeclaredType | None:
    """Return the declared type of a column; None where it has no mapping and is not marked.

    The mark `text` stores PostgreSQL's text of a type without a mapping; masks are texts, too.
    """
    declared, mask = declared_type(column.type, profile), str(column.info.get("mask") or "")
    if declared is None and (mask or column.info.get("text") is True):
        declared = DeclaredType(kind="text", profile=profile)
    marked = str(column.info.get("clickhouse_type") or "")
    return declared and replace(declared, clickhouse=marked, mask=mask)


def declared_type(column_type: TypeEngine[Any], profile: str = LOSSLESS) -> DeclaredType | None:
    """Return the declared type of a SQLAlchemy type; None where it has no mapping."""
    kind = _on_postgres(column_type)
    if isinstance(kind, sa.ARRAY):
        element = declared_type(kind.item_type, profile)
        if element is None or element.kind == "array":  # of a domain over an array
            return None
        dimensions = kind.dimensions or 1
        return DeclaredType(kind="array", profile=profile, element=element, dimensions=dimensions)
    declared = _scalar(kind)
    return declared and replace(declared, profile=profile)


def _scalar(kind: TypeEngine[Any]) -> DeclaredType | None:
    if isinstance(kind, sa.Enum):
        return DeclaredType(kind="enum", api=_values(kind))
    if isinstance(kind, sa.Uuid) and not kind.native_uuid:  # char(32)
        return DeclaredType(kind="uuid as text")
    name = next((name for base, name in _KINDS if isinstance(kind, base)), None)
    if name is not None:
        return DeclaredType(kind=name)
    if isinstance(kind, sa.Numeric):
        return DeclaredType(kind="numeric", precision=kind.precision, scale=kind.scale or 0)
    return DeclaredType(kind="text", length=kind.length) if isinstance(kind, sa.String) else None


def _values(kind: sa.Enum) -> Annotation:
    """Return the annotation of an enum's values."""
    if kind.enum_class is not None and importable(kind.enum_class):
        return plain(kind.enum_class)
    names = ", ".join(json.dumps(name, ensure_ascii=False) for name in kind.enums)
    return Annotation(text=f"Literal[{names}]", imports=(("typing", "Literal"),))


def postgres_type(column_type: TypeEngine[Any]) -> str:
    """Return the type's name in PostgreSQL, with its modifier and without domains."""
    return str(_on_postgres(column_type).compile(dialect=_DIALECT))


def _on_postgres(column_type: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type in PostgreSQL; of a decorator or domain its base type."""
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
