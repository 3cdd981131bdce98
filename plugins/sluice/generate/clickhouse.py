"""ClickHouse DDL of a source table: current state, history, and the view people query."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sluice.catalog import Column, Table, ordered_by
from sluice.settings import ONE_SERVER, Cluster

HISTORY = "30 DAY"

# What the pipeline adds to every current-state row; see positions.py for `_version`.
MACHINE_COLUMNS = (
    ("_version", "UInt128"),
    ("_is_deleted", "UInt8"),
    ("_seq", "UInt64"),
    ("_committed_at", "DateTime64(3, 'UTC')"),
)
# What decides whether FINAL is right; a view's own settings are stronger than its client's.
FINAL_SETTINGS = (
    "SETTINGS use_skip_indexes_if_final_exact_mode = 1,"
    " do_not_merge_across_partitions_select_final = 0, optimize_move_to_prewhere_if_final = 0"
)
_INGESTED_AT = "_ingested_at DateTime64(3, 'UTC') DEFAULT now64(3)"


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# Plain words that read as something else where an identifier may stand.
_KEYWORDS = frozenset(
    "all and as asc between by case cross date desc distinct else end except exists false final"
    " format from full global group having if in inner intersect interval into is join key left"
    " like limit not null offset on or order outer prewhere right sample select set settings table"
    " then timestamp to true union user using values when where window with".split()
)


def quoted(name: str) -> str:
    """An identifier as ClickHouse reads it, between backticks where a plain word will not do."""
    if _PLAIN.fullmatch(name) and name not in _KEYWORDS:
        return name
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def key_expression(names: Sequence[str]) -> str:
    """One key as an expression: a column, or a tuple of columns."""
    columns = ", ".join(map(quoted, names))
    return columns if len(names) == 1 else f"({columns})"


def table_statements(table: Table, cluster: Cluster = ONE_SERVER) -> dict[str, str]:
    """Statement name -> DDL that creates what the source table needs; each can run twice."""
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
    """The view in `olap` that hides machine columns and deleted rows of `cdc.<name>`."""
    listed = ",\n".join(f"    {quoted(column)}" for column in columns)
    return (
        f"CREATE OR REPLACE VIEW olap.{quoted(name)} AS\nSELECT\n{listed}\n"
        f"FROM cdc.{quoted(name)} FINAL\n{FINAL_SETTINGS}"
    )


def literal(text: str) -> str:
    """A string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def filled(listed: Iterable[str]) -> str:
    """The items in lines of at most 96 characters; a name with a space in it stays whole."""
    lines: list[str] = []
    for item in listed:
        if lines and len(lines[-1]) + len(item) + 2 <= 96:
            lines[-1] += f" {item},"
        else:
            lines.append(f"{item},")
    return "\n".join(lines).removesuffix(",")


def index(name: str, expression: str, kind: str) -> str:
    """A table's line of an index that skips granules, each by itself."""
    return f"INDEX {quoted(name)} {expression} TYPE {kind} GRANULARITY 1"


def create_table(name: str, columns: Sequence[str], engine: Sequence[str]) -> str:
    """CREATE TABLE IF NOT EXISTS in `cdc` from column and engine lines."""
    listed = ",\n".join(f"    {column}" for column in columns)
    ending = "\n".join(engine)
    return f"CREATE TABLE IF NOT EXISTS cdc.{quoted(name)}\n(\n{listed}\n)\n{ending}"


def shard_key(names: Sequence[str]) -> str:
    """What decides a row's shard: its key alone, so all versions of a key meet on one."""
    return f"cityHash64({', '.join(map(quoted, names))})"


def distributed_table(cluster: Cluster, name: str, local: str, sharding: str) -> str:
    """DDL of the table in `cdc` that reads and writes `local` on all shards; it takes the place
    of one that is there, at once.
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
    """The statement as a Keeper carries it to every server, with engines that it copies; without
    a Keeper as it is, and each server is to be asked in turn.
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
    """The column as a CREATE or ALTER TABLE declares it."""
    codec = f" CODEC({column.codec})" if column.codec else ""
    return f"{quoted(column.name)} {column.clickhouse_type}{codec}"


def _key(table: Table) -> str:
    names = ordered_by(table.engine) or [column.name for column in table.key]
    return ", ".join(map(quoted, names))


def _current_state(table: Table, cluster: Cluster) -> str:
    # The index lets the rebuild find what changed since it last ran without reading the table.
    columns = [*_columns(table), "INDEX _seq_range _seq TYPE minmax GRANULARITY 1"]
    engine = ["ENGINE = ReplacingMergeTree(_version, _is_deleted)", f"ORDER BY ({_key(table)})"]
    return create_table(cluster.local(table.storage), columns, [*engine, *_marked(table)])


def _marked(table: Table) -> list[str]:
    """What the model's `info` says of the table. Its rows are one only within their partition,
    so a partition is made of the key.
    """
    lines = []
    if "partition_by" in table.engine:
        lines.append(f"PARTITION BY {table.engine['partition_by']}")
    if "settings" in table.engine:
        lines.append(f"SETTINGS {table.engine['settings']}")
    return lines


def _history(table: Table, cluster: Cluster) -> str:
    # Ordered by key and version, so a range that is read twice adds nothing.
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
    """Rows that travel with a query and are a table in it; structure is (column, type)."""
    names = [column for column, _ in structure]
    data = [dict(zip(names, row, strict=True)) for row in rows]
    return {"name": name, "structure": list(structure), "data": data}
