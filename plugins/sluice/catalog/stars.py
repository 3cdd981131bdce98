"""Stars: a fact, its dimensions, and the columns of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from sluice.catalog.tables import Column, Reference, Table, clickhouse_type
from sluice.errors import WrongUsage

Place = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """A table that a fact refers to through many-to-one relationships.

    Attributes:
        prefix: prefix of its columns' names in the fact.
        parent: prefix of the dimension that refers to it; None for the fact's own table.
        reference: relationship through which `parent` refers to it.
    """

    prefix: str
    table: Table
    parent: str | None
    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class FactColumn:
    """A column of the fact and its source.

    Attributes:
        source: a dimension's prefix, or None for the fact's own table.
    """

    name: str
    source: str | None
    column: Column

    @property
    def clickhouse_type(self) -> str:
        """Return its ClickHouse type; a dimension's columns are NULL while its row is missing."""
        return clickhouse_type(
            self.column, nullable=self.column.nullable or self.source is not None
        )


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A star: the fact's own table, its dimensions (parents first) and its columns."""

    table: Table
    dimensions: tuple[Dimension, ...]
    columns: tuple[FactColumn, ...]

    @property
    def name(self) -> str:
        """Return the fact's name in `olap` and `cdc`, such as `fact_order_item`."""
        return f"fact_{self.table.entity}"

    @cached_property
    def key(self) -> tuple[FactColumn, ...]:
        """Return the columns that hold the fact's primary key."""
        return tuple(
            column for column in self.columns if column.source is None and column.column.primary_key
        )

    @cached_property
    def date(self) -> FactColumn | None:
        """Return the column of a row's date; None where the models mark none."""
        return next((column for column in self.columns if column.column.is_date), None)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Return every source table of the star, the fact's own first."""
        distinct = {self.table.name: self.table}
        distinct.update((dimension.table.name, dimension.table) for dimension in self.dimensions)
        return tuple(distinct.values())

    def fact_column(self, source: str | None, column: str) -> str:
        """Return the fact's name of a source's column; a dimension's key is its parent's column."""
        for candidate in self.columns:
            if candidate.source == source and candidate.column.name == column:
                return candidate.name
        dimension = next(d for d in self.dimensions if d.prefix == source)
        at = dimension.reference.target_columns.index(column)
        return self.fact_column(dimension.parent, dimension.reference.columns[at])


def make_fact(table: Table, tables: Mapping[Place, Table]) -> Fact:
    """Build the star of a table from the tables of a model set, by (schema, relation)."""
    dimensions = tuple(_dimensions(table, tables))
    columns = tuple(_fact_columns(table, dimensions))
    twice = [name for name, count in Counter(c.name for c in columns).items() if count > 1]
    if twice:
        raise WrongUsage(
            f"fact of {table.name}: two columns would be named {twice[0]!r}",
            remedy="rename one of the columns or relationships they come from",
        )
    if any(dimension.prefix == "fact" for dimension in dimensions):
        raise WrongUsage(
            f"fact of {table.name}: a dimension is named 'fact', as the fact is in its join",
            remedy="rename the model or relationship that it comes from",
        )
    return Fact(table=table, dimensions=dimensions, columns=columns)


def _dimensions(table: Table, tables: Mapping[Place, Table]) -> Iterator[Dimension]:
    paths = list(_paths(table, tables, ()))
    reached = Counter(path[-1].target for path in paths)
    prefixes: dict[tuple[Reference, ...], str] = {}
    for path in paths:
        target = tables[path[-1].target]
        alone = reached[path[-1].target] == 1 and target is not table
        prefix = target.entity if alone else "_".join(reference.name for reference in path)
        prefixes[path] = prefix
        yield Dimension(
            prefix=prefix,
            table=target,
            parent=prefixes.get(path[:-1]),
            reference=path[-1],
        )


def _paths(
    table: Table, tables: Mapping[Place, Table], path: tuple[Reference, ...]
) -> Iterator[tuple[Reference, ...]]:
    """Yield every path from the table through many-to-one relationships, parents first.

    A path ends before the same relationship again (a manager's manager).
    """
    for reference in table.references:
        target = tables.get(reference.target)
        if target is not None and target.in_star and reference not in path:
            longer = (*path, reference)
            yield longer
            yield from _paths(target, tables, longer)


def _fact_columns(table: Table, dimensions: tuple[Dimension, ...]) -> Iterator[FactColumn]:
    """Yield the columns: keys, then the fact's own, then each dimension's."""
    own_references = {name for reference in table.references for name in reference.columns}
    for column in table.columns:
        if column.primary_key:
            yield _fact_column(table.entity, None, column)
    for column in table.columns:
        if column.name in own_references and not column.primary_key:
            yield FactColumn(name=column.name, source=None, column=column)
    for dimension in dimensions:
        if dimension.parent is not None:
            yield from _referring_columns(dimension, dimensions)
    for column in table.columns:
        if not column.primary_key and column.name not in own_references and column.in_star:
            yield FactColumn(name=column.name, source=None, column=column)
    for dimension in dimensions:
        referring = {name for r in dimension.table.references for name in r.columns}
        for column in dimension.table.columns:
            if column.name not in referring and not column.primary_key and column.in_star:
                yield _fact_column(dimension.prefix, dimension.prefix, column)


def _referring_columns(
    dimension: Dimension, dimensions: tuple[Dimension, ...]
) -> Iterator[FactColumn]:
    """Yield the parent's columns that hold this dimension's key, named as that key."""
    parent = next(d for d in dimensions if d.prefix == dimension.parent)
    reference = dimension.reference
    for name, target in zip(reference.columns, reference.target_columns, strict=True):
        named = _prefixed(dimension.prefix, target)
        yield FactColumn(name=named, source=parent.prefix, column=parent.table.column(name))


def _fact_column(prefix: str, source: str | None, column: Column) -> FactColumn:
    return FactColumn(name=_prefixed(prefix, column.name), source=source, column=column)


def _prefixed(prefix: str, name: str) -> str:
    return name if name.startswith(f"{prefix}_") else f"{prefix}_{name}"
