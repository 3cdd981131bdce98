"""Rollups of a fact: sums by groups, from a mark in the models.

Before a rebuild writes, it durably notes the groups of the rows that it replaces and writes; after
that it adds its changes to their sums. The next rebuild recomputes the groups that another one
noted and did not finish; star/rollups.py decides which.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from sluice.catalog import Fact, Rollup
from sluice.generate.clickhouse import (
    distributed_table,
    filled,
    index,
    key_expression,
    literal,
    on_cluster,
    quoted,
    view,
)
from sluice.generate.joins import fingerprint
from sluice.generate.statements import RollupStatements
from sluice.settings import Cluster

# A rollup is small and lives on the first shard alone, where one insert is one part.
_FIRST_SHARD = "0"
# One insert is one part, so that readers see all of it or nothing; it has each key once.
WHOLE = (
    "SETTINGS optimize_on_insert = 0, max_insert_threads = 1,"
    " min_insert_block_size_rows = 1000000000, min_insert_block_size_bytes = 100000000000"
)

_UNSETTLED = "_rebuild NOT IN {settled:Array(UUID)}"
_NO_REBUILD = "toUUID('00000000-0000-0000-0000-000000000000')"


def noted(rollup: str) -> str:
    """Return the name of the table of a rollup's groups to recompute."""
    return f"{rollup}__touched"


def changed(rollup: Rollup) -> str:
    """Return the name of the temporary table of a rebuild's changes to each group."""
    return f"{rollup.name}__changed"


def rollup_statements(fact: Fact, rollup: Rollup, cluster: Cluster) -> RollupStatements:
    """Return the statements of one rollup."""
    name, local, over = rollup.name, cluster.local(rollup.name), None
    if cluster.name:
        over = on_cluster(distributed_table(cluster, name, local, _FIRST_SHARD), cluster)
    return RollupStatements(
        table=on_cluster(_table(fact, rollup, local), cluster),
        distributed=over,
        noted=on_cluster(_noted_table(rollup), cluster),
        noted_by=on_cluster(_noted_by(rollup), cluster),
        view=on_cluster(_view(rollup), cluster),
        change=_change(fact, rollup),
        note=_note(rollup),
        announce=_announce(rollup),
        read=_read(rollup),
        unsettled=_unsettled(rollup),
        add=_add(rollup),
        sum_touched=_sum(rollup, f" FINAL{_noted_rows(fact, rollup)}", only_noted=True),
        sum_all=_sum(rollup, " FINAL", only_noted=False),
        sum_filled=_sum(rollup, "", only_noted=False),
    )


def made_of(fact: Fact, rollups: Iterable[Rollup]) -> str:
    """Return the comment of a fact's or rollup's table: its definition as JSON.

    A table whose comment differs was created from other models.
    """
    sums = {rollup.name: {"by": dict(rollup.by), "sum": dict(rollup.sums)} for rollup in rollups}
    return json.dumps({"rows": fingerprint(fact), "rollups": sums})


def rollup_indexes(fact: Fact) -> Iterator[str]:
    """Yield the fact's indexes that find a group's rows: of computed expressions, such as days.

    Columns of keys and dates have an index of their own; of other columns one would skip nothing.
    The index is a set of values, as a function that wraps has no usable range.
    """
    plain = {column.name for column in fact.columns}
    for rollup in fact.table.rollups:
        for name, expression in rollup.by:
            if expression not in plain:
                yield index(f"{rollup.name}__{name}", expression, "set(100)")


def rollup_rows(fact: Fact, rollup: Rollup) -> str:
    """Return the query of a rollup over no facts, which has the types of its columns.

    It takes the fact's columns from the models, as the table has others until it is rebuilt.
    """
    columns = [f"{quoted(column.name)} {column.clickhouse_type}" for column in fact.columns]
    sums = "".join(
        f", sum(_value_{at}) AS {quoted(name)}" for at, (name, _) in enumerate(rollup.sums)
    )
    return (
        f"SELECT {_named_groups(rollup)}, count() AS facts{sums},"
        " toUInt128(0) AS _version, toUInt8(0) AS _is_deleted\n"
        f"FROM (SELECT {_aliased(rollup)} FROM null({literal(filled(columns))}))\n"
        f"GROUP BY {_group_aliases(rollup)}"
    )


