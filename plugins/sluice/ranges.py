"""The key ranges of a resync, and which of them are done: what a killed run left to the next one.

Each range is read behind a fence of its own and noted in `cdc.resync_ranges` when it is drained.
So what is done is done: the stream brings every change after a range's fence, and a later run
reads the others behind later fences. Postgres holds back WAL and dead rows for one range alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sluice.adapters.clickhouse import ClickHouse
from sluice.catalog import Table
from sluice.events import KeyText
from sluice.positions import format_lsn
from sluice.selection import Selection

_OPEN, _DONE, _DROPPED = "open", "done", "dropped"
# An unfinished run is gone on with so long after its last range, seconds. Later, what it read
# may have been spoilt since, and nobody remembers that there was one.
_GOES_ON = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """A range and how many rows were expected in it."""

    number: int
    rows: int
    selection: Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The ranges of a run, and the numbers of those that are done.

    Attributes:
        asked: the selection that was asked for, in words.
    """

    table: Table
    run: str
    asked: str
    ranges: tuple[KeyRange, ...]
    done: frozenset[int] = frozenset()

    @property
    def open(self) -> tuple[KeyRange, ...]:
        """The ranges that are left."""
        return tuple(part for part in self.ranges if part.number not in self.done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """The runs in `cdc.resync_ranges`."""

    clickhouse: ClickHouse
    queries: Mapping[str, str]

    def unfinished(self, table: Table, selection: Selection, epoch: int) -> Plan | None:
        """What the last run of this selection left; None where nothing, or too long ago."""
        found = self.clickhouse.execute(
            self.queries["last_resync"],
            table=table.name,
            selection=selection.sentence(),
            epoch=epoch,
        )
        run = str(found[0][0])
        plan = self.find(table, run) if run and not selection.keys else None
        return plan if plan and plan.open else None

    def find(self, table: Table, run: str) -> Plan | None:
        """A run's plan; None where it was dropped, or is of too long ago."""
        rows = self.clickhouse.execute(self.queries["ranges_of"], table=table.name, run=run)
        states = {state for *_, state, _, _ in rows}
        if not rows or _DROPPED in states or min(age for *_, age, _ in rows) > _GOES_ON:
            return None
        ranges = tuple(
            KeyRange(
                number=number,
                rows=expected,
                selection=Selection(lower=_key(lower), upper=_key(upper), below=_key(below)),
            )
            for number, lower, upper, below, expected, *_ in rows
        )
        done = frozenset(number for number, *_, state, _, _ in rows if state == _DONE)
        return Plan(table=table, run=run, asked=rows[0][-1], ranges=ranges, done=done)

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

    def finish(self, plan: Plan, part: KeyRange, fence: int, rows: int, deleted: int) -> None:
        """Note that a range is drained."""
        self.clickhouse.insert_row(
            "cdc.resync_ranges",
            {
                "source_table": plan.table.name,
                "run": plan.run,
                "number": part.number,
                "state": _DONE,
                "rows": rows,
                "deleted": deleted,
                "fence": format_lsn(fence),
            },
        )

    def drop(self, table: Table) -> None:
        """Let nobody go on with unfinished runs: changes were lost since their ranges were read."""
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
    """How far a run is, in one line; time left from the rows that this run has read."""

    def __init__(self, plan: Plan, parts: Sequence[KeyRange]) -> None:
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
        text = f"{self._name}: {self._done} of {self._ranges} ranges, {self._rows} rows read again"
        if self._left <= 0 or not rate:
            return text
        return f"{text}, {rate:.0f} a second, {duration(self._left / rate)} left"


def duration(seconds: float) -> str:
    """So many seconds as people say it: `about 40 s`, `about 12 min`, `about 3 h 20 min`."""
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"


def _key(parts: Sequence[str]) -> KeyText | None:
    return tuple(parts) or None
