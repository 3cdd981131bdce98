"""The join of a fact's rows with its dimensions: of all live rows, and of staged ones.

A dimension of a dimension is joined with its parent first: there are fewer orders than items, so
each customer is looked up once for an order instead of once for each of its items.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from hashlib import sha256

from sluice.catalog import Dimension, Fact, FactColumn, Table
from sluice.generate.clickhouse import quoted


def select_all(fact: Fact) -> str:
    """Return the query of the rows that the fact should have, from the source tables' live rows."""
    selected = ",\n".join(
        f"    {text} AS {quoted(column.name)}"
        for text, column in zip(_sources(fact), fact.columns, strict=True)
    )
    joins = "".join(f"\n{line}" for line in _joins(fact))
    return f"SELECT\n{selected}\nFROM {_live(fact.table)} AS fact{joins}"


def differing_own(fact: Fact, table: str) -> str:
    """Return the query of keys whose own columns differ between a fact's table and its source."""
    own = [column for column in fact.columns if column.source is None]
    key = ", ".join(quoted(column.name) for column in fact.key)
    source_key = ", ".join(
        f"{quoted(column.column.name)} AS {quoted(f'_key_{at}')}"
        for at, column in enumerate(fact.key)
    )
    places = ", ".join(quoted(f"_key_{at}") for at, _ in enumerate(fact.key))
    named = ", ".join(
        f"{quoted(f'_key_{at}')} AS {quoted(column.name)}" for at, column in enumerate(fact.key)
    )
    stored = ", ".join(quoted(column.column.name) for column in own)
    carried = ", ".join(quoted(column.name) for column in own)
    return (
        f"SELECT {named} FROM (\n"
        f"    SELECT {source_key}, cityHash64(tuple({stored})) AS _row FROM {_live(fact.table)}\n"
        f"    UNION ALL\n    SELECT {key}, cityHash64(tuple({carried}))"
        f" FROM cdc.{quoted(table)} FINAL\n"
        f")\nGROUP BY {places} HAVING count() != 2 OR min(_row) != max(_row)"
    )


def fingerprint(fact: Fact) -> str:
    """Hash a fact's query and column types: it changes when the models define another fact."""
    types = [(column.name, column.clickhouse_type) for column in fact.columns]
    return sha256(f"{select_all(fact)}\n{types}".encode()).hexdigest()[:16]


def joined_rows(fact: Fact, marks: str) -> str:
    """Return the query of a staged range's facts, with `marks` as their last columns."""
    selected = "\n".join(f"    {_value(fact, None, column)}," for column in fact.columns)
    joins = "".join(_staged_joins(fact, None))
    return (
        f"SELECT\n{selected}\n    {marks}\nFROM staged_fact AS fact{joins}"
        "\nSETTINGS join_use_nulls = 0"
    )


def _behind(fact: Fact, source: str | None) -> list[Dimension]:
    return [dimension for dimension in fact.dimensions if dimension.parent == source]


def _value(fact: Fact, base: str | None, column: FactColumn) -> str:
    """Return a fact's column in the join of a source with its dimensions."""
    source, parents = column.source, {d.prefix: d.parent for d in fact.dimensions}
    while source is not None and source != base and parents[source] != base:
        source = parents[source]
    wide = source != base and _behind(fact, source)
    name = column.name if wide else column.column.name
    return f"{quoted(source or 'fact')}.{quoted(name)} AS {quoted(column.name)}"


def _staged_joins(fact: Fact, base: str | None) -> Iterator[str]:
    for dimension in _behind(fact, base):
        reference, alias = dimension.reference, quoted(dimension.prefix)
        targets, rows = list(reference.target_columns), quoted(f"staged_{dimension.prefix}")
        if _behind(fact, dimension.prefix):
            targets = [f"_target_{at}" for at, _ in enumerate(targets)]
            rows = f"(\n{textwrap.indent(_wide_rows(fact, dimension), '    ')}\n)"
        on = " AND ".join(
            f"{alias}.{quoted(target)} = {quoted(base or 'fact')}.{quoted(column)}"
            for column, target in zip(reference.columns, targets, strict=True)
        )
        yield f"\nLEFT JOIN {rows} AS {alias} ON {on}"


def _wide_rows(fact: Fact, dimension: Dimension) -> str:
    """Return a dimension's staged rows joined with its dimensions, with the fact's names."""
    base, parents = dimension.prefix, {d.prefix: d.parent for d in fact.dimensions}

    def within(source: str | None) -> bool:
        return source is not None and (source == base or within(parents[source]))

    selected = [
        f"{quoted(base)}.{quoted(target)} AS _target_{at}"
        for at, target in enumerate(dimension.reference.target_columns)
    ]
    selected += [_value(fact, base, column) for column in fact.columns if within(column.source)]
    listed = ",\n".join(f"    {line}" for line in selected)
    rows = quoted(f"staged_{base}")
    return f"SELECT\n{listed}\nFROM {rows} AS {quoted(base)}{''.join(_staged_joins(fact, base))}"


def _sources(fact: Fact) -> Iterator[str]:
    for column in fact.columns:
        yield f"{quoted(column.source or 'fact')}.{quoted(column.column.name)}"


def _joins(fact: Fact) -> Iterator[str]:
    for dimension in fact.dimensions:
        reference = dimension.reference
        parent = quoted(dimension.parent or "fact")
        alias = quoted(dimension.prefix)
        on = " AND ".join(
            f"{alias}.{quoted(target)} = {parent}.{quoted(column)}"
            for column, target in zip(reference.columns, reference.target_columns, strict=True)
        )
        yield f"LEFT JOIN {_live(dimension.table)} AS {alias} ON {on}"


def _live(table: Table) -> str:
    return f"(SELECT * FROM cdc.{quoted(table.storage)} FINAL)"
