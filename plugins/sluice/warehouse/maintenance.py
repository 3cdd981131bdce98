"""Maintenance of ClickHouse's tables: delete markers, TTLs, merges, parts and disks.

A delete marker is removed only when no older version of its key can appear any more, as that would
bring the row back: no part has an older version that is not merged yet, no event may be read again
(the age guard), no earlier rejected event can be replayed, and every table that a fact can be
rolled back to has seen it. OPTIMIZE ... CLEANUP checks none of this and is never used.
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

# Longer than a slot may lag and a topic keeps events; see docs/adr/0008-delete-markers.md.
GUARD = timedelta(days=30)
_SHORTEST = timedelta(days=1)
# Share of the number of parts at which ClickHouse refuses inserts.
_CROWDED = 0.5
_FREE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceReport:
    """The actions and findings of a run, a line each.

    Attributes:
        alarms: conditions that need a person.
        troubles: table or fact -> error of its clean-up.
    """

    done: tuple[str, ...]
    alarms: tuple[str, ...]
    troubles: Mapping[str, SluiceError] = field(default_factory=dict)

    def require_calm(self) -> None:
        """Raise alarms, as QualityFailed, and errors as one; see Outcomes.require."""
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
    """Maintenance of one warehouse.

    Attributes:
        queries: the statements of sql/maintenance.sql.
        guard: least age of a removed delete marker. Default: 30 days.
        letters_kept: how long dead letters are kept; None for ever.
    """

    clickhouse: ClickHouse
    catalog: Catalog
    queries: Mapping[str, str]
    guard: timedelta = GUARD
    letters_kept: timedelta | None = None

    def run(self) -> MaintenanceReport:
        """Clean up tables, facts and shadows, merge, then check parts and disks.

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
        with outcomes.of("dead letters"):
            done += self._expire_letters()
        # After the markers: a marker that is merged with its older row now goes the next night.
        for table in self.catalog.tables:
            with outcomes.of(table.name):
                done += self._merge(table.storage)
        for fact in self.catalog.facts:
            with outcomes.of(fact.name):
                for name in (fact.name, *(rollup.name for rollup in fact.table.rollups)):
                    done += self._merge(name)
        alarms = [alarm for server in self.clickhouse.servers() for alarm in self._watch(server)]
        return MaintenanceReport(done=tuple(done), alarms=tuple(alarms), troubles=outcomes.troubles)

    def _first_row(self, name: str, **parameters: Any) -> tuple[Any, ...]:
        rows = self.clickhouse.execute(self.queries[name], **parameters)
        if not rows:
            raise NotReady(f"cdc.{parameters['table']} does not exist", remedy="run: sluice init")
        return rows[0]

    def _clean_table(self, table: Table) -> Iterator[str]:
        """Delete a source table's markers that are no longer needed."""
        before = datetime.now(timezone.utc) - self.guard
        rejected_since, rejected = self._first_row("rejected_since", table=table.name)
        if rejected:
            before = min(before, rejected_since)
        condition = "_ingested_at < fromUnixTimestamp64Milli({before:Int64})"
        bounds: dict[str, Any] = {"before": int(before.timestamp() * 1000)}
        if any(table in fact.tables for fact in self.catalog.facts):
            (seen,) = self._first_row("seen_by_all", table=table.name)
            condition += " AND _seq <= {seen:UInt64}"
            bounds["seen"] = seen
        keys = [column.name for column in table.key]
        local = self.clickhouse.cluster.local(table.storage)
        yield from self._delete_markers(table.storage, local, keys, condition, bounds)

    def _clean_fact(self, fact: Fact) -> Iterator[str]:
        """Delete a fact's markers that are older than the guard, and notes of summed groups."""
        (version,) = self._first_row(
            "settled_version", fact=fact.name, age=int(self.guard.total_seconds())
        )
        keys = [column.name for column in fact.key]
        condition = "_version < {version:UInt128}"
        local = self._first_row("rows_of", table=fact.name)[0]
        yield from self._delete_markers(fact.name, local, keys, condition, {"version": version})
        (summed,) = self._first_row("summed_version", fact=fact.name)
        for rollup in fact.table.rollups:
            self.clickhouse.execute(
                f"DELETE FROM cdc.{quoted(noted(rollup.name))} WHERE _version < {{summed:UInt128}}",
                summed=summed,
            )

    def _delete_markers(
        self, table: str, local: str, keys: list[str], condition: str, bounds: dict[str, Any]
    ) -> Iterator[str]:
        """Delete the markers under this condition whose key has no other row in any part.

        All rows of a key are on one server, so each server checks its own table, `local`.
        """
        if self.clickhouse.cluster.replicated:
            return  # replicas would check at different times, and keep different rows
        counted = self.clickhouse.execute(
            f"SELECT count() FROM cdc.{quoted(table)} WHERE {_unneeded(table, keys, condition)}",
            **bounds,
        )
        if counted[0][0]:
            self.clickhouse.everywhere(
                f"DELETE FROM cdc.{quoted(local)} WHERE {_unneeded(local, keys, condition)}",
                **bounds,
            )
            yield f"cdc.{table}: {counted[0][0]} old delete markers removed"

    def _expire(self, table: Table) -> Iterator[str]:
        """Apply the history's TTL where merges have not done so for a day."""
        local = self.clickhouse.cluster.local(table.history)
        oldest, rows = self._first_row("oldest", table=table.history)
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

    def _expire_letters(self) -> Iterator[str]:
        """Delete closed dead letters that were kept long enough; of open ones key and value."""
        if self.letters_kept is None:
            return
        oldest = datetime.now(timezone.utc) - self.letters_kept
        before = int(oldest.timestamp() * 1000)
        older = f"older than {self.letters_kept.days} days"
        if count := self._delete_closed_letters(before):
            yield f"{count} closed dead letters deleted, {older}"
        ((count,),) = self.clickhouse.execute(self.queries["aged_letters"], before=before)
        if count:
            self.clickhouse.execute(self.queries["blank_letters"], before=before)
            yield f"{count} dead letters: key and value deleted, {older}"

    def _delete_closed_letters(self, before: int) -> int:
        count = 0
        while groups := self.clickhouse.execute(self.queries["closed_letters"], before=before):
            for table, epoch, offsets in groups:
                self.clickhouse.execute(
                    self.queries["delete_closed_letters"],
                    table=table,
                    broker_epoch=epoch,
                    offsets=offsets,
                )
                count += len(offsets)
        return count

    def _merge(self, table: str) -> Iterator[str]:
        """Merge a table into one part, so that FINAL merges only later rows."""
        if merge(self.clickhouse, self._first_row("rows_of", table=table)[0]):
            yield f"cdc.{table}: merged"

    def _drop_shadows(self) -> Iterator[str]:
        for (name,) in self.clickhouse.execute(self.queries["shadows"]):
            self.clickhouse.drop(name)
            yield f"cdc.{name}: dropped, as its full rebuild was interrupted"

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


def _unneeded(table: str, keys: list[str], condition: str) -> str:
    """Return the condition of a table's delete markers whose key has no other row."""
    key, listed = key_expression(keys), ", ".join(map(quoted, keys))
    source = f"cdc.{quoted(table)}"
    old = f"SELECT {listed} FROM {source} WHERE _is_deleted = 1 AND {condition}"
    return (
        f"_is_deleted = 1 AND {condition} AND {key} NOT IN (\n    SELECT {listed}"
        f" FROM {source}\n    WHERE NOT (_is_deleted = 1 AND {condition})"
        f" AND {key} IN ({old})\n)"
    )
