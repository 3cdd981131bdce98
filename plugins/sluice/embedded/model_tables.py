"""Creates the models' tables in the embedded PostgreSQL; in no other one is anything created."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoReferenceError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from sluice.catalog.models import collections_of
from sluice.clients.postgres import opened
from sluice.errors import NeedsPerson
from sluice.settings import PostgresSettings


def create_tables(settings: PostgresSettings, models: str) -> list[str]:
    """Create the tables of the models that PostgreSQL lacks, and their schemas: all or none.

    Tables that Sluice does not follow are created too, as others may refer to them. What exists
    stays as it is.

    Returns:
        The names of the created tables.

    Raises:
        WrongUsage: the models cannot be imported.
        NeedsPerson: the models alone do not suffice to create their tables.
    """
    collections = collections_of(models)
    with opened(settings) as connection:
        connection.autocommit = False
        engine = sa.create_engine(
            "postgresql+psycopg2://", creator=lambda: connection, poolclass=StaticPool
        )
        try:
            with engine.begin() as session:
                return _created(session, _in_order(collections))
        except (SQLAlchemyError, CycleError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
            raise NeedsPerson(
                f"the tables of {models!r} cannot be created, so none was: {reason}",
                remedy="create them by your own migrations, at the address that sluice env prints;"
                " then: sluice up",
            ) from error


def _created(session: sa.Connection, collections: Sequence[sa.MetaData]) -> list[str]:
    tables = [table for own in collections for table in own.tables.values()]
    present = sa.inspect(session)
    missing = [t.fullname for t in tables if not present.has_table(t.name, schema=t.schema)]
    for schema in dict.fromkeys(name for table in tables for name in _schemas(table)):
        session.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
    for own in collections:
        own.create_all(session)
    return missing


def _schemas(table: sa.Table) -> Iterator[str]:
    """Yield the schemas of a table, and of the types and sequences of its columns."""
    for column in table.columns:
        kind: Any = column.type
        for part in (table, kind, getattr(kind, "item_type", None), column.default):
            if schema := getattr(part, "schema", None):
                yield str(schema)


def _in_order(collections: Sequence[sa.MetaData]) -> list[sa.MetaData]:
    """Return those first to whose tables others refer."""
    needed = {own: _referred(own) & set(collections) - {own} for own in collections}
    return list(TopologicalSorter(needed).static_order())


def _referred(metadata: sa.MetaData) -> set[sa.MetaData]:
    found = set()
    for table in metadata.tables.values():
        for key in table.foreign_keys:
            with suppress(NoReferenceError):  # create_all says so in its own words
                found.add(key.column.table.metadata)
    return found
