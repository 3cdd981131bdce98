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
    """What follows the tables: partitions as their root, and computed columns where there are."""
    chosen = ["publish_via_partition_root = true"]
    if computed(catalog):
        chosen.append("publish_generated_columns = stored")
    return f"\nWITH ({', '.join(chosen)})"


def computed(catalog: Catalog) -> bool:
    """Whether Postgres computes a column of the models."""
    return any(column.generated for table in catalog.tables for column in table.columns)


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
