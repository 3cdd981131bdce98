"""The publication as SQL, for creating it by hand."""

from __future__ import annotations

from sluice.catalog import Catalog

# The publication's name, derived from the slot's as in RelaySettings.publication.
NAME = "'pglog_stream_' || coalesce(nullif(current_setting('sluice.slot', true), ''), 'sluice')"
_TEXT = """\
-- The publication of all tables, for the slot `sluice`. Written by `sluice generate`; do not edit.
-- For another SLUICE_SLOT: SET sluice.slot = 'name' before it, or PGOPTIONS='-c sluice.slot=name'.
DO ${tag}$
BEGIN
    EXECUTE format(${tag}_text$CREATE PUBLICATION %I FOR TABLE
{tables}{options}${tag}_text$,
        {name});
END
${tag}$;
"""


def publication(catalog: Catalog) -> str:
    """Return the statement that creates the publication of all tables.

    PostgreSQL 18 and newer send computed columns, with an option.
    """
    tables = ",\n".join(
        f"    ONLY {_quoted(table.schema)}.{_quoted(table.relation)}" for table in catalog.tables
    ).replace("%", "%%")
    tag = "publication"
    while f"${tag}" in tables:  # a name may contain the closing tag
        tag += "_"
    return _TEXT.format(tag=tag, tables=tables, options=options(catalog), name=NAME)


def options(catalog: Catalog) -> str:
    """Return the WITH clause: partitions as their root, and computed columns if there are any."""
    chosen = ["publish_via_partition_root = true"]
    if computed(catalog):
        chosen.append("publish_generated_columns = stored")
    return f"\nWITH ({', '.join(chosen)})"


def computed(catalog: Catalog) -> bool:
    """Whether PostgreSQL computes a column of the models."""
    return any(column.generated for table in catalog.tables for column in table.columns)


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
