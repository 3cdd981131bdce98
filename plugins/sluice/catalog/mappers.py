"""Tables from SQLAlchemy's tables and mappers."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.orm.interfaces import MANYTOONE
from sqlalchemy.sql import operators, visitors

from sluice.catalog.declared import Declared
from sluice.catalog.naming import PUBLIC, Names
from sluice.catalog.quality_options import expectations, quality_marks
from sluice.catalog.tables import (
    OWN_COLUMNS,
    Column,
    LeftOut,
    Reference,
    Rollup,
    Table,
    ordered_by,
)
from sluice.data_types.mapping import column_type
from sluice.data_types.sqlalchemy_types import column_declared, postgres_type
from sluice.errors import WrongUsage

# Keys of a table's `info` about its ClickHouse tables.
ENGINE_MARKS = ("order_by", "partition_by", "settings", "history")
_Pairs = list[tuple[Any, Any]]


def place(source: sa.Table) -> tuple[str, str]:
    """Return a table's schema and name; SQLAlchemy's subclass of str would not become JSON."""
    return str(source.schema or PUBLIC), str(source.name)


def read_table(
    declared: Declared, names: Names, models: str, profile: str
) -> tuple[Table | None, list[LeftOut]]:
    """Describe a table of the models.

    Returns:
        The table, None if it cannot be followed; and what of it is left out.

    Raises:
        WrongUsage: a mark is wrong.
    """
    source = declared.source
    excluded = [str(column.name) for column in source.columns if column.info.get("exclude")]
    columns, left_out = _columns(declared, names.name, profile)
    if not source.primary_key.columns:
        left_out = [
            LeftOut(
                table=names.name,
                reason="has no primary key, which changes need",
                remedy='give it one in PostgreSQL and in the model, or mark it "exclude": True',
            )
        ]
    if any(not left.column for left in left_out):
        return None, [left for left in left_out if not left.column]
    held = {column.name for column in columns}
    schema, relation = names.place
    table = Table(
        name=names.name,
        schema=schema,
        relation=relation,
        model=names.model,
        module=declared.module or models,
        entity=names.entity,
        doc=declared.doc,
        columns=tuple(columns),
        references=tuple(r for r in _references(declared) if held.issuperset(r.columns)),
        is_fact=source.info.get("star") == "fact",
        in_star=source.info.get("star") != "skip",
        engine=_engine(source),
        rollups=tuple(_rollups(source)),
        quality=quality_marks(source.fullname, source.info.get("quality", {})),
        excluded=(*excluded, *(left.column for left in left_out)),
    )
    return table, left_out


def _engine(source: sa.Table) -> dict[str, str]:
    """Return the marks of a table's storage; `order_by` has to be a permutation of the key."""
    engine = {name: str(source.info[name]) for name in ENGINE_MARKS if name in source.info}
    key = sorted(str(column.name) for column in source.primary_key.columns)
    if sorted(ordered_by(engine) or key) != key:
        raise WrongUsage(
            f"table {source.fullname}: order_by is {engine['order_by']!r}, not the key's columns",
            remedy=f"name each of {', '.join(key)} once, in the order you want",
        )
    return engine


def _rollups(source: sa.Table) -> Iterator[Rollup]:
    for name, mark in source.info.get("rollups", {}).items():
        try:
            by, sums = tuple(mark["by"].items()), tuple(mark["sum"].items())
        except (AttributeError, KeyError, TypeError):
            by, sums = (), ()
        if not by or not sums:
            raise WrongUsage(
                f"rollup {name!r} of {source.fullname} has no groups or no sums",
                remedy='mark it as {"by": {name: expression}, "sum": {name: expression}}',
            )
        yield Rollup(name=str(name), by=by, sums=sums)


def _columns(declared: Declared, table: str, profile: str) -> tuple[list[Column], list[LeftOut]]:
    """Return the columns, and those left out; a column of the key costs the whole table."""
    columns: list[Column] = []
    left_out: list[LeftOut] = []
    for column in declared.source.columns:
        if column.info.get("exclude"):
            if column.primary_key:
                raise WrongUsage(
                    f"column {table}.{column.name} is excluded, but is part of the key",
                    remedy="exclude the whole table, or another column",
                )
            continue
        read = _column(declared, column, profile)
        if isinstance(read, Column):
            columns.append(read)
            continue
        reason, remedy = read
        if column.primary_key:
            reason = f"has a key whose column {column.name} {reason}"
        name = "" if column.primary_key else str(column.name)
        left_out.append(LeftOut(table=table, column=name, reason=reason, remedy=remedy))
    return columns, left_out


