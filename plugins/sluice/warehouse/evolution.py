"""Evolution of the source tables in ClickHouse: their differences from the models, and statements.

Safe changes are applied: a column added, widened, or dropped unless another is added. Any other
change leaves its table as it is and suggests statements to a person (TableDiffers); other tables
continue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sluice.catalog import Column, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import NotReady, SluiceError, TableDiffers
from sluice.generate.clickhouse import column_line, quoted
from sluice.settings import ONE_SERVER, Cluster
from sluice.warehouse.present import Present, kinds_of, read_present
from sluice.warehouse.star_form import former_rollups
from sluice.warehouse.widening import widens


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


def differing(clickhouse: ClickHouse, tables: Sequence[Table]) -> dict[str, SluiceError]:
    """Return table name -> error, of the tables that ClickHouse lacks or that differ from models.

    The number of queries does not grow with the tables.
    """
    present, errors = present_of(clickhouse, tables), {}
    for table in tables:
        if (error := _difference(present, table, clickhouse.cluster)) is not None:
            errors[table.name] = error
    return errors


def _difference(present: Present, table: Table, cluster: Cluster) -> SluiceError | None:
    try:
        same = plan_of(present, table, cluster) == Plan()
    except SluiceError as error:  # ClickHouse does not know a type
        return error
    if not same:
        return TableDiffers(
            f"cdc.{table.storage} differs from the model of {table.name}", remedy="run: sluice init"
        )
    if not present.columns(cluster.local(table.storage)):
        return NotReady(
            f"ClickHouse has no table cdc.{table.storage} of {table.name}",
            remedy="run: sluice init",
        )
    return None


def present_of(clickhouse: ClickHouse, tables: Iterable[Table]) -> Present:
    """Read the present state of source tables."""
    listed = list(tables)
    names = [name for table in listed for name in stored_names(table, clickhouse.cluster)]
    kinds = kinds_of(column for table in listed for column in table.columns)
    return read_present(clickhouse, kinds, names)


def evolve(clickhouse: ClickHouse, table: Table, present: Present) -> Plan:
    """Apply the safe statements to the table, if it exists; return the plan.

    Raises:
        TableDiffers: a person has to choose; nothing was changed.
    """
    cluster = clickhouse.cluster
    plan = plan_of(present, table, cluster)
    if plan.safe:  # another `sluice init` may have changed the table since the state was read
        plan = plan_of(present_of(clickhouse, [table]), table, cluster)
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


def plan_of(present: Present, table: Table, cluster: Cluster = ONE_SERVER) -> Plan:
    """Return the plan of `evolve`; an empty one where the table does not exist yet.

    Raises:
        SluiceError: ClickHouse does not know a type of the model.
    """
    feed, history, storage = stored_names(table, cluster)
    columns = present.columns(storage)
    if not columns:
        return _moved(present, table, cluster)
    wanted = present.spelled((column.name, column.clickhouse_type) for column in table.columns)
    reading = present.relations.get(f"cdc.{feed}")
    return plan(
        table,
        wanted,
        columns,
        present.columns(history),
        present.relations[f"cdc.{storage}"].ordered,
        # A drop narrows the feed and widens it again; an interrupted drop left it narrowed.
        narrowed=reading is not None and "EXCEPT" in reading.query.upper(),
        cluster=cluster,
    )


def _moved(present: Present, table: Table, cluster: Cluster) -> Plan:
    """Return a plan where the rows are in a table of another name, else an empty one.

    A model was renamed, or became a fact or ceased to be one. A new table would stay empty.
    """
    feed, _, storage = stored_names(table, cluster)
    reading = present.relations.get(f"cdc.{feed}")
    former = reading.over if reading else ""
    # A table from before the cluster has the name without `__local`: see docs/scale.md.
    if former in ("", storage, table.storage) or not present.columns(former):
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
            *_drops_of_fact(present, name),
        ),
    )


def _drops_of_fact(present: Present, source: str) -> list[str]:
    """Return the drops of the former fact of a table, and of its rollups.

    Views first, so that none reads a dropped table.
    """
    if not source.startswith("src_"):
        return []
    fact = f"fact_{source.removeprefix('src_')}"
    bases = [fact, *former_rollups(present, fact)]
    places = [place.partition(".")[::2] for place in present.relations]
    return [
        f"DROP {kind} IF EXISTS {database}.{quoted(name)} SYNC"
        for database, kind in (("olap", "VIEW"), ("cdc", "TABLE"))
        for name in sorted(name for of, name in places if of == database)
        if name in bases or (kind == "TABLE" and name.startswith(tuple(f"{b}__" for b in bases)))
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
        advised = [f"DROP TABLE cdc.{quoted(name)}" for name in stored_names(table, cluster)]
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
    feed, history, storage = (f"cdc.{quoted(name)}" for name in stored_names(table, cluster))
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
    feed, history, storage = (f"cdc.{quoted(name)}" for name in stored_names(table, cluster))
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


def stored_names(table: Table, cluster: Cluster) -> tuple[str, str, str]:
    """Return the names of a table's feed, history and current state, as each server has them."""
    return f"{table.history}_feed", cluster.local(table.history), cluster.local(table.storage)


def _listed(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names))