def differing_groups(fact: Fact, rollup: Rollup) -> str:
    """Return the query of groups whose sums over the fact differ from the rollup's.

    Floats may differ in their last digits, which depend on the order of additions.
    """
    names = [name for name, _ in rollup.sums]
    listed = ", ".join([_groups(rollup), "facts", *map(quoted, names)])
    sums = "".join(f", sum(_value_{at}) AS {quoted(name)}" for at, name in enumerate(names))
    differs = " OR ".join(["count() != 2", "min(facts) != max(facts)", *map(_differs, names)])
    return (
        f"SELECT {_groups(rollup)} FROM (\n"
        f"    SELECT {listed} FROM (\n"
        f"        SELECT {_named_groups(rollup)}, count() AS facts{sums}\n"
        f"        FROM (SELECT {_aliased(rollup)} FROM cdc.{quoted(fact.name)} FINAL)\n"
        f"        GROUP BY {_group_aliases(rollup)}\n    )\n"
        f"    UNION ALL\n    SELECT {listed} FROM cdc.{quoted(rollup.name)} FINAL\n"
        f")\nGROUP BY {_groups(rollup)} HAVING {differs}"
    )


def _differs(name: str) -> str:
    """Return the condition that two values of a sum differ; either may be NULL."""
    column = quoted(name)
    gap, size = f"abs(max({column}) - min({column}))", f"max(abs({column}))"
    return (
        f"if(match(any(toTypeName({column})), 'Float'), ifNull({gap} > 1e-9 * {size}, 0),"
        f" uniqExact(tuple({column})) > 1)"
    )


def noted_groups(rollup: Rollup) -> str:
    """Return the query of groups that were noted and are not `settled` yet."""
    return f"{_to_sum(rollup)} AND {_UNSETTLED}"


def replaces_all(rollup: Rollup) -> str:
    """Return the query whether an unsettled rebuild announced all groups; see `_announce`."""
    default = " AND ".join(
        f"ifNull({column} = defaultValueOfArgumentType({column}), isNull({column}))"
        for column in (quoted(name) for name, _ in rollup.by)
    )
    return (
        f"SELECT count() > 0 FROM cdc.{quoted(noted(rollup.name))}"
        f" WHERE _version >= {{since:UInt128}} AND {_UNSETTLED} AND {default}"
    )


def _groups(rollup: Rollup) -> str:
    return ", ".join(quoted(name) for name, _ in rollup.by)


def _aliased(rollup: Rollup) -> str:
    """Return the groups and summed values of a fact's row.

    Their aliases are no column's names, as ClickHouse would substitute them in other expressions.
    """
    groups = [f"{expression} AS _group_{at}" for at, (_, expression) in enumerate(rollup.by)]
    values = [f"{expression} AS _value_{at}" for at, (_, expression) in enumerate(rollup.sums)]
    return ", ".join([*groups, *values])


def _group_aliases(rollup: Rollup) -> str:
    return ", ".join(f"_group_{at}" for at, _ in enumerate(rollup.by))


def _named_groups(rollup: Rollup) -> str:
    return ", ".join(f"_group_{at} AS {quoted(name)}" for at, (name, _) in enumerate(rollup.by))


def _table(fact: Fact, rollup: Rollup, name: str) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS cdc.{quoted(name)}\n"
        f"ENGINE = ReplacingMergeTree(_version, _is_deleted)\nORDER BY ({_groups(rollup)})\n"
        "SETTINGS allow_nullable_key = 1\n"
        f"COMMENT {literal(made_of(fact, [rollup]))}\n"
        f"EMPTY AS\n{rollup_rows(fact, rollup)}"
    )


