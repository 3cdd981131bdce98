"""The present state of ClickHouse's databases `cdc` and `olap`, read by a few queries for all.

A state is as of one moment: read it again after statements that change tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sluice.catalog import Column
from sluice.clients.clickhouse import LONG_STATEMENT, ClickHouse
from sluice.errors import Refused, SluiceError, Unreachable
from sluice.generate.clickhouse import MACHINE_COLUMNS, literal

_MACHINE = frozenset([*(name for name, _ in MACHINE_COLUMNS), "_ingested_at"])
_NAMED = "database IN ('cdc', 'olap') AND ({all:UInt8} OR %s IN {names:Array(String)})"
_TABLES = f"""
SELECT concat(database, '.', name), engine, engine_full, as_select, comment
FROM system.tables WHERE {_NAMED % "name"}
"""
_COLUMNS = f"""
SELECT concat(database, '.', table), name, type, is_in_sorting_key
FROM system.columns WHERE {_NAMED % "table"} ORDER BY position
"""
_INDEXES = f"""
SELECT concat(database, '.', table), name, expr
FROM system.data_skipping_indices WHERE {_NAMED % "table"}
"""
_OVER = re.compile(r"'cdc', '((?:\\.|[^'\\])+)'")
_FROM = re.compile(r"FROM cdc\.(`(?:\\.|[^`\\])+`|\w+)")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table or view as ClickHouse has it.

    Attributes:
        engine: its engine, and that with its parameters.
        query: the query of a view.
        columns: column -> type, in order.
        ordered: the columns of its order key.
        indexes: skipping index -> expression.
    """

    engine: str
    full_engine: str
    query: str
    comment: str
    columns: dict[str, str] = field(default_factory=dict)
    ordered: set[str] = field(default_factory=set)
    indexes: dict[str, str] = field(default_factory=dict)

    @property
    def own_columns(self) -> dict[str, str]:
        """Return column -> type, without machine columns."""
        return {name: kind for name, kind in self.columns.items() if name not in _MACHINE}

    @property
    def over(self) -> str:
        """Return the table in `cdc` that a Distributed table or a view reads; empty for others."""
        match = (
            _OVER.search(self.full_engine)
            if self.engine == "Distributed"
            else _FROM.search(self.query)
        )
        return unquoted(match[1]) if match else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The tables and views of `cdc` and `olap` on the server that Sluice is connected to.

    Attributes:
        relations: `database.name` -> table or view.
        types: type as the models spell it -> type as ClickHouse does, or its refusal.
    """

    relations: Mapping[str, Relation]
    types: Mapping[str, str | SluiceError]

    def columns(self, table: str) -> dict[str, str]:
        """Return column -> type of a table in `cdc`, without machine columns; empty without it."""
        relation = self.relations.get(f"cdc.{table}")
        return relation.own_columns if relation else {}

    def local(self, table: str) -> str:
        """Return the name of the table that holds the rows of a table in `cdc` on each server."""
        relation = self.relations.get(f"cdc.{table}")
        return relation.over if relation and relation.engine == "Distributed" else table

    def stored(self, table: str) -> Relation | None:
        """Return the table that holds the rows of a table in `cdc` on this server."""
        return self.relations.get(f"cdc.{self.local(table)}")

    def spelled(self, structure: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Return column -> type in ClickHouse's spelling.

        Raises:
            SluiceError: ClickHouse does not know a type.
        """
        spelled = {}
        for name, kind in structure:
            answer = self.types[kind]
            if isinstance(answer, SluiceError):
                raise answer
            spelled[name] = answer
        return spelled


def unquoted(name: str) -> str:
    """Return a name as it is, from its form in a statement."""
    return re.sub(r"\\(.)", r"\1", name.strip("`"))


def read_present(
    clickhouse: ClickHouse, kinds: Iterable[str], names: Collection[str] | None = None
) -> Present:
    """Read the present state, by a number of queries that does not grow with the tables.

    Args:
        kinds: types of the models, to be had in ClickHouse's spelling.
        names: tables to read, with those that they read from. Default: None, for all.
    """
    relations = _relations(clickhouse, names)
    if names is not None:
        further = {relation.over for relation in relations.values()} - {"", *names}
        relations |= _relations(clickhouse, further) if further else {}
    return Present(relations=relations, types=_spelled(clickhouse, kinds))


def kinds_of(columns: Iterable[Column]) -> set[str]:
    """Return the distinct types of columns."""
    return {column.clickhouse_type for column in columns}


def _relations(clickhouse: ClickHouse, names: Collection[str] | None) -> dict[str, Relation]:
    relations, chosen = listed(clickhouse, names), _chosen(names)
    # A table that was created or dropped between two queries is left out.
    for place, name, kind, is_key in clickhouse.execute(_COLUMNS, **chosen):
        if relation := relations.get(place):
            relation.columns[name] = kind
            if is_key:
                relation.ordered.add(name)
    for place, name, expression in clickhouse.execute(_INDEXES, **chosen):
        if relation := relations.get(place):
            relation.indexes[name] = expression
    return relations


def listed(clickhouse: ClickHouse, names: Collection[str] | None = None) -> dict[str, Relation]:
    """Read the server's tables and views, without their columns and indexes."""
    return {
        place: Relation(engine=engine, full_engine=full_engine, query=query, comment=comment)
        for place, engine, full_engine, query, comment in clickhouse.execute(
            _TABLES, **_chosen(names)
        )
    }


def _chosen(names: Collection[str] | None) -> dict[str, Any]:
    return {"all": int(names is None), "names": sorted(names or ())}


def _spelled(clickhouse: ClickHouse, kinds: Iterable[str]) -> dict[str, str | SluiceError]:
    """Return type -> type in ClickHouse's spelling, or the error of one that it refuses."""

    def ask(batch: Sequence[str]) -> Mapping[str, str]:
        lines = ", ".join(f"t{at} {kind}" for at, kind in enumerate(batch))
        spelled = {
            row[0]: row[1] for row in clickhouse.execute(describe(f"null({literal(lines)})"))
        }
        return {kind: spelled.get(f"t{at}", kind) for at, kind in enumerate(batch)}

    return answers(ask, {kind: len(kind) for kind in sorted(set(kinds))})


def describe(rows: str) -> str:
    """Return the query of the columns and types of a query or table function."""
    return f"DESCRIBE TABLE {rows}"


def answers(
    ask: Callable[[Sequence[str]], Mapping[str, T]], sizes: Mapping[str, int]
) -> dict[str, T | SluiceError]:
    """Ask ClickHouse about many items in few statements; return an answer or error for each.

    An item that ClickHouse refuses stops no other: the items are asked for again by halves.

    Args:
        ask: returns the answers for some of the items.
        sizes: item -> bytes that it adds to the statement.

    Raises:
        Unreachable, Refused: the server answers nothing at present.
    """
    found: dict[str, T | SluiceError] = {}
    for batch in _batches(sizes):
        found |= _halved(ask, batch)
    return found


def _halved(
    ask: Callable[[Sequence[str]], Mapping[str, T]], batch: Sequence[str]
) -> dict[str, T | SluiceError]:
    try:
        return dict(ask(batch))
    except (Unreachable, Refused):
        raise
    except SluiceError as error:
        if len(batch) == 1:
            return {batch[0]: error}
    middle = len(batch) // 2
    return _halved(ask, batch[:middle]) | _halved(ask, batch[middle:])


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield items whose statement stays below the size that needs raised limits."""
    batch: list[str] = []
    total = 0
    for item, size in sizes.items():
        if batch and total + size > LONG_STATEMENT // 2:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size + 10
    if batch:
        yield batch