def _column(declared: Declared, column: sa.Column[Any], profile: str) -> Column | tuple[str, str]:
    """Describe a column; return reason and remedy where it cannot be followed."""
    source = declared.source
    serial = column.primary_key and column is source.autoincrement_column
    given = column.default is not None or column.server_default is not None
    kind = column_declared(column, profile)
    if str(column.name) in OWN_COLUMNS:
        return "has the name of one of Sluice's own in ClickHouse", "rename it"
    if kind is None:
        return (
            f"has the type {column.type!r}, which has no lossless mapping",
            'mark it "text": True to store its text, or "exclude": True',
        )
    mapped = column_type(kind, nullable=bool(column.nullable))
    if column.computed is not None and column.computed.persisted is not True:
        return (
            "is computed when it is read, so PostgreSQL does not send it",
            "make it Computed(..., persisted=True), or leave it out of the model",
        )
    if column.primary_key and not mapped.nullable:
        return "is an array", "give the table another primary key, in PostgreSQL too"
    always = column.identity is not None and bool(column.identity.always)
    return Column(
        name=str(column.name),
        attribute=declared.attribute(column),
        declared=kind,
        nullable=bool(column.nullable),
        primary_key=column.primary_key,
        has_default=serial or given or column.identity is not None,
        computed=column.computed is not None or always,
        generated=column.computed is not None,
        low_cardinality=bool(column.info.get("low_cardinality", mapped.dictionary)),
        in_star=column.info.get("star") != "skip",
        is_date=column.info.get("star") == "date",
        codec=str(column.info.get("codec", "")),
        postgres_type=postgres_type(column.type),
        expectations=tuple(
            expectations(f"{source.fullname}.{column.name}", column.info.get("expect", {}))
        ),
        comment=cleandoc(column.comment or column.doc or ""),
    )


def _references(declared: Declared) -> list[Reference]:
    """Return how a table refers to others: by relationships, inheritance, or foreign keys alone."""
    found: dict[str, Reference] = {}
    for name, pairs in _named_pairs(declared):
        reference = _reference(declared.source, name, pairs)
        if reference is not None:
            found.setdefault(name, reference)
    return list(found.values())


def _named_pairs(declared: Declared) -> Iterator[tuple[str, _Pairs]]:
    """Yield the names of references with pairs of local and remote columns, relationships first."""
    for mapper in declared.mappers:
        for relationship in mapper.relationships:
            if relationship.direction is MANYTOONE:
                yield relationship.key, list(relationship.local_remote_pairs or [])
    for mapper in declared.mappers:
        if mapper.inherits is not None and mapper.inherit_condition is not None:
            yield (
                _free(declared, mapper.inherits.class_.__name__.lower()),
                [
                    (one, other) if one.table is declared.source else (other, one)
                    for one, other in _equated(mapper.inherit_condition)
                ],
            )
    if not declared.mappers:
        constraints = declared.source.foreign_key_constraints
        for constraint in sorted(constraints, key=lambda own: tuple(own.column_keys)):
            yield _by_column(constraint), _referred(constraint)


def _free(declared: Declared, name: str) -> str:
    """Return the name, changed if a relationship has it."""
    taken = {own.key for mapper in declared.mappers for own in mapper.relationships}
    return f"{name}_parent" if name in taken else name


def _equated(condition: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of columns that a join's condition equates."""
    for element in visitors.iterate(condition):
        if not isinstance(element, sa.BinaryExpression) or element.operator is not operators.eq:
            continue
        if isinstance(element.left, sa.Column) and isinstance(element.right, sa.Column):
            yield element.left, element.right


def _by_column(constraint: sa.ForeignKeyConstraint) -> str:
    """Return a name for a foreign key: of its columns, without a single one's `_id`."""
    keys = [str(column.name) for column in constraint.columns]
    return "_".join(keys) if len(keys) > 1 else keys[0].removesuffix("_id")


def _referred(constraint: sa.ForeignKeyConstraint) -> _Pairs:
    try:
        return [(element.parent, element.column) for element in constraint.elements]
    except NoReferenceError:
        return []


def _reference(source: sa.Table, name: str, pairs: _Pairs) -> Reference | None:
    """Return the reference if it is from this table to one row of another by its primary key."""
    target = pairs[0][1].table if pairs else None
    if not isinstance(target, sa.Table) or any(local.table is not source for local, _ in pairs):
        return None
    if {remote for _, remote in pairs} != set(target.primary_key.columns):
        return None
    return Reference(
        name=name,
        columns=tuple(str(local.name) for local, _ in pairs),
        target=place(target),
        target_columns=tuple(str(remote.name) for _, remote in pairs),
    )
