"""Parked tables: tables whose changes the relay does not send, or did not send for a while.

Each hole is noted in `cdc.parked` before the first change is left out, so that it survives restarts
of relay, broker and PostgreSQL. A resync of the whole table closes it, if all rows were read after
the relay sent the table's changes again; see ADR 23.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.events.positions import format_lsn, parse_lsn

_PARKED, _SENT, _WHOLE = "parked", "sent", "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Changes of a table that were not sent and not resynced.

    Attributes:
        name: id of the hole.
        since: LSN; changes before it were sent.
        sent: LSN; later commits are sent again. None while they are not.
        remedy: how to remove the cause.
    """

    table: str
    name: str
    since: int
    sent: int | None
    reason: str
    remedy: str

    def sentence(self) -> str:
        """Describe the hole in one line."""
        if self.sent == self.since:
            return self.reason
        if self.sent is None:
            return f"its changes since {format_lsn(self.since)} are not sent: {self.reason}"
        between = f"{format_lsn(self.since)} and {format_lsn(self.sent)}"
        return f"its changes between {between} were not sent: {self.reason}"

    def repair(self) -> str:
        """Return the commands that close the hole."""
        resync = f"run: sluice resync {self.table}"
        return resync if self.sent is not None else f"{self.remedy}; then {resync}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holes:
    """The holes in `cdc.parked`."""

    clickhouse: ClickHouse
    queries: Mapping[str, str]

    def open(self, table: str = "") -> list[Hole]:
        """Return the holes of a table, or of all tables, oldest first."""
        rows = self.clickhouse.execute(self.queries["open_holes"], table=table)
        return [
            Hole(
                table=source,
                name=name,
                since=parse_lsn(since),
                sent=parse_lsn(sent) if state == _SENT else None,
                reason=reason,
                remedy=remedy,
            )
            for source, name, state, since, sent, reason, remedy in rows
        ]

    def begin(self, table: str, since: int, error: SluiceError) -> Hole:
        """Note that changes are not sent from here on; return the open hole if there is one."""
        for hole in self.open(table):
            if hole.sent is None:
                return hole
        hole = Hole(
            table=table,
            name=uuid4().hex,
            since=since,
            sent=None,
            reason=error.what,
            remedy=error.remedy or "see: sluice doctor",
        )
        self._note(hole, _PARKED, since)
        return hole

    def skip(self, table: str, end: int, reason: str) -> None:
        """Note that changes before an LSN may be missing: a record was skipped."""
        columns = {
            "source_table": [table] * 2,
            "hole": [uuid4().hex] * 2,
            "state": [_PARKED, _SENT],
            "lsn": [format_lsn(end)] * 2,
            "reason": [reason] * 2,
            "done_by": [self.clickhouse.person] * 2,
        }
        self.clickhouse.insert("cdc.parked", list(columns), list(columns.values()))

    def end(self, hole: Hole, sent: int) -> None:
        """Note that changes are sent again: all that commit after an LSN."""
        self._note(hole, _SENT, sent)

    def close(self, hole: Hole, fence: int) -> None:
        """Close a hole: rows read as of this fence include the changes that were not sent."""
        self._note(hole, _WHOLE, fence)

    def _note(self, hole: Hole, state: str, lsn: int) -> None:
        self.clickhouse.insert_row(
            "cdc.parked",
            {
                "source_table": hole.table,
                "hole": hole.name,
                "state": state,
                "lsn": format_lsn(lsn),
                "reason": hole.reason,
                "remedy": hole.remedy,
                "done_by": self.clickhouse.person,
            },
        )
