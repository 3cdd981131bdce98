"""Tells which facts a rebuild would change, by a few queries for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sluice.catalog import Fact
from sluice.clients.clickhouse import ClickHouse
from sluice.warehouse.star_form import outdated


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFact:
    """A fact for which a rebuild has something to do.

    Attributes:
        formed: the identity of its table, if the table and its rollups are the models'.
    """

    fact: Fact
    formed: UUID | None

    @property
    def name(self) -> str:
        """Return the fact's name."""
        return self.fact.name


def changed_facts(
    clickhouse: ClickHouse, facts: Sequence[Fact], queries: Mapping[str, str]
) -> list[ChangedFact]:
    """Return the facts for which a rebuild has something to do.

    These are facts whose tables have changes that their last rebuild had not seen, which were never
    rebuilt, which have a rollup without sums, or whose servers read different rows.

    Args:
        queries: the statements of sql/pipeline.sql.
    """
    cluster, names = clickhouse.cluster, [fact.name for fact in facts]
    rollups = [r.name for fact in facts for r in fact.table.rollups]
    listed = [*names, *rollups, *map(cluster.local, rollups)]
    storages, rows = dict[str, UUID](), dict[str, int | None]()
    for name, storage, count in clickhouse.execute(queries["storages"], names=listed):
        storages[name], rows[name] = storage, count
    seen = {
        (fact, storage): changes
        for fact, storage, changes in clickhouse.execute(queries["seen_by_all"])
    }
    drained = dict(clickhouse.execute(queries["drained"]))
    straying = {
        name
        for query in (["straying"] if cluster.name else [])
        for (name,) in clickhouse.execute(queries[query], cluster=cluster.name, names=names)
    }

    def changed(fact: Fact) -> bool:
        now = {table.name: drained.get(table.name, 0) for table in fact.tables}
        unsummed = rows.get(fact.name) != 0 and any(
            rows.get(cluster.local(rollup.name)) == 0 for rollup in fact.table.rollups
        )
        return (
            seen.get((fact.name, storages.get(fact.name))) != now
            or unsummed
            or fact.name in straying
        )

    found = [fact for fact in facts if changed(fact)]
    # After the identities were read: a table that is exchanged meanwhile is compared again.
    unlike = outdated(clickhouse, found) if found else {}
    return [
        ChangedFact(fact=fact, formed=None if fact.name in unlike else storages.get(fact.name))
        for fact in found
    ]
