"""Resync: rows of a table read again from Postgres, beside the relay and the drain.

The rows are read in one exported snapshot, the fence, and go onto the table's topic as `read`
events at (fence, 1). So they win over everything older and lose to every change after the fence,
however the two arrive. When they are drained, live rows below the fence are rows that Postgres
does not have; they get a `delete` at (fence, 0). Killed anywhere, it can be run again.

Where changes come from Redpanda Connect, whose order is that of the topic, the fence is the topic's
end, taken before the snapshot. What comes after it the snapshot may have seen as well; coming again
it leads to the same state.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sluice.adapters.clickhouse import ClickHouse, external_table
from sluice.catalog import Column, Table
from sluice.decoding import CONNECT
from sluice.errors import NotReady
from sluice.generate.clickhouse import quoted
from sluice.positions import before, beyond, format_lsn, pack, unpack
from sluice.selection import Selection, ordered_as_text

log = logging.getLogger(__name__)

_KEYS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncReport:
    """What a resync of one table did.

    Attributes:
        fence: the point of the WAL as of which rows were read.
        rows: how many were read.
        deleted: how many rows ClickHouse had that Postgres has not.
    """

    table: str
    selection: str
    fence: int
    rows: int
    deleted: int
    seconds: float

    def sentence(self) -> str:
        """The resync in one line."""
        return (
            f"{self.table}: {self.rows} rows read again as of {format_lsn(self.fence)}"
            f" ({self.selection}), {self.deleted} deleted, in {self.seconds:.1f} s"
        )


class Reading(Protocol):
    """Rows of a table as of a fence, on their way to the topic.

    Attributes:
        fence: the point of the WAL.
        offset: where offsets order the changes, the one that the rows stand before.
    """

    fence: int
    offset: int | None

    def read(self, selection: Selection) -> int:
        """Publish the selected rows; how many."""

    def delete(self, key: str) -> None:
        """Publish a delete of the row with this key, a JSON object, below the rows."""

    def wait(self) -> None:
        """Return when the drain has gone past everything published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Reads tables again.

    Attributes:
        reading: opens a fence for a table; by offset where that is said.
        clickhouse: a session.
    """

    clickhouse: ClickHouse
    reading: Callable[[Table, bool], AbstractContextManager[Reading]]

    def run(self, table: Table, selection: Selection) -> ResyncReport:
        """Read the selected rows again, and delete what Postgres does not have.

        Raises:
            NotReady: a transaction that was open did not end in time, or set-up is not finished.
        """
        started = time.monotonic()
        source, epoch = self._source(table)
        with self.reading(table, source == CONNECT) as reading:
            fence = _fence(table, reading, epoch)
            self._remove_beyond(table, beyond(epoch, unpack(fence).major))
            rows = reading.read(selection)
            log.info("resync: %s, %d rows are on the topic", table.name, rows)
            reading.wait()
            ghosts = self._below(table, selection, fence)
            for key in ghosts:
                reading.delete(key)
            reading.wait()
            report = ResyncReport(
                table=table.name,
                selection=selection.sentence(),
                fence=reading.fence,
                rows=rows,
                deleted=len(ghosts),
                seconds=time.monotonic() - started,
            )
        self._keep(report)
        return report

    def _remove_beyond(self, table: Table, version: int) -> None:
        """Remove rows that no change can have written: nothing could win over them."""
        for name in (table.storage, table.history):
            self.clickhouse.everywhere(
                f"DELETE FROM cdc.{quoted(self.clickhouse.cluster.local(name))}"
                " WHERE _version > {version:UInt128}",
                version=version,
            )

    def _source(self, table: Table) -> tuple[str, int]:
        """The table's change source and epoch."""
        found = self.clickhouse.execute(
            "SELECT argMax(source, generation), max(epoch) FROM cdc.checkpoints"
            " WHERE source_table = {table:String} GROUP BY source_table",
            table=table.name,
        )
        source, epoch = found[0] if found else ("", 0)
        return str(source), int(epoch)

    def _below(self, table: Table, selection: Selection, version: int) -> list[str]:
        """Keys, as JSON objects, of live selected rows below the version."""
        values = ", ".join(f"toJSONString({quoted(column.name)})" for column in table.key)
        query = (
            f"SELECT {values} FROM cdc.{quoted(table.storage)} FINAL"
            " WHERE _version < {version:UInt128}"
        )
        if not selection.keys:
            where, bounds = _within(table.key, selection)
            return self._keys(table, query + where, version=version, **bounds)
        found: list[str] = []
        for start in range(0, len(selection.keys), _KEYS_AT_ONCE):
            wanted = _wanted(table.key, selection.keys[start : start + _KEYS_AT_ONCE])
            found += self._keys(
                table, query + _among(table.key), version=version, external=[wanted]
            )
        return found

    def _keys(self, table: Table, query: str, **arguments: Any) -> list[str]:
        names = [json.dumps(column.name) for column in table.key]
        return [
            "{" + ",".join(f"{name}:{value}" for name, value in zip(names, row, strict=True)) + "}"
            for row in self.clickhouse.execute(query, **arguments)
        ]

    def _keep(self, report: ResyncReport) -> None:
        self.clickhouse.insert_row(
            "cdc.resyncs",
            {
                "source_table": report.table,
                "selection": report.selection,
                "fence": format_lsn(report.fence),
                "rows": report.rows,
                "deleted": report.deleted,
                "seconds": report.seconds,
            },
        )


def _fence(table: Table, reading: Reading, epoch: int) -> int:
    """The version of the deletes; the rows are just above it."""
    if reading.offset is None:
        return pack(epoch, reading.fence, 0)
    try:
        return before(epoch, reading.offset, 0)
    except ValueError:
        raise NotReady(
            f"{table.topic} is empty: Redpanda Connect has not begun its snapshot"
        ) from None


def _within(key: Sequence[Column], selection: Selection) -> tuple[str, dict[str, str]]:
    """The condition of a range, and its parameters."""
    own = ", ".join(
        f"toString({quoted(column.name)})" if ordered_as_text(column) else quoted(column.name)
        for column in key
    )
    text, parameters = "", {}
    for name, sign, bound in (("lower", ">=", selection.lower), ("upper", "<=", selection.upper)):
        if bound is not None:
            places = ", ".join(
                _cast(column, f"{{{name}{at}:String}}") for at, column in enumerate(key)
            )
            text += f" AND tuple({own}) {sign} tuple({places})"
            parameters.update({f"{name}{at}": part for at, part in enumerate(bound)})
    return text, parameters


def _cast(column: Column, expression: str) -> str:
    if ordered_as_text(column):
        return expression
    return f"CAST({expression} AS {column.type.clickhouse})"


def _among(key: Sequence[Column]) -> str:
    own = ", ".join(quoted(column.name) for column in key)
    cast = ", ".join(f"CAST(part{at} AS {column.type.clickhouse})" for at, column in enumerate(key))
    return f" AND ({own}) IN (SELECT {cast} FROM wanted)"


def _wanted(key: Sequence[Column], keys: Sequence[Sequence[str]]) -> Any:
    structure = [(f"part{at}", "String") for at, _ in enumerate(key)]
    return external_table("wanted", structure, list(keys))
