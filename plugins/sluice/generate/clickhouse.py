"""ClickHouse DDL of a source table: current state, history, and the view for queries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sluice.catalog import Column, Table, ordered_by
from sluice.settings import ONE_SERVER, Cluster

HISTORY = "30 DAY"

# Columns that the pipeline adds to every current-state row; see positions.py for `_version`.
MACHINE_COLUMNS = (
    ("_version", "UInt128"),
    ("_is_deleted", "UInt8"),
    ("_seq", "UInt64"),
    ("_committed_at", "DateTime64(3, 'UTC')"),
)
# Settings that FINAL needs for correct results; a view's settings override its client's.
FINAL_SETTINGS = (
    "SETTINGS use_skip_indexes_if_final_exact_mode = 1,"
    " do_not_merge_across_partitions_select_final = 0, optimize_move_to_prewhere_if_final = 0"
)
_INGESTED_AT = "_ingested_at DateTime64(3, 'UTC') DEFAULT now64(3)"


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# Words that ClickHouse parses as keywords where an identifier may stand.
_KEYWORDS = frozenset(
    "all and as asc between by case cross date desc distinct else end except exists false final"
    " format from full global group having if in inner intersect interval into is join key left"
    " like limit not null offset on or order outer prewhere right sample select set settings table"
    " then timestamp to true union user using values when where window with".split()
)


def quoted(name: str) -> str:
    """Quote an identifier for ClickHouse, with backticks only where they are needed."""
    if _PLAIN.fullmatch(name) and name not in _KEYWORDS:
        return name
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def key_expression(names: Sequence[str]) -> str:
    """Return a key as an expression: a column, or a tuple of columns."""
    columns = ", ".join(map(quoted, names))
    return columns if len(names) == 1 else f"({columns})"


def table_statements(table: Table, cluster: Cluster = ONE_SERVER) -> dict[str, str]:
    """Return name -> statement of the source table's idempotent DDL."""
    statements = {
        "current_state": _current_state(table, cluster),
        "history": _history(table, cluster),
        "history_feed": _history_feed(table, cluster),
    }
    if cluster.name:
        key = shard_key([column.name for column in table.key])
        for name, stored in (("current_state", table.storage), ("history", table.history)):
            local = cluster.local(stored)
            statements[f"{name}_distributed"] = distributed_table(cluster, stored, local, key)
    if not table.is_fact:
        statements["view"] = view(table.storage, [column.name for column in table.columns])
    return {name: on_cluster(text, cluster) for name, text in statements.items()}


def view(name: str, columns: Sequence[str]) -> str:
    """Return DDL of the `olap` view that hides machine columns and deleted rows of `cdc.<name>`."""
    listed = ",\n".join(f"    {quoted(column)}" for column in columns)
    return (
        f"CREATE OR REPLACE VIEW olap.{quoted(name)} AS\nSELECT\n{listed}\n"
        f"FROM cdc.{quoted(name)} FINAL\n{FINAL_SETTINGS}"
    )


