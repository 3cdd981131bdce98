"""Data quality: do ClickHouse's rows equal Postgres' rows, as of one point of the WAL?

Postgres is counted in one snapshot, the fence. Then the drain is brought past the fence, and
ClickHouse is counted as of the fence: rows whose newest version is at or below it as they are,
the few that changed since as their history says. So writes that go on do not raise false alarms.
A difference is a finding only when a second fence finds the same difference.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sluice.adapters.clickhouse import ClickHouse
from sluice.adapters.postgres import Fence, PostgresSource
from sluice.catalog import Catalog, Fact, Table
from sluice.errors import NotReady, StaleCheckpoint, TopicGap
from sluice.generate.clickhouse import key_expression, quoted
from sluice.marks import OFF
from sluice.positions import format_lsn, pack
from sluice.rebuild import Rebuild

log = logging.getLogger(__name__)

T = TypeVar("T")
PASS, WARN, FAIL, UNSETTLED = "pass", "warn", "fail", "unsettled"
# Checks whose two values are the same thing counted on both sides.
COMPARED = frozenset({"row_count", "fact_row_count", "rows", "fact_rows"})
_ATTEMPTS = 4
_PAUSE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check; docs/quality.md lists them all.

    Attributes:
        table: the source table, the fact, or the slot.
        check: `row_count`, `freshness`, ...; of a deep check `rows`, `fact_rows`, ...
        status: `pass`, `warn`, `fail`, or `unsettled` when both sides could not be compared.
        postgres, clickhouse: what is there and what has come; of a measure 0 and its value.
        keys: keys that differ, where the check knows them.
        repair: the command that repairs a failure.
        difference: what differs, in words.
    """

    table: str
    check: str
    status: str
    postgres: int
    clickhouse: int
    keys: tuple[str, ...] = ()
    repair: str = ""
    difference: str = ""

    def sentence(self) -> str:
        """The check in one line: what, where, both values, and what to do."""
        text = f"{self.table}: {self.check} {self.status}:"
        parts = [f" Postgres {self.postgres}, ClickHouse {self.clickhouse}"]
        if self.difference:
            parts = [*parts, self.difference] if self.check in COMPARED else [f" {self.difference}"]
        text += "; ".join(parts)
        return f"{text}; {self.repair}" if self.repair and self.status != PASS else text


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """All checks of a run; `fence` is the point of the WAL they are of."""

    checks: tuple[Check, ...]
    fence: int = 0

    @property
    def failures(self) -> list[str]:
        """The checks that failed, in words; an unsettled one is not a failure."""
        return [check.sentence() for check in self.checks if check.status == FAIL]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def settled(self) -> bool:
        """Whether the drain passed the fence, so that both sides could be compared."""
        return all(c.status == PASS for c in self.checks if c.check in {"caught_up", "gap"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Compares tables and their facts.

    Attributes:
        slot: the replication slot's name; the drain is past a fence when the slot is.
        had_slot: whether there was one, so that one that is not there is gone.
        exact: a fence that waits for the transactions under way. Other fences are cheaper, but a
            commit that is in the WAL already and not yet visible lies before them unseen.
        catch_up: drains the tables and rebuilds the facts; what a topic lost goes to `gaps`.
        gaps: by source table.
        keep: keeps the results of checks as of a point of the WAL.
        most_rows: tables that have more are not counted here.
        rebuilds: by fact name.
        seconds: how long a fence may take to be passed.
    """

    source: PostgresSource
    clickhouse: ClickHouse
    catalog: Catalog
    queries: Mapping[str, str]
    rebuilds: Mapping[str, Rebuild]
    slot: str
    had_slot: Callable[[], bool]
    exact: Callable[[Sequence[Table]], Fence]
    catch_up: Callable[[], None]
    seconds: float
    gaps: Mapping[str, TopicGap]
    keep: Callable[[int, Sequence[Check]], None]
    most_rows: int

    def run(self, tables: Sequence[Table]) -> QualityReport:
        """Compare these tables, and the facts whose own table is among them; keep the results.

        Raises:
            NotReady: there is no replication slot yet.
            Unreachable: a service does not answer.
        """
        checks: tuple[Check, ...] = ()
        before: set[tuple[str, str, int]] | None = None
        counted = self.source.at_most(tables, self.most_rows)
        for _ in range(_ATTEMPTS):
            fence = self.source.fence(counted) if before is None else self.exact(counted)
            late = self._late(fence.lsn)
            if late:
                checks = tuple(self._lagging(tables, fence, late))
                break
            checks = tuple(self._compare(tables, fence))
            found = {
                (check.table, check.check, check.clickhouse - check.postgres)
                for check in checks
                if check.clickhouse != check.postgres
            }
            if not found:
                break
            if before is not None:
                checks = tuple(_confirmed(check, found & before) for check in checks)
                if found <= before:
                    break
            before = found
        checks = graded(self.catalog, checks)
        self.keep(fence.lsn, checks)
        return QualityReport(checks=checks, fence=fence.lsn)

    def _late(self, lsn: int) -> str:
        """Why the drain is not past the point, in words; empty when it is."""
        try:
            passed = self.passed(lsn)
        except NotReady:
            if not self.had_slot():
                raise
            try:  # it may have been made between the two looks
                passed = self.passed(lsn)
            except NotReady as error:
                if self._has_slot():
                    raise error from None  # something else is not set up
                return f"replication slot {self.slot!r} is gone"
        if self.gaps:
            return "another table's topic has a gap"
        late = f"changes up to {format_lsn(lsn)} were not drained in {self.seconds:.0f} s"
        return "" if passed else late

    def _has_slot(self) -> bool:
        try:
            self.source.slot(self.slot)
        except NotReady:
            return False
        return True

    def passed(self, lsn: int) -> bool:
        """Drain until the slot has confirmed the point; whether that came in time."""
        deadline = time.monotonic() + self.seconds
        while True:
            slot = self.source.slot(self.slot)
            if slot.wal_status == "lost":
                return False
            passed = slot.confirmed_lsn >= lsn
            if not passed and time.monotonic() > deadline:
                return False
            try:
                self.catch_up()
            except StaleCheckpoint:
                continue  # another drain is at work; look again
            if self.gaps:
                return False  # the slot cannot move past what is not there
            if passed:
                return True
            time.sleep(_PAUSE)

    def go_on(self) -> None:
        """Let the drain and the rebuilds pass everything that was committed until now."""
        self.passed(self.source.fence(()).lsn)

    def _compare(self, tables: Sequence[Table], fence: Fence) -> list[Check]:
        small = [table for table in tables if table.name in fence.rows]
        counted = {table.name: self._rows_at(table, fence) for table in small}
        checks = list(self._caught_up(tables, fence))
        checks += [
            Check(
                table=table.name,
                check="row_count",
                status=_status(fence.rows[table.name], counted[table.name]),
                postgres=fence.rows[table.name],
                clickhouse=counted[table.name],
                repair=f"run: sluice resync {table.name}",
            )
            for table in small
        ]
        facts = (fact for fact in self.catalog.facts if fact.table.name in counted)
        return checks + [self._fact(fact, fence, counted[fact.table.name]) for fact in facts]

    def _fact(self, fact: Fact, fence: Fence, source_rows: int) -> Check:
        """The fact against its own table, both as they are; reported as of the fence."""
        missing = self._missing_facts(fact)
        rows, expected = source_rows - missing, fence.rows[fact.table.name]
        return Check(
            table=fact.name,
            check="fact_row_count",
            status=_status(expected, rows),
            postgres=expected,
            clickhouse=rows,
            repair="run: sluice rebuild --full",
        )

    def _missing_facts(self, fact: Fact) -> int:
        """Rows of the fact's table less rows of the fact, at a moment when no drain was between."""
        rebuild = self.rebuilds[fact.name]
        difference = 0
        for _ in range(_ATTEMPTS):
            drained = rebuild.drained()
            difference = rebuild.live_rows(fact.table.storage) - rebuild.live_rows(fact.name)
            if difference == 0 or (rebuild.seen() == drained == rebuild.drained()):
                break
            self._rebuild_again()
        return difference

    def at_rest(self, fact: Fact, compare: Callable[[Fact], T]) -> T:
        """The comparison of a fact with its tables, at a moment when no drain was between."""
        rebuild = self.rebuilds[fact.name]
        for _ in range(_ATTEMPTS):
            drained = rebuild.drained()
            found = compare(fact)
            if rebuild.seen() == drained == rebuild.drained():
                return found
            self._rebuild_again()
        return compare(fact)

    def _rebuild_again(self) -> None:
        try:
            self.catch_up()
        except StaleCheckpoint:
            time.sleep(_PAUSE)

    def _rows_at(self, table: Table, fence: Fence) -> int:
        """Live rows as of the fence; of a source without comparable positions, as of now."""
        checkpoint = self.clickhouse.execute(self.queries["source"], table=table.name)
        if not checkpoint or checkpoint[0][0] != "relay":
            live = self.clickhouse.execute(self.queries["live_rows"], table=table.storage)
            return int(live[0][0])
        version = pack(checkpoint[0][1], fence.lsn, 0)
        settled = self.clickhouse.execute(
            self.queries["settled_rows"], table=table.storage, fence=version
        )
        key = key_expression([column.name for column in table.key])
        changed = self.clickhouse.execute(
            "SELECT countIf(deleted = 0) FROM (\n"
            "    SELECT argMax(_is_deleted, _version) AS deleted\n"
            f"    FROM cdc.{quoted(table.history)}\n"
            f"    WHERE _version <= {{fence:UInt128}} AND {key} IN (\n"
            f"        SELECT {key} FROM cdc.{quoted(table.storage)}\n"
            "        WHERE _version > {fence:UInt128}\n"
            f"    )\n    GROUP BY {key}\n)",
            fence=version,
        )
        return int(settled[0][0]) + int(changed[0][0])

    def _lagging(self, tables: Sequence[Table], fence: Fence, late: str) -> Iterator[Check]:
        """That nothing could be compared: a finding where no other check is one for it."""
        slot = self.source.find_slot(self.slot)
        alone = slot is not None and slot.wal_status != "lost" and not self.gaps
        for table in tables:
            gap = self.gaps.get(table.name)
            lagging = Check(
                table=table.name,
                check="caught_up",
                status=FAIL if alone else UNSETTLED,
                postgres=fence.lsn,
                clickhouse=slot.confirmed_lsn if slot else 0,
                difference=late,
                repair="see: sluice status, sluice logs relay",
            )
            yield _gap(table, gap) if gap else lagging

    def _caught_up(self, tables: Sequence[Table], fence: Fence) -> Iterator[Check]:
        """That every table is past the fence; so findings of earlier runs end."""
        for table in tables:
            yield Check(
                table=table.name,
                check="caught_up",
                status=PASS,
                postgres=fence.lsn,
                clickhouse=fence.lsn,
                difference=f"everything up to {format_lsn(fence.lsn)} is drained",
            )
            yield _gap(table, None)


def graded(catalog: Catalog, checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks with the severities that the models mark; without those that are off."""
    marks = {table.name: table.quality for table in catalog.tables}
    marks.update((fact.name, fact.table.quality) for fact in catalog.facts)
    kept = []
    for check in checks:
        severity = marks[check.table].severity(check.check)
        if severity != OFF:
            kept.append(replace(check, status=severity) if check.status == FAIL else check)
    return tuple(kept)


def _gap(table: Table, error: TopicGap | None) -> Check:
    return Check(
        table=table.name,
        check="gap",
        status=FAIL if error else PASS,
        postgres=0,
        clickhouse=int(error is not None),
        difference=error.what if error else "no change is missing from the topic",
        repair=f"run: sluice resync {table.name}",
    )


def _status(postgres: int, clickhouse: int) -> str:
    return PASS if postgres == clickhouse else UNSETTLED


def _confirmed(check: Check, differences: set[tuple[str, str, int]]) -> Check:
    """The check as a failure when its difference is one that two fences found."""
    difference = (check.table, check.check, check.clickhouse - check.postgres)
    return replace(check, status=FAIL) if difference in differences else check
