"""Finds versions ahead of their source: rows and truncations that no change can have written.

They override every later change, and comparisons as of a point of the WAL do not see them. The
checkpoint is read first and the end of the WAL afterwards, so that everything drained by the
checkpoint is at or below that end. A new epoch orders them below all later changes (ADR 24).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection, key_text
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.origin import AskEnd, WalEnd
from sluice.drain.ports import Checkpoint
from sluice.errors import NotReady
from sluice.events.event import CONNECT
from sluice.events.positions import MOST_ORDINAL, beyond, format_lsn, pack
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import key_expression, quoted
from sluice.generate.row_text import among, clickhouse_key, clickhouse_range, wanted
from sluice.quality.bulk import read_each

_NONE: Mapping[str, int] = {}
_MOST_NAMED = 50  # keys named by a finding
# Rows written after the checkpoint count as ahead only beyond the version of any possible change.
_AHEAD = "_version > {version:UInt128} AND (_seq <= {seq:UInt64} OR _version > {far:UInt128})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The highest version that drained changes can have.

    Attributes:
        version: the highest version of changes drained up to `seq`.
        far: the highest version of any change at present.
        truncated: whether the newest truncation is ahead.
        end: the end of the source, as a phrase.
    """

    version: int
    seq: int
    far: int
    truncated: bool
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Versions of a table that are ahead of its source.

    Attributes:
        rows: the number of row versions.
        keys: some of their keys, as text.
        truncated: whether the newest truncation is ahead.
        end: the end of the source, as a phrase.
    """

    table: str
    rows: int
    keys: tuple[str, ...]
    truncated: bool
    end: str

    def __bool__(self) -> bool:
        return bool(self.rows or self.truncated)

    def sentence(self) -> str:
        """Return the finding as a sentence."""
        parts = [f"{self.rows} row versions are"] if self.rows else []
        parts += ["the newest truncation is"] if self.truncated else []
        return f"{' and '.join(parts) or 'no version is'} ahead of {self.end}"

    def repair(self) -> str:
        """Return the command that repairs the table."""
        named = "" if self.truncated or len(self.keys) > _MOST_NAMED else self.keys
        listed = "".join(f" --key {shlex.quote(key)}" for key in named)
        return f"run: sluice resync {self.table}{listed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """Finds versions ahead of their source.

    Attributes:
        wal_end: returns the end of PostgreSQL's WAL.
    """

    clickhouse: ClickHouse
    wal_end: AskEnd

    def limits(self, tables: Sequence[Table], outcomes: Outcomes) -> dict[str, Limit]:
        """Return, by table, the highest version that drained changes can have now.

        Args:
            outcomes: takes a NotReady by table: the PostgreSQL that answers is not the primary of
                the table's positions.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        checkpoints, wal = ClickHouseStore(self.clickhouse).checkpoints(), None
        present = [checkpoints.get(t.name) or Checkpoint(source_table=t.name) for t in tables]
        if any(checkpoint.source != CONNECT for checkpoint in present):
            wal = self.wal_end()
        limits = {}
        for checkpoint in present:
            with outcomes.of(checkpoint.source_table):
                limits[checkpoint.source_table] = _limit(checkpoint, wal)
        return limits

    def limit(self, table: Table) -> Limit:
        """See `limits`.

        Raises:
            NotReady: the PostgreSQL that answers is not the primary of the table's positions.
        """
        outcomes = Outcomes()
        limits = self.limits([table], outcomes)
        outcomes.require()
        return limits[table.name]

    def checkpoint(self, table: Table) -> Checkpoint:
        """Return the table's checkpoint; an empty one before the first drain."""
        present = ClickHouseStore(self.clickhouse).checkpoint(table.name)
        return present or Checkpoint(source_table=table.name)

    def find(self, table: Table) -> Found:
        """Return the versions of a table that are ahead; see `find_each`.

        Raises:
            NotReady: the PostgreSQL that answers is not the primary of the table's positions.
        """
        outcomes = Outcomes()
        findings = self.find_each([table], outcomes)
        outcomes.require()
        return findings[table.name]

    def find_each(
        self,
        tables: Sequence[Table],
        outcomes: Outcomes,
        most_rows: int | None = None,
        unchanged: Set[str] = frozenset(),
    ) -> dict[str, Found]:
        """Return, by table, the versions that are ahead; scans the column `_version`.

        Args:
            outcomes: takes the errors by table.
            most_rows: the most row versions to scan; larger tables are checked for truncations
                only. Default: None, for no limit.
            unchanged: tables without rows since a scan that found none ahead; their truncations
                are checked. Default: none.
        """
        limits = self.limits(tables, outcomes)
        known = [table for table in tables if table.name in limits]
        changed = [table for table in known if table.name not in unchanged]
        stored = self._count(changed, {}, outcomes)
        small = [t for t in changed if most_rows is None or stored.get(t.name, 0) <= most_rows]
        rows = self._count(small, limits, outcomes, stored)
        return {
            table.name: self._found(table, limits[table.name], rows.get(table.name, 0))
            for table in outcomes.sound(known)
        }

    def _found(self, table: Table, limit: Limit, rows: int) -> Found:
        """Return the finding of a table with this many row versions ahead, and their keys."""
        keys = list[tuple[str, ...]]()
        if rows:
            key = f"tuple({clickhouse_key(table.key)})"
            ((rows, keys),) = self.clickhouse.execute(
                f"SELECT count(), groupUniqArray({_MOST_NAMED + 1})({key})"
                f" FROM cdc.{quoted(table.storage)} WHERE {_AHEAD}",
                **_parameters(limit),
            )
        return Found(
            table=table.name,
            rows=int(rows),
            keys=tuple(sorted(key_text(key) for key in keys)),
            truncated=limit.truncated,
            end=limit.end,
        )

    def _count(
        self,
        tables: Sequence[Table],
        limits: Mapping[str, Limit],
        outcomes: Outcomes,
        stored: Mapping[str, int] = _NONE,
    ) -> dict[str, int]:
        """Count the row versions of tables, of those with a limit the versions ahead of it.

        Args:
            stored: the number of row versions to read, by table. Default: none, as ClickHouse
                knows their number.
        """
        queries = {t.name: _counting(t, limits.get(t.name)) for t in tables}
        rows = read_each(self.clickhouse, queries, outcomes, lambda name: stored.get(name, 0))
        return {name: int(count) for name, (count,) in rows.items()}

    def remove(self, table: Table, epoch: int) -> None:
        """Delete rows of epochs above one that has just begun: no change can have written them."""
        version = pack(epoch + 1, 0, 0)
        for name in (table.storage, table.history):
            where = f"FROM cdc.{quoted(name)} WHERE _version >= {{version:UInt128}}"
            if self.clickhouse.execute(f"SELECT count() {where}", version=version)[0][0]:
                local = quoted(self.clickhouse.cluster.local(name))
                self.clickhouse.everywhere(
                    f"DELETE FROM cdc.{local} WHERE _version >= {{version:UInt128}}",
                    version=version,
                )

    def hidden(self, table: Table, selection: Selection, written: int) -> int:
        """Count rows written at a version that a truncation or a version ahead hides."""
        limit = self.limit(table)
        where, bounds = clickhouse_range(table.key, selection)
        external = []
        if selection.keys:
            where, external = f" AND {among(table.key)}", [wanted(table.key, selection.keys)]
        key = key_expression([column.name for column in table.key])
        rows = self.clickhouse.execute(
            "SELECT count() FROM (\n"
            f"    SELECT max(_version) = {{written:UInt128}} AND argMax(_is_deleted, _version)"
            f" AS lost, countIf({_AHEAD}) > 0 AS below\n"
            f"    FROM cdc.{quoted(table.storage)}\n"
            f"    WHERE _version >= {{written:UInt128}}{where}\n    GROUP BY {key}\n"
            ") WHERE lost OR below",
            external=external,
            written=written,
            **_parameters(limit),
            **bounds,
        )
        return int(rows[0][0])


