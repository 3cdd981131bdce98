"""Tables from SQLAlchemy's mappers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.interfaces import MANYTOONE

from sluice.catalog.quality_options import expectations, quality_marks
from sluice.catalog.tables import Column, Reference, Rollup, Table, ordered_by
from sluice.data_types.mapping import column_type
from sluice.data_types.sqlalchemy_types import column_declared, postgres_type
from sluice.errors import WrongUsage

# Keys of a table's `info` about its ClickHouse tables.
ENGINE_MARKS = ("order_by", "partition_by", "settings", "history")
_PUBLIC = "public"


def read_table(mapper: Mapper[Any], profile: str) -> Table:
    """Describe the table of a mapper; WrongUsage where it cannot be followed."""
    source = mapper.local_table
    assert isinstance(source, sa.Table)
    if not source.primary_key.columns:
        raise WrongUsage(f"table {source.fullname} has no primary key; changes need one")
    schema = str(source.schema or _PUBLIC)
    relation = str(source.name)  # SQLAlchemy's subclass of str would not serialize to JSON
    return Table(
        name=relation if schema == _PUBLIC else f"{schema}_{relation}",
        schema=schema,
        relation=relation,
        model=mapper.class_.__name__,
        module=mapper.class_.__module__,
        entity=_snake_case(mapper.class_.__name__),
        doc=cleandoc(mapper.class_.__doc__ or ""),
        columns=tuple(_columns(mapper, source, profile)),
        references=tuple(_references(mapper)),
        is_fact=source.info.get("star") == "fact",
        in_star=source.info.get("star") != "skip",
        engine=_engine(source),
        rollups=tuple(_rollups(source)),
        quality=quality_marks(source.fullname, source.info.get("quality", {})),
    )


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


def _columns(mapper: Mapper[Any], source: sa.Table, profile: str) -> Iterator[Column]:
    for column in source.columns:
        serial = column.primary_key and column is source.autoincrement_column
        given = column.default is not None or column.server_default is not None
        declared = column_declared(column, profile)
        mapped = column_type(declared, nullable=bool(column.nullable))
        always = column.identity is not None and bool(column.identity.always)
        if column.computed is not None and column.computed.persisted is not True:
            raise WrongUsage(
                f"column {source.fullname}.{column.name} is computed when it is read;"
                " PostgreSQL does not send it",
                remedy="make it Computed(..., persisted=True), or leave it out of the model",
            )
        if column.primary_key and not mapped.nullable:
            raise WrongUsage(
                f"column {source.fullname}.{column.name} is an array; a key cannot be one",
                remedy="give the table another primary key, in PostgreSQL too",
            )
        yield Column(
            name=str(column.name),
            attribute=mapper.get_property_by_column(column).key,
            declared=declared,
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
        )


def _references(mapper: Mapper[Any]) -> Iterator[Reference]:
    for relationship in mapper.relationships:
        target = relationship.mapper.local_table
        if relationship.direction is not MANYTOONE or not isinstance(target, sa.Table):
            continue
        pairs = relationship.local_remote_pairs or []
        keys = {remote for _, remote in pairs}
        if keys != set(target.primary_key.columns):
            continue  # it does not refer to one row by its primary key
        yield Reference(
            name=relationship.key,
            columns=tuple(str(local.name) for local, _ in pairs),
            target=(str(target.schema or _PUBLIC), str(target.name)),
            target_columns=tuple(str(remote.name) for _, remote in pairs),
        )


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