def _noted_table(rollup: Rollup) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS cdc.{quoted(noted(rollup.name))}\n"
        "ENGINE = MergeTree\nORDER BY _version\nEMPTY AS\n"
        f"SELECT {_groups(rollup)}, toUInt128(0) AS _version, {_NO_REBUILD} AS _rebuild\n"
        f"FROM cdc.{quoted(rollup.name)}"
    )


def _noted_by(rollup: Rollup) -> str:
    """Return the upgrade of tables from before notes named their rebuild."""
    return f"ALTER TABLE cdc.{quoted(noted(rollup.name))} ADD COLUMN IF NOT EXISTS _rebuild UUID"


def _view(rollup: Rollup) -> str:
    names = [name for name, _ in rollup.by] + ["facts"] + [name for name, _ in rollup.sums]
    return view(rollup.name, names)


def _change(fact: Fact, rollup: Rollup) -> str:
    """Return the change to each group: the staged rows, less the live rows that they replace.

    Groups of older versions are among them with no change: an earlier sum may still contain them.
    """
    names = [column.name for column in fact.key]
    key, listed = key_expression(names), ", ".join(map(quoted, names))
    sums = "".join(f", sum(_sign * _value_{at}) AS _sum_{at}" for at, _ in enumerate(rollup.sums))
    newest = f"row_number() OVER (PARTITION BY {listed} ORDER BY _version DESC) = 1"
    return (
        f"CREATE TEMPORARY TABLE {quoted(changed(rollup))} ENGINE = Memory AS\n"
        f"SELECT {_named_groups(rollup)}, sum(_sign) AS _facts{sums}\nFROM (\n"
        f"    SELECT {_aliased(rollup)}, if({newest}, -1, 0) AS _sign, _is_deleted\n"
        f"    FROM cdc.{{fact:Identifier}} WHERE {key} IN (SELECT {listed} FROM joined)\n"
        f"    UNION ALL\n    SELECT {_aliased(rollup)}, 1, _is_deleted FROM joined\n"
        f")\nWHERE _is_deleted = 0\nGROUP BY {_group_aliases(rollup)}"
    )


def _note(rollup: Rollup) -> str:
    return (
        f"INSERT INTO cdc.{quoted(noted(rollup.name))} ({_groups(rollup)}, _version, _rebuild)\n"
        f"SELECT {_groups(rollup)}, {{version:UInt128}}, {{rebuild:UUID}}"
        f" FROM {quoted(changed(rollup))}"
    )


def _announce(rollup: Rollup) -> str:
    """Return the insert of a note without a group, which announces all groups."""
    return (
        f"INSERT INTO cdc.{quoted(noted(rollup.name))} (_version, _rebuild)"
        " SELECT {version:UInt128}, {rebuild:UUID}"
    )


def _read(rollup: Rollup) -> str:
    """Return the insert of the present sums beside their changes.

    All versions of a row have the same group, so PREWHERE may run before FINAL; hashes are faster.
    """
    sums = "".join(f", {quoted(name)}" for name, _ in rollup.sums)
    whole = f"({_groups(rollup)})" if len(rollup.by) > 1 else _groups(rollup)
    hashed, groups = f"cityHash64(tuple({_groups(rollup)}))", quoted(changed(rollup))
    return (
        f"INSERT INTO {groups}\nSELECT {_groups(rollup)}, facts{sums}\n"
        f"FROM cdc.{quoted(rollup.name)} FINAL\n"
        f"PREWHERE {hashed} IN (SELECT {hashed} FROM {groups})\n"
        f"WHERE {whole} IN (SELECT {_groups(rollup)} FROM {groups})\n"
        "SETTINGS transform_null_in = 1"
    )


