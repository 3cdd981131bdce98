"""Evolution of ClickHouse's tables: their differences from the models, and the statements to apply.

Safe changes are applied: a column added, widened, or dropped unless another is added. Any other
change leaves its table as it is and suggests statements to a person (TableDiffers); other tables
continue. A fact is derived from the source tables, so one that differs is rebuilt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluice.catalog import Column, Fact, Rollup, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import TableDiffers
from sluice.generate.clickhouse import MACHINE_COLUMNS, column_line, literal, quoted
from sluice.generate.rollups import made_of, rollup_rows
from sluice.generate.star import date_range, ranged
from sluice.settings import ONE_SERVER, Cluster

_MACHINE = frozenset([*(name for name, _ in MACHINE_COLUMNS), "_ingested_at"])
_PRESENT = """
SELECT name, type FROM system.columns WHERE database = 'cdc' AND table = {table:String}
ORDER BY position
"""
_LOCAL = """(
    SELECT if(engine = 'Distributed', extract(engine_full, '\\'cdc\\', \\'([^\\']+)\\''), name)
    FROM system.tables WHERE database = 'cdc' AND name = {table:String}
)"""
_ORDER = f"""
SELECT name FROM system.columns
WHERE database = 'cdc' AND is_in_sorting_key AND table = {_LOCAL}
"""
_COMMENT = f"SELECT comment FROM system.tables WHERE database = 'cdc' AND name = {_LOCAL}"
_INDEXED = f"""
SELECT expr FROM system.data_skipping_indices
WHERE database = 'cdc' AND table = {_LOCAL} AND name = {{index:String}}
"""
# A drop narrows the feed and widens it again; an interrupted drop left it narrowed.
_NARROWED = """
SELECT count() FROM system.tables
WHERE database = 'cdc' AND table = {table:String}
    AND positionCaseInsensitive(as_select, 'EXCEPT') > 0
"""
# The table that a history's feed reads.
_FED_BY = """
SELECT extract(as_select, 'FROM cdc\\.`?([^`\\s]+)') FROM system.tables
WHERE database = 'cdc' AND name = {table:String}
"""
# The views and tables of a fact and of rollups; views first, so that none reads a dropped table.
_OF_FACT = """
SELECT database, name FROM system.tables
WHERE database IN ('olap', 'cdc')
    AND (has({names:Array(String)}, name) OR database = 'cdc'
        AND arrayExists(base -> startsWith(name, concat(base, '__')), {names:Array(String)}))
ORDER BY database DESC, name
"""
_WRAPPED = re.compile(r"(LowCardinality|Nullable)\((.*)\)", re.DOTALL)
_INTEGER = re.compile(r"(U?Int)(\d+)")
_DECIMAL = re.compile(r"Decimal\((\d+), (\d+)\)")
_ENUM = re.compile(r"Enum(?:8|16)\((.*)\)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a source table's current state and history get the model's columns.

    Attributes:
        safe: statements that lose nothing, in order.
        differs: differences for a person, a line each; if there is any, nothing is applied.
        advised: statements from which a person chooses.
        resync: whether existing rows lack values that only PostgreSQL has.
    """

    safe: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    advised: tuple[str, ...] = ()
    resync: bool = False


def evolve(clickhouse: ClickHouse, table: Table) -> Plan:
    """Apply the safe statements to the table, if it exists; return the plan.

    Raises:
        TableDiffers: a person has to choose; nothing was changed.
    """
    plan, cluster = plan_of(clickhouse, table), clickhouse.cluster
    if plan.differs:
        where = f", on each server of {cluster.name}" if cluster.name else ""
        raise TableDiffers(
            f"table {table.name} differs from its model: {'; '.join(plan.differs)}",
            remedy="\n".join(
                [
                    f"choose and run in ClickHouse{where}:",
                    *(f"  {line};" for line in plan.advised),
                    f"then: sluice init, sluice resync {table.name}",
                ]
            ),
        )
    for statement in plan.safe:
        clickhouse.everywhere(statement)
    return plan


def plan_of(clickhouse: ClickHouse, table: Table) -> Plan:
    """Return the plan of `evolve`; an empty one where the table does not exist yet."""
    cluster = clickhouse.cluster
    present = _columns(clickhouse, cluster.local(table.storage))
    if not present:
        return _moved(clickhouse, table)
    wanted = _wanted(clickhouse, table.columns)
    storage = cluster.local(table.storage)
    ordered = {name for (name,) in clickhouse.execute(_ORDER, table=storage)}
    history = _columns(clickhouse, cluster.local(table.history))
    ((narrowed,),) = clickhouse.execute(_NARROWED, table=f"{table.history}_feed")
    return plan(table, wanted, present, history, ordered, narrowed=bool(narrowed), cluster=cluster)


def _moved(clickhouse: ClickHouse, table: Table) -> Plan:
    """Return a plan where the rows are in a table of another name, else an empty one.

    A model was renamed, or became a fact or ceased to be one. A new table would stay empty.
    """
    feed, storage = f"{table.history}_feed", clickhouse.cluster.local(table.storage)
    rows = clickhouse.execute(_FED_BY, table=feed)
    former = rows[0][0] if rows else ""
    # A table from before the cluster has the name without `__local`: see docs/scale.md.
    if former in ("", storage, table.storage) or not _columns(clickhouse, former):
        return Plan()
    name = former.removesuffix(storage.removeprefix(table.storage))
    over = [f"DROP TABLE IF EXISTS cdc.{quoted(name)}"] if name != former else []
    return Plan(
        differs=(f"its rows are in cdc.{former}, not in cdc.{storage}",),
        advised=(
            f"DROP TABLE cdc.{quoted(feed)} SYNC",
            f"DROP VIEW IF EXISTS olap.{quoted(name)}",
            *over,
            f"RENAME TABLE cdc.{quoted(former)} TO cdc.{quoted(storage)}",
            *_drops_of_fact(clickhouse, name),
        ),
    )


def _drops_of_fact(clickhouse: ClickHouse, source: str) -> list[str]:
    """Return the drops of the former fact of a table, and of its rollups."""
    if not source.startswith("src_"):
        return []
    fact = f"fact_{source.removeprefix('src_')}"
    rows = clickhouse.execute(_OF_FACT, names=[fact, *former_rollups(clickhouse, fact)])
    return [
        f"DROP {'VIEW' if database == 'olap' else 'TABLE'} IF EXISTS {database}.{quoted(name)} SYNC"
        for database, name in rows
    ]


def plan(
    table: Table,
    wanted: Mapping[str, str],
    present: Mapping[str, str],
    history: Mapping[str, str],
    ordered: set[str],
    *,
    narrowed: bool = False,
    cluster: Cluster = ONE_SERVER,
) -> Plan:
    """Plan from the types of model, current state and history, and the order key.

    Args:
        narrowed: whether the history's feed leaves columns out. Default: false.
    """
    key = {column.name for column in table.key}
    added = [name for name in wanted if name not in present]
    dropped = [name for name in present if name not in wanted]
    altered = {name for name in wanted if present.get(name, wanted[name]) != wanted[name]}
    altered |= {name for name in wanted if history.get(name, wanted[name]) != wanted[name]}
    refused = {
        name
        for name in altered
        if name in key
        or not all(
            widens(types.get(name, wanted[name]), wanted[name]) for types in (present, history)
        )
    }
    differs, advised = [], []
    if ordered != key:
        differs.append(f"its order key is {_listed(ordered)}, the model's key is {_listed(key)}")
    for name in sorted(refused):
        differs.append(
            f"column {name} is {present.get(name, history.get(name))}, not {wanted[name]}"
        )
    if differs:
        advised = [f"DROP TABLE cdc.{quoted(name)}" for name in _stored(table, cluster)]
    elif added and dropped:
        differs.append(f"{_listed(dropped)} dropped and {_listed(added)} added: renamed, or not?")
        advised = _renames(table, wanted, present, added, dropped, cluster)
    if differs:
        return Plan(differs=tuple(differs), advised=tuple(advised))
    widened = [name for name in wanted if name in altered]
    new = [column for column in table.columns if column.name in added]
    return Plan(
        safe=tuple(_statements(table, added, dropped, widened, cluster, narrowed=narrowed)),
        resync=any(column.has_default or not column.nullable for column in new),
    )


def require_same(clickhouse: ClickHouse, table: Table) -> None:
    """Raise TableDiffers unless the current state has the model's columns and types."""
    if plan_of(clickhouse, table) != Plan():
        raise TableDiffers(
            f"cdc.{table.storage} differs from the model of {table.name}", remedy="run: sluice init"
        )


def fact_differs(clickhouse: ClickHouse, fact: Fact, table: str = "") -> bool:
    """Whether the fact's table, or the named one, differs from the models or the release."""
    table = table or fact.name
    present = _columns(clickhouse, table)
    ordered = {name for (name,) in clickhouse.execute(_ORDER, table=table)}
    wanted = [(column.name, column.clickhouse_type) for column in fact.columns]
    return bool(present) and (
        present != _normal(clickhouse, wanted)
        or ordered != {column.name for column in fact.key}
        or _comment(clickhouse, table) != made_of(fact, fact.table.rollups)
        or _date_index_differs(clickhouse, fact, table)
    )


def _date_index_differs(clickhouse: ClickHouse, fact: Fact, table: str) -> bool:
    """Whether the date's index is for another release of ClickHouse: it may hide rows."""
    if fact.date is None:
        return False
    rows = clickhouse.execute(_INDEXED, table=table, index=date_range(fact.date))
    expressions = [str(expression).replace("`", "") for (expression,) in rows]
    return expressions != [ranged(fact.date, clickhouse.newest()).replace("`", "")]


def rollup_is_made(clickhouse: ClickHouse, fact: Fact, rollup: Rollup) -> bool:
    """Whether the rollup exists with the models' sums, groups, types and facts."""
    wanted = _described(clickhouse, f"({rollup_rows(fact, rollup)})")
    return _columns(clickhouse, rollup.name) == wanted and (
        _comment(clickhouse, rollup.name) == made_of(fact, [rollup])
    )


def outdated(clickhouse: ClickHouse, fact: Fact) -> list[str]:
    """Return which of the fact and its rollups differ from the models, by their comments."""
    rollups = fact.table.rollups
    comments = {fact.name: made_of(fact, rollups)}
    comments |= {rollup.name: made_of(fact, [rollup]) for rollup in rollups}
    return [name for name, comment in comments.items() if _comment(clickhouse, name) != comment]


def former_rollups(clickhouse: ClickHouse, fact: str) -> set[str]:
    """Return the fact's rollups at its last full rebuild."""
    try:
        return set(json.loads(_comment(clickhouse, fact) or "{}").get("rollups", ()))
    except ValueError:  # a comment of an earlier version
        return set()


def widens(present: str, wanted: str) -> bool:
    """Whether the wanted ClickHouse type holds every value of the present one."""
    if present == wanted:
        return True
    old, nullable = _bare(present)
    new, accepts_null = _bare(wanted)
    return (accepts_null or not nullable) and (old == new or _holds(new, old))


def _holds(new: str, old: str) -> bool:
    if (a := _INTEGER.fullmatch(old)) and (b := _INTEGER.fullmatch(new)):
        grows = int(a[2]) < int(b[2])
        return grows and (a[1] == b[1] or a[1] == "UInt")
    if (a := _DECIMAL.fullmatch(old)) and (b := _DECIMAL.fullmatch(new)):
        whole = int(a[1]) - int(a[2]) <= int(b[1]) - int(b[2])
        return whole and int(a[2]) <= int(b[2])
    if (a := _ENUM.fullmatch(old)) and (b := _ENUM.fullmatch(new)):
        return b[1].startswith(f"{a[1]}, ")
    return (old, new) == ("Float32", "Float64")


def _bare(kind: str) -> tuple[str, bool]:
    """Return the type without LowCardinality and Nullable, and whether it is nullable."""
    nullable = False
    while match := _WRAPPED.fullmatch(kind):
        nullable, kind = nullable or match[1] == "Nullable", match[2]
    return kind, nullable


def _statements(
    table: Table,
    added: Sequence[str],
    dropped: Sequence[str],
    widened: Sequence[str],
    cluster: Cluster,
    *,
    narrowed: bool,
) -> list[str]:
    """Return the ALTERs, of the history first: its feed writes every column of the current state.

    Only the history keeps dropped columns. ClickHouse does not drop a column that the feed reads,
    so the feed excludes it before, and reads all remaining columns after.
    """
    changes = []
    for column in table.columns:
        if column.name in added:
            changes.append(f"ADD COLUMN IF NOT EXISTS {column_line(column)}{_place(table, column)}")
        elif column.name in widened:
            changes.append(f"MODIFY COLUMN {column_line(column)}")
    feed, history, storage = (f"cdc.{quoted(name)}" for name in _stored(table, cluster))
    lines = [
        f"ALTER TABLE {stored} {', '.join(changes)}" for stored in (history, storage) if changes
    ]
    if dropped:
        gone = ", ".join(map(quoted, dropped))
        lines.append(f"ALTER TABLE {feed} MODIFY QUERY SELECT * EXCEPT ({gone}) FROM {storage}")
        drops = ", ".join(f"DROP COLUMN IF EXISTS {quoted(name)}" for name in dropped)
        lines.append(f"ALTER TABLE {storage} {drops}")
    if changes or dropped or narrowed:
        lines.append(f"ALTER TABLE {feed} MODIFY QUERY SELECT * FROM {storage}")
    return lines


def _place(table: Table, column: Column) -> str:
    at = table.columns.index(column)
    return f" AFTER {quoted(table.columns[at - 1].name)}" if at else " FIRST"


def _renames(
    table: Table,
    wanted: Mapping[str, str],
    present: Mapping[str, str],
    added: Sequence[str],
    dropped: Sequence[str],
    cluster: Cluster,
) -> list[str]:
    """Return renames between columns of one type, and drops for other columns.

    The feed is dropped until `sluice init` recreates it; until then the table is not drained.
    """
    feed, history, storage = (f"cdc.{quoted(name)}" for name in _stored(table, cluster))
    lines = [f"DROP TABLE {feed}"]
    lines += [
        f"ALTER TABLE {stored} RENAME COLUMN {quoted(old)} TO {quoted(new)}"
        for old in dropped
        for new in added
        if widens(present[old], wanted[new])
        for stored in (history, storage)
    ]
    drops = [f"ALTER TABLE {storage} DROP COLUMN {quoted(name)}" for name in dropped]
    return lines + drops


def _stored(table: Table, cluster: Cluster) -> tuple[str, str, str]:
    return f"{table.history}_feed", cluster.local(table.history), cluster.local(table.storage)


def _listed(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names))


def _columns(clickhouse: ClickHouse, table: str) -> dict[str, str]:
    """Return column -> ClickHouse type, without machine columns; empty without a table."""
    rows = clickhouse.execute(_PRESENT, table=table)
    return {name: kind for name, kind in rows if name not in _MACHINE}


def _comment(clickhouse: ClickHouse, table: str) -> str | None:
    rows = clickhouse.execute(_COMMENT, table=table)
    return str(rows[0][0]) if rows else None


def _wanted(clickhouse: ClickHouse, columns: Sequence[Column]) -> dict[str, str]:
    return _normal(clickhouse, [(column.name, column.clickhouse_type) for column in columns])


def _normal(clickhouse: ClickHouse, structure: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return column -> type in ClickHouse's spelling."""
    lines = ", ".join(f"{quoted(name)} {kind}" for name, kind in structure)
    return _described(clickhouse, f"null({literal(lines)})")


def _described(clickhouse: ClickHouse, rows: str) -> dict[str, str]:
    """Return column -> type of a query or table function, without machine columns."""
    described = clickhouse.execute(f"DESCRIBE TABLE {rows}")
    return {row[0]: row[1] for row in described if row[0] not in _MACHINE}
