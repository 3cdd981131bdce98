"""The star as a page: a diagram, and the source of each table's columns."""

from __future__ import annotations

from collections.abc import Iterator

from sluice.catalog import Catalog, Fact, Table


def star_page(catalog: Catalog) -> str:
    """Return the Markdown page of all facts and tables."""
    lines = [
        "# The star",
        "",
        f"Written by `sluice generate` from {catalog.models}; do not edit.",
        "",
    ]
    for fact in catalog.facts:
        lines += _fact(fact)
    for table in catalog.tables:
        lines += _table(table)
    return "\n".join(lines) + "\n"


def _fact(fact: Fact) -> Iterator[str]:
    yield f"## olap.{fact.name}"
    yield ""
    yield f"One row for each row of `{fact.table.name}`."
    yield ""
    yield from _diagram(fact)
    yield "| column | type | comes from |"
    yield "|---|---|---|"
    tables = {dimension.prefix: dimension.table for dimension in fact.dimensions}
    for column in fact.columns:
        source = tables[column.source] if column.source else fact.table
        by = f" through {column.source}" if column.source else ""
        kind = column.clickhouse_type.replace("|", "\\|")
        yield f"| {column.name} | {kind} | {source.name}.{column.column.name}{by} |"
    yield ""


def _diagram(fact: Fact) -> Iterator[str]:
    yield "```mermaid"
    yield "flowchart LR"
    yield f"    fact[{fact.name}]"
    for dimension in fact.dimensions:
        yield f"    {dimension.prefix}[{dimension.table.name}]"
        yield f"    {dimension.parent or 'fact'} -->|{dimension.reference.name}| {dimension.prefix}"
    yield "```"
    yield ""


def _table(table: Table) -> Iterator[str]:
    where = f"cdc.{table.storage}" if table.is_fact else f"olap.{table.storage}"
    yield f"## {where}"
    yield ""
    yield f"Rows of `{table.schema}.{table.relation}` by `{table.topic}`. {table.doc}".strip()
    yield ""
    yield "| column | type | |"
    yield "|---|---|---|"
    for column in table.columns:
        kind = column.clickhouse_type.replace("|", "\\|")
        yield f"| {column.name} | {kind} | {'key' if column.primary_key else ''} |"
    yield ""