def literal(text: str) -> str:
    """Quote a string literal for ClickHouse."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def filled(listed: Iterable[str]) -> str:
    """Join items by commas into lines of at most 96 characters; no item is broken."""
    lines: list[str] = []
    for item in listed:
        if lines and len(lines[-1]) + len(item) + 2 <= 96:
            lines[-1] += f" {item},"
        else:
            lines.append(f"{item},")
    return "\n".join(lines).removesuffix(",")


def index(name: str, expression: str, kind: str) -> str:
    """Return the column-list line of a skipping index with granularity 1."""
    return f"INDEX {quoted(name)} {expression} TYPE {kind} GRANULARITY 1"


def create_table(name: str, columns: Sequence[str], engine: Sequence[str]) -> str:
    """Return CREATE TABLE IF NOT EXISTS in `cdc` from column and engine lines."""
    listed = ",\n".join(f"    {column}" for column in columns)
    ending = "\n".join(engine)
    return f"CREATE TABLE IF NOT EXISTS cdc.{quoted(name)}\n(\n{listed}\n)\n{ending}"


def shard_key(names: Sequence[str]) -> str:
    """Return the sharding expression: of the key alone, so that one shard has all its versions."""
    return f"cityHash64({', '.join(map(quoted, names))})"


def distributed_table(cluster: Cluster, name: str, local: str, sharding: str) -> str:
    """Return DDL of the table in `cdc` that reads and writes `local` on all shards.

    It replaces an existing table atomically.
    """
    return (
        f"CREATE OR REPLACE TABLE cdc.{quoted(name)} AS cdc.{quoted(local)}\n"
        f"ENGINE = Distributed('{cluster.name}', 'cdc', {literal(local)}, {sharding})"
    )


_NAME = r"(?:`(?:\\.|[^`\\])+`|\w+)"
_ADDRESSED = re.compile(
    r"(?:CREATE (?:OR REPLACE )?(?:(?:MATERIALIZED )?VIEW|TABLE|DATABASE)(?: IF NOT EXISTS)?"
    r"|(?:ALTER|DROP) (?:TABLE|VIEW)(?: IF EXISTS)?|DELETE FROM)"
    rf" {_NAME}(?:\.{_NAME})?(?! ON CLUSTER)"
)
_ENGINE = re.compile(r"^ENGINE = (?=\w*MergeTree)(?!Replicated)", re.MULTILINE)


def on_cluster(statement: str, cluster: Cluster) -> str:
    """Return a statement with ON CLUSTER and replicated engines where the cluster has a Keeper.

    Without one it is unchanged, and has to run on each server.
    """
    if not cluster.replicated:
        return statement
    addressed = _ADDRESSED.match(statement)
    if addressed:
        end = addressed.end()
        statement = f"{statement[:end]} ON CLUSTER {quoted(cluster.name)}{statement[end:]}"
    return _ENGINE.sub("ENGINE = Replicated", statement)


def _columns(table: Table) -> list[str]:
    own = [column_line(column) for column in table.columns]
    return own + [f"{quoted(name)} {kind}" for name, kind in MACHINE_COLUMNS] + [_INGESTED_AT]


def column_line(column: Column) -> str:
    """Return the column's line in CREATE TABLE or ALTER TABLE."""
    codec = f" CODEC({column.codec})" if column.codec else ""
    return f"{quoted(column.name)} {column.clickhouse_type}{codec}"


def _key(table: Table) -> str:
    names = ordered_by(table.engine) or [column.name for column in table.key]
    return ", ".join(map(quoted, names))


def _current_state(table: Table, cluster: Cluster) -> str:
    # By the index a rebuild finds the changes since the last one without reading the table.
    columns = [*_columns(table), "INDEX _seq_range _seq TYPE minmax GRANULARITY 1"]
    engine = ["ENGINE = ReplacingMergeTree(_version, _is_deleted)", f"ORDER BY ({_key(table)})"]
    return create_table(cluster.local(table.storage), columns, [*engine, *_marked(table)])


def _marked(table: Table) -> list[str]:
    """Return the engine lines of the model's `info`.

    Rows are deduplicated only within a partition, so `partition_by` has to depend on the key alone.
    """
    lines = []
    if "partition_by" in table.engine:
        lines.append(f"PARTITION BY {table.engine['partition_by']}")
    if "settings" in table.engine:
        lines.append(f"SETTINGS {table.engine['settings']}")
    return lines


def _history(table: Table, cluster: Cluster) -> str:
    # Ordered by key and version, so a range that is drained twice adds nothing.
    engine = [
        "ENGINE = ReplacingMergeTree",
        f"ORDER BY ({_key(table)}, _version)",
        f"TTL toDateTime(_ingested_at) + INTERVAL {table.engine.get('history', HISTORY)}",
    ]
    return create_table(cluster.local(table.history), _columns(table), engine)


def _history_feed(table: Table, cluster: Cluster) -> str:
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS cdc.{quoted(table.history + '_feed')}\n"
        f"TO cdc.{quoted(cluster.local(table.history))} AS\n"
        f"SELECT *\nFROM cdc.{quoted(cluster.local(table.storage))}"
    )


def external_table(
    name: str, structure: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]
) -> Mapping[str, Any]:
    """Return rows as an external table of a query; structure is (column, type)."""
    names = [column for column, _ in structure]
    data = [dict(zip(names, row, strict=True)) for row in rows]
    return {"name": name, "structure": list(structure), "data": data}
