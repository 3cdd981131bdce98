"""Versions ahead of their source: rows and truncations that no change can have written.

They win over every change that comes, and comparisons as of a point of the WAL do not see them.
Whoever looks reads the checkpoint first and asks for the WAL's end then: what was drained by the
checkpoint is at or below that end. A new epoch puts all of them below what comes (ADR 24).
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

# So many keys are named by a finding.
_MOST_NAMED = 50
# Of rows that a drain wrote since the checkpoint only what no change comes near is ahead.
_AHEAD = "_version > {version:UInt128} AND (_seq <= {seq:UInt64} OR _version > {far:UInt128})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The highest version that drained changes can have.

    Attributes:
        version: of changes that were drained by `seq`.
        far: of every change for now.
        truncated: whether the newest truncation is ahead.
        end: where the source ends, in words.
    """

    version: int
    seq: int
    far: int
    truncated: bool
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What of a table is ahead of its source.

    Attributes:
        rows: row versions.
        keys: of these rows, as people write them; some where there are many.
        truncated: whether the newest truncation is.
        end: where the source ends, in words.
    """

    table: str
    rows: int
    keys: tuple[str, ...]
    truncated: bool
    end: str

    def __bool__(self) -> bool:
        return bool(self.rows or self.truncated)

    def sentence(self) -> str:
        """The finding in words."""
        parts = [f"{self.rows} row versions are"] if self.rows else []
        parts += ["the newest truncation is"] if self.truncated else []
        return f"{' and '.join(parts) or 'no version is'} ahead of {self.end}"

    def repair(self) -> str:
        """The command that brings the table right."""
        named = "" if self.truncated or len(self.keys) > _MOST_NAMED else self.keys
        listed = "".join(f" --key {shlex.quote(key)}" for key in named)
        return f"run: sluice resync {self.table}{listed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """Looks for versions ahead of their source.

    Attributes:
        wal_end: asks for the end of PostgreSQL's WAL.
    """

    clickhouse: ClickHouse
    wal_end: AskEnd

    def limit(self, table: Table) -> Limit:
        """The highest version of what is drained now.

        Raises:
            NotReady: PostgreSQL says nothing of the table's positions.
            Unreachable: PostgreSQL does not answer.
        """
        checkpoint = self.checkpoint(table)
        place, minor = checkpoint.next_offset, 0
        end = f"the topic, which is drained to {place}"
        if checkpoint.source != CONNECT:
            found = self.wal_end()
            if found is None or checkpoint.server not in {"", found.server}:
                raise NotReady(
                    f"{table.name}: PostgreSQL is a standby, or another server or"
                    " timeline than that of the table's positions",
                    remedy="name the primary; after a failover run: sluice recover",
                )
            place, end = found.lsn, f"PostgreSQL's WAL, which ends at {format_lsn(found.lsn)}"
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
        """The table's checkpoint; an empty one before the first drain."""
        found = ClickHouseStore(self.clickhouse).checkpoint(table.name)
        return found or Checkpoint(source_table=table.name)

    def find(self, table: Table, most_rows: int | None = None) -> Found:
        """What of a table is ahead; see `limit`. Cost: the column `_version` is read.

        Args:
            most_rows: row versions of tables that have more are not looked at.
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
        """Remove rows of epochs above one that was just begun: no change can have written them."""
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
        """Rows of a selection, written at a version, that a truncation or a version ahead hides."""
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