def _limit(checkpoint: Checkpoint, wal: WalEnd | None) -> Limit:
    """Return the limit by a table's checkpoint, and by the end of the WAL, which is read later."""
    place, minor = checkpoint.next_offset, 0
    end = f"the topic, which is drained to {place}"
    if checkpoint.source != CONNECT:
        if wal is None or checkpoint.server not in {"", wal.server}:
            raise NotReady(
                f"{checkpoint.source_table}: PostgreSQL is a standby, or a server or timeline other"
                " than that of the table's positions",
                remedy="connect to the primary; after a failover run: sluice recover",
            )
        place, end = wal.lsn, f"PostgreSQL's WAL, which ends at {format_lsn(wal.lsn)}"
        minor = MOST_ORDINAL
    version = pack(checkpoint.epoch, place, minor)
    return Limit(
        version=version,
        seq=checkpoint.last_seq,
        far=beyond(checkpoint.epoch, place),
        truncated=checkpoint.truncated > version,
        end=end,
    )


def _counting(table: Table, limit: Limit | None) -> str:
    text = f"SELECT count() FROM cdc.{quoted(table.storage)}"
    if limit is None:
        return text
    version, far = (f"toUInt128('{bound}')" for bound in (limit.version, limit.far))
    return f"{text} WHERE _version > {version} AND (_seq <= {limit.seq} OR _version > {far})"


def _parameters(limit: Limit) -> dict[str, Any]:
    return {"version": limit.version, "seq": limit.seq, "far": limit.far}
