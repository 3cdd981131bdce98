"""Implements the state store on ClickHouse: current state, checkpoints, dead letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from sluice.catalog import Table
from sluice.clients.clickhouse import ClickHouse, Travelling
from sluice.drain.letters import kept
from sluice.drain.ports import Checkpoint, DrainReport, OpenReject
from sluice.errors import StaleCheckpoint
from sluice.events.event import Change, Key, Reject, row_marks
from sluice.generate.clickhouse import MACHINE_COLUMNS, external_table, key_expression, quoted
from sluice.warehouse.key_ranges import DEEP_CHECK, RESUMED_SECONDS

_TYPES = {"str": "String", "int": "UInt64"}
_OTHER_TYPES = {"epoch": "UInt16", "truncated": "UInt128", "committed_at": "Int64"}
_STRUCTURE = [
    (field.name, _OTHER_TYPES.get(field.name, _TYPES[str(field.type)]))
    for field in fields(Checkpoint)
]
_FIELDS = tuple(name for name, _ in _STRUCTURE if name != "previous")
_LISTED = ", ".join(_FIELDS)

# Inserts each checkpoint that follows the current one. With the read afterwards this is nearly
# compare-and-swap: a writer that inserts after another has read may win over it. Both have stored
# what their checkpoints say, so drains lose nothing; other moves are confirmed, see resume.py.
_ADVANCE = f"""
INSERT INTO cdc.checkpoints ({_LISTED})
SELECT {_LISTED} FROM following LEFT JOIN (
    SELECT source_table, max(generation) AS last FROM cdc.checkpoints GROUP BY source_table
) AS present USING (source_table)
WHERE previous = coalesce(last, 0)
"""
_PRESENT = f"SELECT {_LISTED} FROM cdc.checkpoints"
_OF_TABLE = "WHERE source_table = {table:String}"  # an equality, as the primary key finds no other
_NEWEST = "ORDER BY generation DESC LIMIT 1 BY source_table"
_REJECTING = """
SELECT DISTINCT source_table FROM cdc.dead_letters FINAL WHERE state = 'open'
"""
_MOST_OFFSET = (1 << 63) - 1
_UNSTORED = """
SELECT reason, count() FROM cdc.dead_letters FINAL
WHERE source_table = {table:String} AND offset >= {first:UInt64} AND offset < {below:UInt64}
    AND state = 'open'
    AND position(value, {operation:String}) > 0 AND position(value, {place:String}) > 0
GROUP BY reason ORDER BY count() DESC
"""
# Runs with open ranges.
_RESYNCING = """
SELECT run FROM (
    SELECT run, max(state) AS newest, argMin(selection, state) AS asked, max(noted_at) AS at
    FROM cdc.resync_ranges WHERE source_table = {table:String} GROUP BY run, number
)
WHERE asked != {deep:String}
GROUP BY run HAVING countIf(newest = 'open') > 0
    AND max(at) > now64(3) - toIntervalSecond({seconds:UInt32})
LIMIT 1
"""
# Only their metadata, since a value may have a megabyte. A cut value is not JSON; its head has it.
_OPEN_REJECTS = """
SELECT broker_epoch, epoch, offset, hex(key), hex(
    if(
        size > length(value),
        extract(value, '^\\\\{\\\\s*"metadata"\\\\s*:\\\\s*(\\\\{[^{}]*\\\\})'),
        JSONExtractRaw(value, 'metadata')
    )
)
FROM cdc.dead_letters FINAL WHERE source_table = {table:String} AND state = 'open'
ORDER BY rejected_at DESC LIMIT {limit:UInt32}
"""
_MOST_REJECTS = 10_000
# The fields of a report that cdc.drains keeps.
_RUN = (
    "table",
    "broker_epoch",
    "first_offset",
    "next_offset",
    "events",
    "rejected",
    "seconds",
    "freshness_s",
)
_RESOLVE = """
INSERT INTO cdc.dead_letters SELECT * REPLACE (now64(3) AS resolved_at)
FROM cdc.dead_letters FINAL
WHERE source_table = {table:String} AND state = 'open'
    AND (broker_epoch, offset) IN (SELECT broker_epoch, offset FROM resolved)
