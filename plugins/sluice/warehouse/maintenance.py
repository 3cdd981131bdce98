"""Maintenance: what grows without it, and what has to be watched.

A delete marker may go only when nothing older of its key can come any more, else that row would
be alive again: not while an older version of the key is in any part (a merge has not met it yet),
not while an event may be read again (the age guard), not while a rejected event that came before
it can be replayed, and not before every table that a fact can be rolled back to has seen it.
OPTIMIZE ... CLEANUP knows none of that and is never used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from sluice.catalog import Catalog, Fact, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import NotReady, QualityFailed, SluiceError, WrongUsage
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import key_expression, quoted
from sluice.generate.rollups import noted
from sluice.warehouse.merges import merge

# Longer than a slot may stay behind and a topic keeps events; see docs/adr/0008-delete-markers.md.
GUARD = timedelta(days=30)
_SHORTEST = timedelta(days=1)
# Of the number of parts at which ClickHouse refuses inserts.
_CROWDED = 0.5
_FREE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceReport:
    """What was done and what was seen, a line each.

    Attributes:
        alarms: what a person has to look at.
        troubles: table or fact -> why it could not be cleaned up.
    """

    done: tuple[str, ...]
    alarms: tuple[str, ...]
    troubles: Mapping[str, SluiceError] = field(default_factory=dict)

    def require_calm(self) -> None:
        """Raise the worst of what has to be looked at; alarms are QualityFailed."""
        outcomes = Outcomes()
        outcomes.troubles.update(self.troubles)
        with outcomes.of("maintenance"):
            if self.alarms:
                raise QualityFailed(
                    "; ".join(self.alarms),
                    remedy="see: docs/adr/0008-delete-markers.md, sluice status",
                )
        outcomes.require()


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """One warehouse's maintenance.

    Attributes:
        queries: the statements of sql/clickhouse/maintenance.sql.
        guard: the least age of a delete marker that is removed.
    """

    clickhouse: ClickHouse
    catalog: Catalog
    queries: Mapping[str, str]
    guard: timedelta = GUARD

    def run(self) -> MaintenanceReport:
        """Clean up what may go, then watch parts and disks.

        Raises:
            WrongUsage: the guard is shorter than a day.
        """
        if self.guard < _SHORTEST:
            raise WrongUsage(f"a guard of {self.guard} is too short; at least {_SHORTEST}")
        done, outcomes = list[str](), Outcomes()
        for table in self.catalog.tables:
            with outcomes.of(table.name):
                done += self._clean_table(table)
                done += self._expire(table)
        for fact in self.catalog.facts:
            with outcomes.of(fact.name):
                done += self._clean_fact(fact)
        done += self._drop_shadows()
        # After the markers: one that meets its older row only now stays until the next night.
        for table in self.catalog.tables:
            with outcomes.of(table.name):
                done += self._merge(table.storage)
        for fact in self.catalog.facts:
            with outcomes.of(fact.name):
                for name in (fact.name, *(rollup.name for rollup in fact.table.rollups)):
                    done += self._merge(name)
        alarms = [alarm for server in self.clickhouse.servers() for alarm in self._watch(server)]
        return MaintenanceReport(done=tuple(done), alarms=tuple(alarms), troubles=outcomes.troubles)

    def _one(self, name: str, **parameters: Any) -> tuple[Any, ...]:
        rows = self.clickhouse.execute(self.queries[name], **parameters)
        if not rows:
            raise NotReady(f"cdc.{parameters['table']} is not there", remedy="run: sluice init")
        return rows[0]

    def _clean_table(self, table: Table) -> Iterator[str]:
        """Delete markers of a source table that nothing can need any more."""
        before = datetime.now(timezone.utc) - self.guard
        rejected_since, rejected = self._one("rejected_since", table=table.name)
        if rejected:
            before = min(before, rejected_since)
        condition = "_ingested_at < fromUnixTimestamp64Milli({before:Int64})"
        bounds: dict[str, Any] = {"before": int(before.timestamp() * 1000)}
        if any(table in fact.tables for fact in self.catalog.facts):
            (seen,) = self._one("seen_by_all", table=table.name)
            condition += " AND _seq <= {seen:UInt64}"
            bounds["seen"] = seen
        keys = [column.name for column in table.key]
        local = self.clickhouse.cluster.local(table.storage)
        yield from self._delete_markers(table.storage, local, keys, condition, bounds)

    def _clean_fact(self, fact: Fact) -> Iterator[str]:
        """Delete markers of a fact that no rebuild of the guard's time wrote; summed groups."""
        (version,) = self._one(
            "settled_version", fact=fact.name, age=int(self.guard.total_seconds())
        )
        keys = [column.name for column in fact.key]
        condition = "_version < {version:UInt128}"
        local = self._one("rows_of", table=fact.name)[0]
        yield from self._delete_markers(fact.name, local, keys, condition, {"version": version})
        (summed,) = self._one("summed_version", fact=fact.name)
        for rollup in fact.table.rollups:
            self.clickhouse.execute(
                f"DELETE FROM cdc.{quoted(noted(rollup.name))} WHERE _version < {{summed:UInt128}}",
                summed=summed,
            )

    def _delete_markers(
        self, table: str, local: str, keys: list[str], condition: str, bounds: dict[str, Any]
    ) -> Iterator[str]:
        """Delete markers under this condition whose key has no other row in any part.

        All rows of a key are on one server, so each can tell by its own table, `local`.
        """
        if self.clickhouse.cluster.replicated:
            return  # replicas would look at different moments, and keep different rows
        counted = self.clickhouse.execute(
            f"SELECT count() FROM cdc.{quoted(table)} WHERE {_lonely(table, keys, condition)}",
            **bounds,
        )
        if counted[0][0]:
            self.clickhouse.everywhere(
                f"DELETE FROM cdc.{quoted(local)} WHERE {_lonely(local, keys, condition)}",
                **bounds,
            )
            yield f"cdc.{table}: {counted[0][0]} old delete markers removed"

    def _expire(self, table: Table) -> Iterator[str]:
        """Apply the history's TTL where merges have not come to it for a day."""
        local = self.clickhouse.cluster.local(table.history)
        oldest, rows = self._one("oldest", table=table.history)
        days = self.clickhouse.execute(
            "SELECT toInt64(extract(create_table_query, 'toIntervalDay\\\\((\\\\d+)\\\\)'))"
            " FROM system.tables WHERE database = 'cdc' AND name = {table:String}"
            " AND create_table_query LIKE '%toIntervalDay(%'",
            table=local,
        )
        if not rows or not days:
            return
        kept = timedelta(days=days[0][0] + 1)
        if oldest < datetime.now(timezone.utc) - kept:
            self.clickhouse.everywhere(
                f"ALTER TABLE cdc.{quoted(local)} MATERIALIZE TTL SETTINGS mutations_sync = 1"
            )
            yield f"cdc.{table.history}: rows older than its TTL removed"

    def _merge(self, table: str) -> Iterator[str]:
        """Merge a table into one part: FINAL then merges only what was written since."""
        if merge(self.clickhouse, self._one("rows_of", table=table)[0]):
            yield f"cdc.{table}: merged"

    def _drop_shadows(self) -> Iterator[str]:
        for (name,) in self.clickhouse.execute(self.queries["shadows"]):
            self.clickhouse.everywhere(f"DROP TABLE IF EXISTS cdc.{quoted(name)} SYNC")
            yield f"cdc.{name}: dropped, its full rebuild was killed"

    def _watch(self, server: ClickHouse) -> Iterator[str]:
        on = f" on {server.where}" if server.cluster.name else ""
        for table, parts, refused in server.execute(self.queries["parts"]):
            if parts > refused * _CROWDED:
                yield (
                    f"cdc.{table}{on} has {parts} parts in a partition; inserts are refused at"
                    f" {refused}: merges do not keep up"
                )
        for name, free, total in server.execute(self.queries["disks"]):
            if free < total * _FREE:
                where = server.where if on else "ClickHouse"
                yield f"disk {name} of {where} has {free / 2**30:.1f} GB left"


def _lonely(table: str, keys: list[str], condition: str) -> str:
    """The condition on delete markers of a table whose key has no other row in it."""
    key, listed = key_expression(keys), ", ".join(map(quoted, keys))
    source = f"cdc.{quoted(table)}"
    old = f"SELECT {listed} FROM {source} WHERE _is_deleted = 1 AND {condition}"
    return (
        f"_is_deleted = 1 AND {condition} AND {key} NOT IN (\n    SELECT {listed}"
        f" FROM {source}\n    WHERE NOT (_is_deleted = 1 AND {condition})"
        f" AND {key} IN ({old})\n)"
    )
