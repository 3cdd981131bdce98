"""Finds versions ahead of their source: rows and truncations that no change can have written.

They override every later change, and comparisons as of a point of the WAL do not see them. The
checkpoint is read first and the end of the WAL afterwards, so that everything drained by the
checkpoint is at or below that end. A new epoch orders them below all later changes (ADR 24).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection, key_text
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.origin import AskEnd
from sluice.drain.ports import Checkpoint
from sluice.errors import NotReady
from sluice.events.event import CONNECT
from sluice.events.positions import MOST_ORDINAL, beyond, format_lsn, pack
from sluice.generate.clickhouse import key_expression, quoted
from sluice.generate.row_text import among, clickhouse_key, clickhouse_range, wanted

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

    def limit(self, table: Table) -> Limit:
        """Return the highest version that drained changes can have now.

        Raises:
            NotReady: the PostgreSQL that answers is not the primary of the table's positions.
            Unreachable: PostgreSQL does not answer.
        """
        checkpoint = self.checkpoint(table)
        place, minor = checkpoint.next_offset, 0
        end = f"the topic, which is drained to {place}"
        if checkpoint.source != CONNECT:
            wal = self.wal_end()
            if wal is None or checkpoint.server not in {"", wal.server}:
                raise NotReady(
                    f"{table.name}: PostgreSQL is a standby, or a server or timeline other"
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

    def checkpoint(self, table: Table) -> Checkpoint:
        """Return the table's checkpoint; an empty one before the first drain."""
        present = ClickHouseStore(self.clickhouse).checkpoint(table.name)
        return present or Checkpoint(source_table=table.name)

    def find(self, table: Table, most_rows: int | None = None) -> Found:
        """Return the versions of a table that are ahead; scans the column `_version`.

        Args:
            most_rows: the most row versions to scan; larger tables are checked for truncations
                only. None for no limit.
        """
        limit = self.limit(table)
        rows, keys = 0, list[tuple[str, ...]]()
        if most_rows is None or self._count(table) <= most_rows:
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

    def _count(self, table: Table) -> int:
        return int(
            self.clickhouse.execute(f"SELECT count() FROM cdc.{quoted(table.storage)}")[0][0]
        )

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


def _parameters(limit: Limit) -> dict[str, Any]:
    return {"version": limit.version, "seq": limit.seq, "far": limit.far}
