"""The form of facts and rollups in ClickHouse: whether the models would create the same tables.

A fact is derived from the source tables, so one that differs is rebuilt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from sluice.catalog import Fact, Rollup
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.generate.rollups import made_of, rollup_rows
from sluice.generate.star import date_range, ranged
from sluice.warehouse.present import Present, answers, describe, read_present

Version = tuple[int, ...]


def differs(present: Present, fact: Fact, newest: Version, table: str = "") -> bool:
    """Whether the fact's table, or the named one, differs from the models or the release.

    Args:
        newest: the newest release among the servers.
    """
    stored = present.stored(table or fact.name)
    if stored is None:
        return False
    wanted = present.spelled((column.name, column.clickhouse_type) for column in fact.columns)
    return (
        present.columns(table or fact.name) != wanted
        or stored.ordered != {column.name for column in fact.key}
        or stored.comment != made_of(fact, fact.table.rollups)
        or _date_index_differs(stored.indexes, fact, newest)
    )


def fact_differs(clickhouse: ClickHouse, fact: Fact, table: str = "") -> bool:
    """Read the present state of one fact's table, or the named one; return its `differs`."""
    present = read_present(clickhouse, kinds_of_facts([fact]), [table or fact.name])
    return differs(present, fact, clickhouse.newest(), table)


def kinds_of_facts(facts: Iterable[Fact]) -> set[str]:
    """Return the distinct types of the facts' columns."""
    return {column.clickhouse_type for fact in facts for column in fact.columns}


def _date_index_differs(indexes: dict[str, str], fact: Fact, newest: Version) -> bool:
    """Whether the date's index is for another release of ClickHouse: it may hide rows."""
    if fact.date is None:
        return False
    expression = indexes.get(date_range(fact.date), "")
    return expression.replace("`", "") != ranged(fact.date, newest).replace("`", "")


def rollups_made(
    clickhouse: ClickHouse, facts: Iterable[Fact], present: Present
) -> dict[str, bool | SluiceError]:
    """Return rollup -> whether it exists with the models' sums, groups, types and facts.

    The error is ClickHouse's, of a rollup that it refuses.
    """
    rollups = {rollup.name: (fact, rollup) for fact in facts for rollup in fact.table.rollups}
    made: dict[str, bool | SluiceError] = {}
    for name, types in _rollup_types(clickhouse, rollups).items():
        fact, rollup = rollups[name]
        stored = present.stored(name)
        made[name] = (
            types
            if isinstance(types, SluiceError)
            else present.columns(name) == types
            and stored is not None
            and stored.comment == made_of(fact, [rollup])
        )
    return made


def _rollup_types(
    clickhouse: ClickHouse, rollups: dict[str, tuple[Fact, Rollup]]
) -> dict[str, dict[str, str] | SluiceError]:
    """Return rollup -> column -> type, without machine columns."""
    rows = {name: rollup_rows(fact, rollup) for name, (fact, rollup) in rollups.items()}

    def ask(batch: Sequence[str]) -> dict[str, dict[str, str]]:
        joined = ", ".join(f"({rows[name]}) AS r{at}" for at, name in enumerate(batch))
        listed = ", ".join(f"r{at}.*" for at in range(len(batch)))
        described = iter(clickhouse.execute(describe(f"(SELECT {listed} FROM {joined})")))
        types = {}
        for name in batch:
            _, rollup = rollups[name]
            names = [*(n for n, _ in rollup.by), "facts", *(n for n, _ in rollup.sums)]
            types[name] = {column: next(described)[1] for column in names}
            next(described), next(described)  # _version and _is_deleted
        return types

    return answers(ask, {name: len(query.encode()) for name, query in rows.items()})


def outdated(clickhouse: ClickHouse, facts: Sequence[Fact]) -> dict[str, str]:
    """Return fact -> which of its table and rollups differs from the models, by its comment."""
    comments = {
        (fact.name, name): made_of(fact, rollups)
        for fact in facts
        for name, rollups in [
            (fact.name, fact.table.rollups),
            *((rollup.name, (rollup,)) for rollup in fact.table.rollups),
        ]
    }
    present = read_present(clickhouse, (), [name for _, name in comments])
    return {
        fact: name
        for (fact, name), comment in comments.items()
        if (stored := present.stored(name)) is None or stored.comment != comment
    }


def former_rollups(present: Present, fact: str) -> set[str]:
    """Return the fact's rollups at its last full rebuild."""
    stored = present.stored(fact)
    try:
        return set(json.loads((stored and stored.comment) or "{}").get("rollups", ()))
    except ValueError:  # a comment of an earlier version
        return set()