def _unsettled(rollup: Rollup) -> str:
    """Return the query whether adding is unsafe.

    It is where rebuilds other than this and the last have noted groups, and where a sum cannot be
    subtracted from, as of floats and nullable values.
    """
    names = ", ".join(literal(name) for name, _ in rollup.sums)
    return (
        f"SELECT count() > 0 OR (\n    SELECT count() FROM system.columns\n"
        f"    WHERE database = 'cdc' AND table = {literal(rollup.name)} AND name IN ({names})\n"
        "        AND match(type, 'Float|Nullable')\n) > 0\n"
        f"FROM cdc.{quoted(noted(rollup.name))}\nWHERE _version >= {{since:UInt128}}\n"
        f"    AND (_rebuild NOT IN ({{rebuild:UUID}}, {{last:UUID}}) OR _rebuild = {_NO_REBUILD})"
    )


def _add(rollup: Rollup) -> str:
    """Return the insert of the sums with their changes added."""
    sums = "".join(f"sum(_sum_{at}), " for at, _ in enumerate(rollup.sums))
    return (
        f"INSERT INTO cdc.{quoted(rollup.name)}\n"
        f"SELECT {_groups(rollup)}, sum(_facts) AS live, {sums}{{version:UInt128}}, live = 0\n"
        f"FROM {quoted(changed(rollup))}\nGROUP BY {_groups(rollup)}\n{WHOLE}"
    )


def _to_sum(rollup: Rollup, beside: str = "") -> str:
    return (
        f"SELECT {_groups(rollup)}{beside} FROM cdc.{quoted(noted(rollup.name))}"
        " WHERE _version >= {since:UInt128}"
    )


def _sum(rollup: Rollup, rows: str, *, only_noted: bool) -> str:
    """Return the insert of sums by group, and of delete markers for groups without facts.

    A noted group always gets a marker, as a concurrent rebuild may be about to write its sum. One
    insert, so that no reader sees a row that moved in two groups or in none.
    """
    zeros = ", 0" * len(rollup.sums)
    sums = "".join(f"sumIf(_value_{at}, _facts = 1), " for at in range(len(rollup.sums)))
    groups = (
        _to_sum(rollup, f"{zeros}, 0")
        if only_noted
        else (f"SELECT {_groups(rollup)}{zeros}, 0 FROM cdc.{quoted(rollup.name)} FINAL")
    )
    return (
        f"INSERT INTO cdc.{quoted(rollup.name)}\n"
        f"SELECT {_group_aliases(rollup)}, countIf(_facts = 1) AS live, {sums}{{version:UInt128}},"
        " live = 0\nFROM (\n"
        f"    SELECT {_aliased(rollup)}, 1 AS _facts\n"
        f"    FROM cdc.{{fact:Identifier}}{rows}\n"
        f"    UNION ALL\n    {groups}\n"
        f")\nGROUP BY {_group_aliases(rollup)}\n{WHOLE}, transform_null_in = 1"
    )


def _noted_rows(fact: Fact, rollup: Rollup) -> str:
    """Return the conditions of the rows of noted groups.

    First the keys are found in any version of their rows, by a hash of the group, which is faster
    than the group, and by indexes. FINAL then merges only the rows of these keys.
    """
    plain = {column.name for column in fact.columns}
    since = f"FROM cdc.{quoted(noted(rollup.name))} WHERE _version >= {{since:UInt128}}"
    hashes = f"SELECT cityHash64(tuple({_groups(rollup)})) {since}"
    group = ", ".join(expression for _, expression in rollup.by)
    conditions = [
        f"({expression}) IN (SELECT {quoted(name)} {since})"
        for name, expression in rollup.by
        if expression not in plain
    ] + [f"cityHash64(tuple({group})) IN ({hashes})"]
    names = [column.name for column in fact.key]
    keys = (
        f"SELECT {', '.join(map(quoted, names))} FROM cdc.{{fact:Identifier}}\n        WHERE "
        + "\n        AND ".join(conditions)
    )
    return (
        f"\n    PREWHERE {key_expression(names)} IN (\n        {keys}\n    )"
        f"\n    WHERE ({group}) IN ({_to_sum(rollup)})"
    )
