"""Describes the relations of database `olap`, for people who write queries on them.

What is there, with types, is ClickHouse's word; descriptions come from the models where ClickHouse
has no comment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sluice.catalog import Catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.generate.clickhouse import quoted

SAMPLE = 3  # rows
_LONGEST = 200  # characters of a value
_SECONDS = 3  # for the sample, which in a view with groups reads all rows
_RELATIONS = """
SELECT name, if(endsWith(engine, 'View'), 'view', 'table'), comment
FROM system.tables WHERE database = 'olap' ORDER BY name
"""
_COUNTS = "SELECT table, count() FROM system.columns WHERE database = 'olap' GROUP BY table"
_COLUMNS = """
SELECT name, type, comment FROM system.columns
WHERE database = 'olap' AND table = {relation:String} ORDER BY position
"""
_TIME = re.compile(r"(Nullable\()?Date")
_GROUP = re.compile(r"LowCardinality\((Nullable\()?(Fixed)?String|(Nullable\()?(Bool|Enum)")
_AMOUNT = re.compile(r"(Nullable\()?(Decimal|Float)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OlapRelation:
    """A table or view of `olap`; `columns` is their number."""

    name: str
    kind: str
    comment: str
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OlapColumn:
    """A column; `type` is ClickHouse's."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyQuery:
    """A query to copy."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedRelation:
    """A relation with its columns, and queries on it."""

    relation: OlapRelation
    columns: tuple[OlapColumn, ...]
    queries: tuple[ReadyQuery, ...]


def read_relations(clickhouse: ClickHouse, catalog: Catalog) -> tuple[OlapRelation, ...]:
    """Return the relations by name."""
    known = _relation_comments(catalog)
    counts = dict(clickhouse.execute(_COUNTS))
    return tuple(
        OlapRelation(
            name=name,
            kind=kind,
            comment=comment or known.get(name, ""),
            columns=counts.get(name, 0),
        )
        for name, kind, comment in clickhouse.execute(_RELATIONS)
    )


def describe(clickhouse: ClickHouse, catalog: Catalog, name: str) -> DescribedRelation | None:
    """Return a relation with its columns; None where there is none of this name."""
    relations = (one for one in read_relations(clickhouse, catalog) if one.name == name)
    relation = next(relations, None)
    if relation is None:
        return None
    known = _column_comments(catalog, name)
    columns = tuple(
        OlapColumn(name=column, type=kind, comment=comment or known.get(column, ""))
        for column, kind, comment in clickhouse.execute(_COLUMNS, relation=name)
    )
    return DescribedRelation(
        relation=relation, columns=columns, queries=ready_queries(name, columns)
    )


def read_sample(clickhouse: ClickHouse, of: DescribedRelation) -> tuple[dict[str, str | None], ...]:
    """Return a few rows as column -> shortened text; None for NULL.

    Raises:
        NotReady, Unreachable: the rows take longer than _SECONDS.
    """
    names = [column.name for column in of.columns]
    texts = ", ".join(
        f"toValidUTF8(leftUTF8(CAST(toString({quoted(name)}) AS Nullable(String)), {_LONGEST}))"
        for name in names
    )
    rows = clickhouse.execute(
        f"SELECT {texts} FROM olap.{quoted(of.relation.name)} LIMIT {SAMPLE}"
        f" SETTINGS max_execution_time = {_SECONDS}, max_threads = 1"  # the same rows every time
    )
    return tuple(dict(zip(names, row, strict=True)) for row in rows)


def ready_queries(relation: str, columns: tuple[OlapColumn, ...]) -> tuple[ReadyQuery, ...]:
    """Return queries that a person may begin with, by the types of the columns."""
    place = f"olap.{quoted(relation)}"
    time, group, amount = (_first(columns, kind) for kind in (_TIME, _GROUP, _AMOUNT))
    queries = [
        ReadyQuery(title="First rows", text=f"SELECT * FROM {place} LIMIT 100"),
        ReadyQuery(title="Number of rows", text=f"SELECT count() FROM {place}"),
    ]
    measures = "count()"
    if amount:
        measures += f", sum({quoted(amount)})"
    if time:
        by_day = f"SELECT toDate32({quoted(time)}), {measures}\nFROM {place}\nGROUP BY 1"
        text = f"{by_day}\nORDER BY 1 DESC LIMIT 30"
        queries.append(ReadyQuery(title=f"By day of {time}", text=text))
    if group:
        by_group = f"SELECT {quoted(group)}, {measures}\nFROM {place}\nGROUP BY 1"
        text = f"{by_group}\nORDER BY 2 DESC LIMIT 30"
        queries.append(ReadyQuery(title=f"By {group}", text=text))
    return tuple(queries)


def _first(columns: tuple[OlapColumn, ...], kind: re.Pattern[str]) -> str:
    return next((column.name for column in columns if kind.match(column.type)), "")


def _relation_comments(catalog: Catalog) -> Mapping[str, str]:
    """Return relation -> description from the models."""
    comments = {
        table.storage: table.doc or f"Rows of {table.name}"
        for table in catalog.tables
        if not table.is_fact
    }
    for fact in catalog.facts:
        comments[fact.name] = f"One row for each row of {fact.table.name}, joined with its star"
        for rollup in fact.table.rollups:
            groups = ", ".join(name for name, _ in rollup.by)
            comments[rollup.name] = f"Sums of {fact.name} by {groups}"
    return comments


def _column_comments(catalog: Catalog, relation: str) -> Mapping[str, str]:
    """Return column -> where a relation has it from, and its description in the models."""
    for table in catalog.tables:
        if table.storage == relation and not table.is_fact:
            return {column.name: column.comment for column in table.columns}
    for fact in catalog.facts:
        if fact.name == relation:
            tables = {dimension.prefix: dimension.table for dimension in fact.dimensions}
            return {
                column.name: _origin(
                    (tables[column.source] if column.source else fact.table).name,
                    column.column.name,
                    column.column.comment,
                )
                for column in fact.columns
            }
        for rollup in fact.table.rollups:
            if rollup.name == relation:
                sums = {name: f"sum of {expression}" for name, expression in rollup.sums}
                return {**dict(rollup.by), **sums}
    return {}


def _origin(table: str, column: str, comment: str) -> str:
    origin = f"{table}.{column}"
    return f"{origin}: {comment}" if comment else origin
