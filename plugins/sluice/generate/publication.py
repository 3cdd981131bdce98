"""The publication as SQL, for those who create it by hand."""

from __future__ import annotations

from sluice.catalog import Catalog

NAME = "pglog_stream_sluice"


def publication(catalog: Catalog) -> str:
    """The statement that creates the publication of all tables.

    Columns that Postgres computes are sent by PostgreSQL 18 and newer, when it is told to.
    """
    tables = ",\n".join(
        f"    {_quoted(table.schema)}.{_quoted(table.relation)}" for table in catalog.tables
    )
    return (
        "-- The publication of all tables. Written by `sluice generate`; do not edit.\n"
        f"CREATE PUBLICATION {NAME} FOR TABLE\n{tables}{options(catalog)};\n"
    )


def options(catalog: Catalog) -> str:
    """What follows the tables: nothing, or that computed columns are sent."""
    computed = any(column.generated for table in catalog.tables for column in table.columns)
    return "\nWITH (publish_generated_columns = stored)" if computed else ""


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
