"""The key ranges of a resync or a deep check, and the progress that lets a later run resume.

Each range of a resync is read behind a fence of its own and noted in `cdc.resync_ranges` when it is
drained. It stays done: the stream brings every change after its fence, and a later run reads the
other ranges behind later fences. PostgreSQL keeps WAL and dead rows for one range only.
A range with rows that could not be stored is noted with their number. The run counts as finished,
so that the next command reads all rows again; but a resumed run reads the range again, and reports
the rows that still cannot be stored.
Of a deep check, the ranges without differences are noted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from uuid import uuid4

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection
from sluice.clients.clickhouse import ClickHouse
from sluice.events.event import KeyText
from sluice.events.positions import format_lsn
from sluice.execution import progress
from sluice.execution.progress import Amount, Line, duration

_OPEN, _DONE, _DROPPED = "open", "done", "dropped"
# An unfinished run can be resumed for this time after its last range. Later, the rows that it read
# may have been damaged since.
RESUMED_SECONDS = 6 * 3600
# Less for a deep check, which reports the present state.
_CHECK_RESUMED_SECONDS = 3600
# `purpose` of a deep check.
DEEP_CHECK = "deep check"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """A range with its expected number of rows, or the number read once it is done."""

    number: int
    rows: int
    selection: Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeDone:
    """The result of a range.

    Attributes:
        fence: LSN as of which it was read.
        rows: number of rows read.
        deleted: number of rows that only ClickHouse had.
        unstored: reason -> number of rows that could not be stored.
        verified: whether the checksums of both sides were compared.
    """

    fence: int
    rows: int = 0
    verified: bool = False
    deleted: int = 0
    unstored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The ranges of a run, and its progress.

    Attributes:
        purpose: the selection in words, or DEEP_CHECK.
        done: numbers of the finished ranges.
        rejected: numbers of the ranges with rows that could not be stored.
        noted_ago: seconds since the run's last note.
    """

    table: Table
    run: str
    purpose: str
    ranges: tuple[KeyRange, ...]
    done: frozenset[int] = frozenset()
    rejected: frozenset[int] = frozenset()
    noted_ago: int = 0

    @property
    def open(self) -> tuple[KeyRange, ...]:
        """Return the ranges that are not done."""
        return tuple(part for part in self.ranges if part.number not in self.done)

    @property
    def whole(self) -> bool:
        """Whether the run is of all rows of the table."""
        return self.purpose == Selection().sentence()

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
        """Return the last resync of this selection if it can be resumed, else None."""
        if selection.keys:
            return None
        plan = self._last(table, selection.sentence(), epoch)
        return plan if plan and not plan.finished else None

    def unfinished_check(self, table: Table, epoch: int) -> Plan | None:
        """Return the last deep check if it can be resumed, else None; see `end`."""
        plan = self._last(table, DEEP_CHECK, epoch)
        return plan if plan and plan.noted_ago <= _CHECK_RESUMED_SECONDS else None

    def _last(self, table: Table, purpose: str, epoch: int) -> Plan | None:
        rows = self.clickhouse.execute(
            self.queries["last_run"], table=table.name, selection=purpose, epoch=epoch
        )
        run = str(rows[0][0])
        return self.find(table, run) if run else None

    def find(self, table: Table, run: str) -> Plan | None:
        """Return a run's plan; None where it was dropped or is too old."""
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
            purpose=rows[0][-1],
            ranges=ranges,
            done=frozenset(number for number, rejected in read.items() if not rejected),
            rejected=frozenset(number for number, rejected in read.items() if rejected),
            noted_ago=ago,
        )

    def keep(self, plan: Plan, epoch: int) -> None:
        """Store a new plan atomically, as one block."""
        parts = plan.ranges
        bounds = {
            name: [list(getattr(part.selection, name) or ()) for part in parts]
            for name in ("lower", "upper", "below")
        }
        columns: dict[str, list[Any]] = {
            "source_table": [plan.table.name] * len(parts),
            "run": [plan.run] * len(parts),
            "number": [part.number for part in parts],
            "selection": [plan.purpose] * len(parts),
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
        """Note that this run must not be resumed."""
        row = {"source_table": plan.table.name, "run": plan.run, "state": _DROPPED}
        self.clickhouse.insert_row("cdc.resync_ranges", row)

    def drop(self, table: Table) -> None:
        """Note that the table's runs must not be resumed: changes were lost since."""
        self.clickhouse.execute(self.queries["drop_ranges"], table=table.name)


def divided(
    table: Table, selection: Selection, rows: int, step: int, keys: Sequence[KeyText]
) -> Plan:
    """Return a new plan: ranges of `step` rows that begin at the keys; a single range without."""
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
    return Plan(table=table, run=uuid4().hex, purpose=selection.sentence(), ranges=tuple(parts))


class Progress:
    """Progress of a run as log lines; the time left is estimated from the rows read so far.

    Several threads may report ranges that they read side by side.

    Args:
        word: verb for the rows. Default: `read again`.
    """

    def __init__(self, plan: Plan, parts: Sequence[KeyRange], word: str = "read again") -> None:
        self._word = word
        self._name, self._ranges = plan.table.name, len(plan.ranges) - len(plan.open) + len(parts)
        self._done = len(plan.done)
        self._left = sum(part.rows for part in parts)
        self._rows, self._unfinished = 0, dict[int, int]()
        self._started = self._reported = time.monotonic()
        self._turn = Lock()

    def add(self, part: KeyRange, rows: int) -> Line:
        """Count a finished range; return the log line."""
        with self._turn:
            self._unfinished.pop(part.number, None)
            self._done += 1
            self._left -= part.rows
            self._rows += rows
            return self._line()

    def at(self, part: KeyRange, rows: int) -> Line | None:
        """Take in the rows of a range so far; return a log line every few seconds."""
        with self._turn:
            self._unfinished[part.number] = rows
            if time.monotonic() - self._reported < progress.SECONDS:
                return None
            return self._line()

    def _line(self) -> Line:
        self._reported = time.monotonic()
        unfinished = sum(self._unfinished.values())
        done, left = self._rows + unfinished, self._left - unfinished
        rate = done / max(self._reported - self._started, 0.001)
        ranges = f"{self._done} of {self._ranges} ranges"
        text = f"{self._name}: {ranges}, {done} rows {self._word}"
        seconds = left / rate if left > 0 and rate else None
        amount = Amount(
            work=f"{self._name}: rows {self._word}",
            done=done,
            total=done + max(left, 0),
            seconds_left=seconds,
        )
        if seconds is not None:
            text = f"{text}, {rate:.0f} a second, {duration(seconds)} left"
        return Line(text, amount)


def _key(parts: Sequence[str]) -> KeyText | None:
    return tuple(parts) or None
