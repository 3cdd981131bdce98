"""A fact's DDL and the queries that keep it: what was touched, its rows, its tombstones.

The queries are ClickHouse's with its own parameters (`{low_orders:UInt64}`); rebuild.py fills
them in. `fact` is an identifier parameter because a full rebuild writes to a shadow table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from sluice.catalog import Dimension, Fact
from sluice.generate.clickhouse import create_table, key_expression, quoted, view

_JOIN_NULLS = "SETTINGS join_use_nulls = 1"


def star_statements(fact: Fact) -> dict[str, str]:
    """Statement name -> text, for one fact."""
    return {
        "fact": fact_table(fact, fact.name),
        "view": view(fact.name, [column.name for column in fact.columns]),
        "touched": _touched(fact),
        "insert_touched": _insert(fact, touched=True),
        "insert_tombstones": _tombstones(fact),
        "insert_all": _insert(fact, touched=False),
    }


def select_all(fact: Fact) -> str:
    """The query whose rows the fact has to have."""
    selected = ",\n".join(
        f"    {text} AS {quoted(column.name)}"
        for text, column in zip(_selected(fact), fact.columns, strict=True)
    )
    joins = "\n".join(_joins(fact, touched=False))
    rows = _rows(fact, None, touched=False)
    return f"SELECT\n{selected}\nFROM {rows} AS fact\n{joins}"


def fact_table(fact: Fact, name: str) -> str:
    """DDL of the fact's storage under this name."""
    columns = [f"{quoted(column.name)} {column.clickhouse_type}" for column in fact.columns]
    columns += ["_version UInt128", "_is_deleted UInt8"]
    key = ", ".join(quoted(column.name) for column in fact.key)
    engine = ["ENGINE = ReplacingMergeTree(_version, _is_deleted)", f"ORDER BY ({key})"]
    return create_table(name, columns, engine)


def _key_names(fact: Fact) -> list[str]:
    return [column.name for column in fact.key]


def _touched(fact: Fact) -> str:
    """Keys of the fact that a change in (low, high] of any of its tables can have altered.

    A dimension's facts are found in the fact itself: where the way from a fact to a dimension
    has changed since, the row that changed it is among the changes too.
    """
    own = ", ".join(f"{quoted(column.column.name)} AS {quoted(column.name)}" for column in fact.key)
    parts = [
        f"SELECT {own}\nFROM cdc.{quoted(fact.table.storage)}\nWHERE {_changed(fact.table.name)}"
    ]
    names = ", ".join(map(quoted, _key_names(fact)))
    for dimension in fact.dimensions:
        target = dimension.table
        keys = [column.name for column in target.key]
        held = key_expression([fact.fact_column(dimension.prefix, key) for key in keys])
        listed = ", ".join(map(quoted, keys))
        parts.append(
            f"SELECT {names}\nFROM cdc.{{fact:Identifier}}\nWHERE {held} IN (\n"
            f"    SELECT {listed} FROM cdc.{quoted(target.storage)}\n"
            f"    WHERE {_changed(target.name)}\n)"
        )
    union = "\nUNION DISTINCT\n".join(parts)
    return f"CREATE TEMPORARY TABLE touched ENGINE = Memory AS\n{union}"


def _changed(table: str) -> str:
    return f"_seq > {{low_{table}:UInt64}} AND _seq <= {{high_{table}:UInt64}}"


def _insert(fact: Fact, *, touched: bool) -> str:
    columns = "\n".join(f"    {quoted(column.name)}," for column in fact.columns)
    selected = "\n".join(f"    {text}," for text in _selected(fact))
    joins = "\n".join(_joins(fact, touched=touched))
    return (
        f"INSERT INTO cdc.{{fact:Identifier}}\n(\n{columns}\n    _version\n)\n"
        f"SELECT\n{selected}\n    {{version:UInt128}}\n"
        f"FROM {_rows(fact, None, touched=touched)} AS fact\n{joins}\n{_JOIN_NULLS}"
    )


def _selected(fact: Fact) -> Iterator[str]:
    for column in fact.columns:
        source = quoted(column.source or "fact")
        yield f"{source}.{quoted(column.column.name)}"


def _joins(fact: Fact, *, touched: bool) -> Iterator[str]:
    for dimension in fact.dimensions:
        reference = dimension.reference
        parent = quoted(dimension.parent or "fact")
        alias = quoted(dimension.prefix)
        on = " AND ".join(
            f"{alias}.{quoted(target)} = {parent}.{quoted(column)}"
            for column, target in zip(reference.columns, reference.target_columns, strict=True)
        )
        yield f"LEFT JOIN {_rows(fact, dimension, touched=touched)} AS {alias} ON {on}"


def _rows(fact: Fact, dimension: Dimension | None, *, touched: bool) -> str:
    """The live rows of the fact's table or of a dimension; all, or what touched facts need."""
    table = dimension.table if dimension else fact.table
    rows = f"SELECT * FROM cdc.{quoted(table.storage)} FINAL"
    if not touched:
        return f"({rows})"
    needed = textwrap.indent(_needed(fact, dimension), "    ")
    return f"(\n    {rows}\n{needed}\n)"


def _needed(fact: Fact, dimension: Dimension | None) -> str:
    """WHERE on the rows that touched facts lead to: nested INs along the way."""
    if dimension is None:
        own = key_expression([column.column.name for column in fact.key])
        names = ", ".join(map(quoted, _key_names(fact)))
        return f"WHERE {own} IN (SELECT {names} FROM touched)"
    parent = next((d for d in fact.dimensions if d.prefix == dimension.parent), None)
    holder = parent.table if parent else fact.table
    columns = ", ".join(map(quoted, dimension.reference.columns))
    inner = textwrap.indent(_needed(fact, parent), "    ")
    return (
        f"WHERE {key_expression(dimension.reference.target_columns)} IN (\n"
        f"    SELECT {columns} FROM cdc.{quoted(holder.storage)}\n{inner}\n)"
    )


def _tombstones(fact: Fact) -> str:
    names = ", ".join(map(quoted, _key_names(fact)))
    own = ", ".join(quoted(column.column.name) for column in fact.key)
    alive = f"SELECT {own} FROM cdc.{quoted(fact.table.storage)} FINAL\n{_needed(fact, None)}"
    indented = textwrap.indent(alive, "    ")
    return (
        f"INSERT INTO cdc.{{fact:Identifier}} ({names}, _version, _is_deleted)\n"
        f"SELECT {names}, {{version:UInt128}}, 1\nFROM touched\n"
        f"WHERE {key_expression(_key_names(fact))} NOT IN (\n{indented}\n)"
    )
