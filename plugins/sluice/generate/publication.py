"""The publication as SQL, for creating it by hand."""

from __future__ import annotations

from sluice.catalog import Catalog, Table

# The publication's name, derived from the slot's as in RelaySettings.publication.
NAME = "'pglog_stream_' || coalesce(nullif(current_setting('sluice.slot', true), ''), 'sluice')"
LISTS_COLUMNS = 150000  # `server_version_num` of the first release with lists of columns
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

    PostgreSQL 18 and newer send computed columns, with an option. Releases from 15 on leave out
    excluded columns, but of a table with the whole row as replica identity, whose updates they
    would refuse.
    """
    tables = ",\n".join(_entry(table) for table in catalog.tables)
    lists = [_columns(table) for table in catalog.tables if has_list(table)]
    tag = "publication"
    while f"${tag}" in "".join([tables, *lists]):  # a name may contain the closing tag
        tag += "_"
    names = ",\n        ".join([NAME, *lists])
    return _TEXT.format(tag=tag, tables=tables, options=options(catalog), name=names)


def has_list(table: Table) -> bool:
    """Whether a table is published with a list of columns, where PostgreSQL has them.

    A table whose computed columns are followed is not: releases before 18 refuse those in a list.
    """
    return bool(table.excluded) and not any(column.generated for column in table.columns)


def _entry(table: Table) -> str:
    place = f"    ONLY {_place(table)}".replace("%", "%%")
    return f"{place}%s" if has_list(table) else place


def _columns(table: Table) -> str:
    """Return SQL of a table's list of columns; of an empty text where it must have none."""
    listed = ", ".join(_quoted(column.name) for column in table.columns)
    place = _literal(_place(table))
    return (
        f"CASE WHEN current_setting('server_version_num')::int >= {LISTS_COLUMNS} AND NOT EXISTS ("
        f"SELECT FROM pg_class WHERE relreplident = 'f' AND oid IN (SELECT {place}::regclass"
        f" UNION SELECT relid FROM pg_partition_tree({place})))"
        f"\n            THEN {_literal(f' ({listed})')} ELSE '' END"
    )


def options(catalog: Catalog) -> str:
    """Return the WITH clause: partitions as their root, and computed columns if there are any."""
    chosen = ["publish_via_partition_root = true"]
    if computed(catalog):
        chosen.append("publish_generated_columns = stored")
    return f"\nWITH ({', '.join(chosen)})"


def computed(catalog: Catalog) -> bool:
    """Whether PostgreSQL computes a column of the models."""
    return any(column.generated for table in catalog.tables for column in table.columns)


def _place(table: Table) -> str:
    return f"{_quoted(table.schema)}.{_quoted(table.relation)}"


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