"""


class ClickHouseStore:
    """A StateStore on ClickHouse."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    def checkpoint(self, table: str) -> Checkpoint | None:
        """See ports.StateStore."""
        return self._present(table).get(table)

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """See ports.StateStore."""
        return self._present("")

    def _present(self, table: str) -> dict[str, Checkpoint]:
        query = f"{_PRESENT} {_OF_TABLE if table else ''} {_NEWEST}"
        rows = self._clickhouse.execute(query, table=table)
        found = (Checkpoint(**dict(zip(_FIELDS, row, strict=True))) for row in rows)
        return {checkpoint.source_table: checkpoint for checkpoint in found}

    def advance(self, checkpoint: Checkpoint) -> None:
        """See ports.StateStore."""
        if self.advance_all([checkpoint]):
            raise stale(checkpoint)

    def advance_all(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Write checkpoints of different tables by one insert; return those that are stale."""
        rows = [tuple(asdict(checkpoint).values()) for checkpoint in checkpoints]
        self._clickhouse.execute(_ADVANCE, external=[external_table("following", _STRUCTURE, rows)])
        alone = checkpoints[0].source_table if len(checkpoints) == 1 else ""
        present = self._present(alone)
        return [c for c in checkpoints if present.get(c.source_table) != c]

    def append(self, table: Table, columns: Sequence[Sequence[Any]]) -> None:
        """See ports.StateStore."""
        self._clickhouse.insert_converted(
            f"cdc.{quoted(table.storage)}", _travelling(table), columns
        )

    def truncate(self, table: Table, change: Change) -> None:
        """See ports.StateStore."""
        storage = f"cdc.{quoted(table.storage)}"
        local = self._clickhouse.cluster.local(table.storage)
        # Without FINAL, which would merge all rows of a first copy to find none; on each server by
        # itself, as the first one with a row would end the queries of the others.
        older = (
            f"SELECT 1 FROM cdc.{quoted(local)} WHERE _version < {{version:UInt128}}"
            " AND NOT _is_deleted LIMIT 1"
        )
        servers = self._clickhouse.servers()
        if not any(server.execute(older, version=change.version) for server in servers):
            return
        key = ", ".join(quoted(column.name) for column in table.key)
        machine = ", ".join(name for name, _ in MACHINE_COLUMNS)
        self._clickhouse.execute(
            f"INSERT INTO {storage} ({key}, {machine})\n"
            f"SELECT {key}, {{version:UInt128}}, 1, {{seq:UInt64}},"
            " fromUnixTimestamp64Milli({committed_at:Int64})\n"
            f"FROM {storage} FINAL WHERE _version < {{version:UInt128}}",
            version=change.version,
            seq=change.seq,
            committed_at=change.committed_at,
        )

    def current(self, table: Table, keys: Sequence[Key]) -> Mapping[Key, tuple[int, Key | None]]:
        """See ports.StateStore."""
        width = len(table.key)
        expression = key_expression([column.name for column in table.key])
        selected = ", ".join(
            _sql(column.name, column.type.from_storage) for column in table.columns
        )
        key = ", ".join(_sql(column.name, column.type.from_storage) for column in table.key)
        structure = [(column.name, column.wire_type) for column in table.key]
        wanted = ", ".join(_sql(column.name, column.type.to_storage) for column in table.key)
        names = ", ".join(quoted(column.name) for column in table.key)
        rows = self._clickhouse.execute(
            f"SELECT {key}, _version, _is_deleted, {selected} FROM cdc.{quoted(table.storage)}"
            f" WHERE {expression} IN (SELECT {wanted} FROM wanted)"
            f" ORDER BY _version DESC LIMIT 1 BY {names}",
            external=[external_table("wanted", structure, list(set(keys)))],
        )
        newest = {}
        for row in rows:
            version, deleted = row[width : width + 2]
            newest[_key_of(table, row[:width])] = (version, None if deleted else row[width + 2 :])
        return newest

    def reject(
        self, checkpoint: Checkpoint, schema_version: str, rejects: Sequence[Reject]
    ) -> None:
        """See ports.StateStore."""
        letters = [kept(reject.record) for reject in rejects]
        names = "source_table broker_epoch epoch offset key value reason schema_version size sha256"
        self._clickhouse.insert(
            "cdc.dead_letters",
            names.split(),
            [
                [checkpoint.source_table] * len(rejects),
                [checkpoint.broker_epoch] * len(rejects),
                [checkpoint.epoch] * len(rejects),
                [reject.record.offset for reject in rejects],
                [letter.key or b"" for letter in letters],
                [letter.value or b"" for letter in letters],
                [reject.reason for reject in rejects],
                [schema_version] * len(rejects),
                [letter.size for letter in letters],
                [letter.sha256 for letter in letters],
            ],
        )

    def open_rejects(self, table: str) -> Sequence[OpenReject]:
        """See ports.StateStore."""
        rows = self._clickhouse.execute(_OPEN_REJECTS, table=table, limit=_MOST_REJECTS)
        return [
            OpenReject(
                broker_epoch=broker_epoch,
                epoch=epoch,
                offset=offset,
                key=bytes.fromhex(key),
                metadata=bytes.fromhex(metadata),
            )
            for broker_epoch, epoch, offset, key, metadata in rows
        ]

    def rejecting(self) -> Collection[str]:
        """See ports.StateStore."""
        return {table for (table,) in self._clickhouse.execute(_REJECTING)}

    def resolve(self, table: str, rejects: Sequence[OpenReject]) -> None:
        """See ports.StateStore."""
        places = [(reject.broker_epoch, reject.offset) for reject in rejects]
        structure = [("broker_epoch", "String"), ("offset", "UInt64")]
        self._clickhouse.execute(
            _RESOLVE, external=[external_table("resolved", structure, places)], table=table
        )

    def unstored(
        self, table: str, place: str, *, first: int = 0, below: int | None = None
    ) -> Mapping[str, int]:
        """See ports.StateStore."""
        operation, position = row_marks(place)
        rows = self._clickhouse.execute(
            _UNSTORED,
            table=table,
            first=first,
            below=_MOST_OFFSET if below is None else below,
            operation=operation,
            place=position,
        )
        return {str(reason): int(count) for reason, count in rows}

    def rows_between(self, table: Table, lowest: int, highest: int) -> int:
        """See ports.StateStore."""
        ((count,),) = self._clickhouse.execute(
            f"SELECT count() FROM cdc.{quoted(table.storage)}"
            " WHERE _version BETWEEN {lowest:UInt128} AND {highest:UInt128}",
            lowest=lowest,
            highest=highest,
        )
        return int(count)

    def resyncing(self, table: str) -> bool:
        """See ports.StateStore."""
        runs = self._clickhouse.execute(
            _RESYNCING, table=table, deep=DEEP_CHECK, seconds=RESUMED_SECONDS
        )
        return bool(runs)

    def record(self, reports: Sequence[DrainReport]) -> None:
        """See ports.StateStore."""
        if reports:
            rows = [[getattr(report, name) for name in _RUN] for report in reports]
            columns = [list(column) for column in zip(*rows, strict=True)]
            self._clickhouse.insert("cdc.drains", ["source_table", *_RUN[1:]], columns)


def stale(checkpoint: Checkpoint) -> StaleCheckpoint:
    """Return the error of a checkpoint that does not follow the current one."""
    return StaleCheckpoint(
        f"{checkpoint.source_table}: another drain advanced the checkpoint first;"
        " its rows are the same, nothing is lost"
    )


def _key_of(table: Table, values: Sequence[Any]) -> Key:
    """Return a key in its original types: the driver returns bytes that are UTF-8 as text."""
    return tuple(
        part.encode() if column.type.zero == b"" and isinstance(part, str) else part
        for column, part in zip(table.key, values, strict=True)
    )


def _travelling(table: Table) -> list[Travelling]:
    """Return the columns that `append` inserts."""
    own = [
        Travelling(
            name=column.name,
            type=column.wire_type,
            stored=_sql(column.name, column.type.to_storage),
        )
        for column in table.columns
    ]
    return own + [
        Travelling(name=name, type=kind, stored=name)
        if name != "_committed_at"
        else Travelling(name=name, type="Int64", stored=f"fromUnixTimestamp64Milli({name})")
        for name, kind in MACHINE_COLUMNS
    ]


def _sql(name: str, expression: str) -> str:
    return expression.format(quoted(name))
