"""The key ranges of a resync or a deep check, and which are done: what a killed run left.

Each range of a resync is read behind a fence of its own and noted in `cdc.resync_ranges` when it is
drained. So what is done is done: the stream brings every change after a range's fence, and a later
run reads the others behind later fences. Postgres holds back WAL and dead rows for one range alone.
A range of which rows could not be stored is noted with their number. It does not make a run
unfinished, so that the next command reads all rows again; but who goes on with the run reads it
once more, and tells of the rows that still cannot be stored.
Of a deep check, the ranges in which nothing differed are noted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection
from sluice.clients.clickhouse import ClickHouse
from sluice.events.event import KeyText
from sluice.events.positions import format_lsn
from sluice.execution.progress import duration

_OPEN, _DONE, _DROPPED = "open", "done", "dropped"
# An unfinished run is gone on with so long after its last range, seconds. Later, what it read
# may have been spoilt since, and nobody remembers that there was one.
RESUMED_SECONDS = 6 * 3600
# A deep check is to say what is so now.
_CHECKRESUMED_SECONDS = 3600
# What the run of a deep check was asked for.
DEEP_CHECK = "deep check"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """A range and how many rows were expected in it, or were read when it is done."""

    number: int
    rows: int
    selection: Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeDone:
    """What became of a range.

    Attributes:
        fence: the point of the WAL as of which it was read.
        rows: how many were read.
        deleted: how many rows ClickHouse had that Postgres has not.
        unstored: rows that could not be stored: reason -> how many.
    """

    fence: int
    rows: int = 0
    deleted: int = 0
    unstored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The ranges of a run, and the numbers of those that are done.

    Attributes:
        asked: the selection that was asked for, in words; or DEEP_CHECK.
        rejected: of ranges that were read, those of which rows could not be stored.
        noted_ago: seconds since the last note of it.
    """

    table: Table
    run: str
    asked: str
    ranges: tuple[KeyRange, ...]
    done: frozenset[int] = frozenset()
    rejected: frozenset[int] = frozenset()
    noted_ago: int = 0

    @property
    def open(self) -> tuple[KeyRange, ...]:
        """The ranges that are left."""
        return tuple(part for part in self.ranges if part.number not in self.done)

    @property
    def whole(self) -> bool:
        """Whether all rows of the table were asked for."""
        return self.asked == Selection().sentence()

    @property
    def finished(self) -> bool:
        """Whether every range was read."""
        return len(self.done | self.rejected) == len(self.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """The runs in `cdc.resync_ranges`."""

    clickhouse: ClickHouse
    queries: Mapping[str, str]

    def unfinished(self, table: Table, selection: Selection, epoch: int) -> Plan | None:
        """What the last resync of this selection left; None where nothing, or too long ago."""
        if selection.keys:
            return None
        plan = self._last(table, selection.sentence(), epoch)
        return plan if plan and not plan.finished else None

    def unfinished_check(self, table: Table, epoch: int) -> Plan | None:
        """The plan of the last deep check, where that did not come to its end; see `end`."""
        plan = self._last(table, DEEP_CHECK, epoch)
        return plan if plan and plan.noted_ago <= _CHECKRESUMED_SECONDS else None

    def _last(self, table: Table, asked: str, epoch: int) -> Plan | None:
        found = self.clickhouse.execute(
            self.queries["last_run"], table=table.name, selection=asked, epoch=epoch
        )
        run = str(found[0][0])
        return self.find(table, run) if run else None

    def find(self, table: Table, run: str) -> Plan | None:
        """A run's plan; None where it was dropped, or is of too long ago."""
        rows = self.clickhouse.execute(self.queries["ranges_of"], table=table.name, run=run)
        states = {state for *_, state, _, _, _ in rows}
        ago = min((age for *_, age, _ in rows), default=0)
        if not rows or _DROPPED in states or ago > RESUMED_SECONDS:
            return None
        ranges = tuple(
            KeyRange(
                number=number,
                rows=expected,
                selection=Selection(lower=_key(lower), upper=_key(upper), below=_key(below)),
            )
            for number, lower, upper, below, expected, *_ in rows
        )
        read = {row[0]: row[-3] for row in rows if row[-4] == _DONE}
        return Plan(
            table=table,
            run=run,
            asked=rows[0][-1],
            ranges=ranges,
            done=frozenset(number for number, rejected in read.items() if not rejected),
            rejected=frozenset(number for number, rejected in read.items() if rejected),
            noted_ago=ago,
        )

    def keep(self, plan: Plan, epoch: int) -> None:
        """Keep a new plan, as one block: all of it or nothing."""
        parts = plan.ranges
        bounds = {
            name: [list(getattr(part.selection, name) or ()) for part in parts]
            for name in ("lower", "upper", "below")
        }
        columns: dict[str, list[Any]] = {
            "source_table": [plan.table.name] * len(parts),
            "run": [plan.run] * len(parts),
            "number": [part.number for part in parts],
            "selection": [plan.asked] * len(parts),
            "epoch": [epoch] * len(parts),
            "state": [_OPEN] * len(parts),
            "rows": [part.rows for part in parts],
            **bounds,
        }
        self.clickhouse.insert("cdc.resync_ranges", list(columns), list(columns.values()))

    def finish(self, plan: Plan, part: KeyRange, done: RangeDone) -> None:
        """Note that a range is drained."""
        self.clickhouse.insert_row(
            "cdc.resync_ranges",
            {
                "source_table": plan.table.name,
                "run": plan.run,
                "number": part.number,
                "state": _DONE,
                "rows": done.rows,
                "deleted": done.deleted,
                "rejected": sum(done.unstored.values()),
                "fence": format_lsn(done.fence),
            },
        )

    def end(self, plan: Plan) -> None:
        """Let nobody go on with this run."""
        row = {"source_table": plan.table.name, "run": plan.run, "state": _DROPPED}
        self.clickhouse.insert_row("cdc.resync_ranges", row)

    def drop(self, table: Table) -> None:
        """Let nobody go on with the table's runs: changes were lost since they read."""
        self.clickhouse.execute(self.queries["drop_ranges"], table=table.name)


def divided(
    table: Table, selection: Selection, rows: int, step: int, keys: Sequence[KeyText]
) -> Plan:
    """A new plan: ranges of `step` rows, divided before each of the keys; one without keys."""
    firsts = [selection.lower, *keys]
    ends: list[KeyText | None] = [*keys, None]
    parts = [
        KeyRange(
            number=number,
            rows=step if below else max(0, rows - step * number),
            selection=Selection(lower=lower, below=below, upper=None if below else selection.upper),
        )
        for number, (lower, below) in enumerate(zip(firsts, ends, strict=True))
    ]
    if selection.keys:
        parts = [KeyRange(number=0, rows=rows, selection=selection)]
    return Plan(table=table, run=uuid4().hex, asked=selection.sentence(), ranges=tuple(parts))


class Progress:
    """How far a run is, in one line; time left from the rows that this run has read.

    Args:
        word: what was done with the rows.
    """

    def __init__(self, plan: Plan, parts: Sequence[KeyRange], word: str = "read again") -> None:
        self._word = word
        self._name, self._ranges = plan.table.name, len(plan.ranges) - len(plan.open) + len(parts)
        self._done = len(plan.done)
        self._left = sum(part.rows for part in parts)
        self._rows, self._started = 0, time.monotonic()

    def add(self, part: KeyRange, rows: int) -> str:
        """Take in that a range is done; the line."""
        self._done += 1
        self._left -= part.rows
        self._rows += rows
        rate = self._rows / max(time.monotonic() - self._started, 0.001)
        ranges = f"{self._done} of {self._ranges} ranges"
        text = f"{self._name}: {ranges}, {self._rows} rows {self._word}"
        if self._left <= 0 or not rate:
            return text
        return f"{text}, {rate:.0f} a second, {duration(self._left / rate)} left"


def _key(parts: Sequence[str]) -> KeyText | None:
    return tuple(parts) or None
