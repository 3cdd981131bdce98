"""Compares row counts of PostgreSQL and ClickHouse as of one point of the WAL.

PostgreSQL is counted in one snapshot, the fence. Then the drain passes the fence, and ClickHouse is
counted as of the fence: rows whose newest version is at or below it as they are, rows that changed
since by their history. So concurrent writes raise no false alarm. A difference is counted again as
of an exact fence, and is a finding only if no change during the count can explain it.

Being late is no finding: a fence that is not passed in time leaves the checks unsettled, which
becomes a warning after its own limit; see docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Protocol

from sluice.catalog import Catalog, Fact, Table
from sluice.catalog.quality_options import Status
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import Fence, PostgresSource, SlotState
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.errors import Lagging, NotReady, SluiceError, TopicGap
from sluice.events.positions import format_lsn
from sluice.execution.outcomes import Outcomes
from sluice.quality.carried import Carried, Place
from sluice.quality.checks import (
    COMPARED,
    Ages,
    Check,
    QualityReport,
    graded,
    not_checked,
    passing,
)
from sluice.quality.fences import Fences
from sluice.quality.table_counts import TableCounts, version_at

_ATTEMPTS = 4
_NONE: Mapping[Place, str] = {}


class Keep(Protocol):
    """See Results.keep."""

    def __call__(
        self, lsn: int, checks: Sequence[Check], marks: Mapping[Place, str] = _NONE
    ) -> tuple[Check, ...]:
        """Store results; return them with the ages of unsettled ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Compares row counts of tables and their facts.

    Attributes:
        missing: see FactCounts.missing_rows.
        exact: returns a fence that waits for open transactions. Other fences are cheaper, but miss
            a commit that is in the WAL and not yet visible.
        keep: stores the results of checks as of a point of the WAL; returns them with their ages.
        ages: returns the ages of the unsettled checks of tables.
        most_rows: the most rows of a table that is counted.
    """

    source: PostgresSource
    clickhouse: ClickHouse
    catalog: Catalog
    queries: Mapping[str, str]
    missing: Callable[[Sequence[Fact], Mapping[str, int], Outcomes], Mapping[str, int]]
    fences: Fences
    exact: Callable[[Sequence[Table]], Fence]
    keep: Keep
    ages: Callable[[Sequence[str]], Ages]
    most_rows: int

    def run(self, tables: Sequence[Table], known: Carried) -> QualityReport:
        """Compare these tables, and the facts whose own table is among them; store the results.

        Args:
            known: the counts that need not be repeated.

        Raises:
            NotReady: there is no replication slot yet.
            Unreachable: a service does not answer.
        """
        compared, errors = self._carried(known), dict[str, SluiceError]()
        changed = [table for table in tables if table.name not in compared]
        counted = self.source.at_most(changed, self.most_rows)
        fence, drained = self.source.fence(counted), None
        for _ in range(_ATTEMPTS):
            behind = self.fences.behind(fence.lsn, tables)
            present = [table for table in counted if table.name in fence.rows]
            checks, troubles = self._compare(present, fence, behind, drained)
            latest = {check.table: check for check in checks}
            together = {**errors, **fence.troubles, **troubles}.items()
            errors = {name: error for name, error in together if name not in latest}
            compared = {n: c for n, c in {**compared, **latest}.items() if n not in errors}
            counted = self._unsettled(counted, checks)
            if not counted:
                break
            drained = self.drained()
            try:
                fence = self.exact(counted)
            except NotReady as error:
                compared = {name: _because(check, error.what) for name, check in compared.items()}
                break
        late = {table.name: behind[table.name] for table in tables if table.name in behind}
        for fact in self.catalog.facts:
            if fact.name in behind and fact.table.name in compared:
                errors[fact.name] = behind[fact.name]
        errors = {name: error for name, error in errors.items() if name not in late}
        settled = [c for name, c in compared.items() if name not in {*late, *errors}]
        checks = [*self._fenced(tables, fence, behind), *settled, *self._uncompared(errors)]
        kept = self.keep(fence.lsn, graded(self.catalog, checks), known.marks)
        errors |= late
        return QualityReport(checks=kept, fence=fence.lsn, troubles=passing(errors))

    def _carried(self, known: Carried) -> dict[str, Check]:
        """Return the carried counts of tables, and of their facts where both are carried."""
        kind, facts = "fact_row_count", {fact.name: fact.table.name for fact in self.catalog.facts}
        checked = {f.name for f in self.catalog.facts if f.table.quality.severity(kind) is not None}
        wanting = {facts[name] for name in checked - known.names(kind)}
        tables = known.names("row_count") - wanting
        return {
            name: check
            for (name, kind), check in known.checks.items()
            if kind in COMPARED and facts.get(name, name) in tables
        }

    def _unsettled(self, tables: Sequence[Table], checks: Sequence[Check]) -> tuple[Table, ...]:
        """Return the tables to compare again: their own check, or their fact's, is unsettled."""
        names = {check.table for check in checks if check.status == Status.UNSETTLED}
        names |= {fact.table.name for fact in self.catalog.facts if fact.name in names}
        return tuple(table for table in tables if table.name in names)

    def pass_now(self) -> tuple[int, Set[str]]:
        """Drain past the current end of the WAL; return the point, and the tables behind it."""
        lsn = self.source.fence(()).lsn
        return lsn, self.fences.behind(lsn, self.catalog.tables).keys()

    def drained(self) -> dict[str, int]:
        """Return the highest drained `_seq` by source table."""
        return dict(self.clickhouse.execute(self.queries["drained"]))

    def version(self, table: Table, lsn: int) -> int | None:
        """Return the version below which a table's rows are as of the point; None for Connect."""
        return version_at(ClickHouseStore(self.clickhouse).checkpoint(table.name), lsn)

    def _compare(
        self,
        tables: Sequence[Table],
        fence: Fence,
        behind: Mapping[str, SluiceError],
        drained: Mapping[str, int] | None,
    ) -> tuple[list[Check], dict[str, SluiceError]]:
        """Compare the counts of tables and their facts; return checks and the errors by name.

        Args:
            drained: for an exact fence, the `_seq` drained before it, by table.
        """
        outcomes = Outcomes()
        compared = [table for table in tables if table.name not in behind]
        results = self._counts(outcomes).run(compared, fence, drained)
        counted = {
            table.name: Check(
                table=table.name,
                check="row_count",
                status=results[table.name][0],
                postgres=fence.rows[table.name],
                clickhouse=results[table.name][1],
                repair=f"run: sluice resync {table.name} --diff",
            )
            for table in compared
            if table.name in results
        }
        facts = [f for f in self.catalog.facts if f.table.name in counted and f.name not in behind]
        rows = {fact.name: counted[fact.table.name].clickhouse for fact in facts}
        missing = self.missing(facts, rows, outcomes)
        checks = [
            _fact(fact, counted[fact.table.name], missing[fact.name])
            for fact in facts
            if fact.name in missing
        ]
        return [*counted.values(), *checks], outcomes.troubles

    def _counts(self, outcomes: Outcomes) -> TableCounts:
        return TableCounts(clickhouse=self.clickhouse, drained=self.drained, outcomes=outcomes)

    def _uncompared(self, troubles: Mapping[str, SluiceError]) -> list[Check]:
        """Return checks of tables and facts that could not be compared."""
        facts = {fact.name for fact in self.catalog.facts}
        return [
            not_checked(name, "fact_row_count" if name in facts else "row_count", error)
            for name, error in troubles.items()
        ]

    def _fenced(
        self, tables: Sequence[Table], fence: Fence, behind: Mapping[str, SluiceError]
    ) -> Iterator[Check]:
        """Yield whether each table is past the fence; passing checks end earlier findings."""
        late = [name for name, error in behind.items() if isinstance(error, Lagging)]
        slot = self.source.find_slot(self.fences.slot) if late else None
        ages = self.ages(late) if late else {}
        for table in tables:
            error = behind.get(table.name)
            if isinstance(error, TopicGap):
                yield _gap(table, error)
            elif isinstance(error, Lagging):
                age = ages.get((table.name, "caught_up"), 0)
                yield _lagging(table, fence, error, slot, age)
            elif error is not None:
                yield not_checked(table.name, "caught_up", error)
            else:
                yield Check(
                    table=table.name,
                    check="caught_up",
                    status=Status.PASS,
                    postgres=fence.lsn,
                    clickhouse=fence.lsn,
                    difference=f"everything up to {format_lsn(fence.lsn)} is drained",
                )
                yield _gap(table, None)


def _lagging(table: Table, fence: Fence, late: Lagging, slot: SlotState | None, age: int) -> Check:
    """Return the check of a late table: a warning if that lasts and the slot is intact."""
    alone = slot is not None and slot.wal_status != "lost"
    status = table.quality.limit("caught_up").status(age) if alone else Status.PASS
    return Check(
        table=table.name,
        check="caught_up",
        status=Status.UNSETTLED if status == Status.PASS else status,
        postgres=fence.lsn,
        clickhouse=slot.confirmed_lsn if slot else 0,
        difference=late.what,
        repair=late.remedy or "",
    )


def _fact(fact: Fact, counted: Check, missing: int) -> Check:
    """Compare a fact with its own table as of its last rebuild; report it as of the fence.

    Args:
        missing: the rows that the fact lacks, less those in excess.
    """
    rows, status = counted.clickhouse - missing, counted.status
    if missing and status != Status.UNSETTLED:
        status = Status.PASS if rows == counted.postgres else Status.FAIL
    return Check(
        table=fact.name,
        check="fact_row_count",
        status=status,
        postgres=counted.postgres,
        clickhouse=rows,
        repair="run: sluice rebuild --full",
    )


def _gap(table: Table, error: TopicGap | None) -> Check:
    return Check(
        table=table.name,
        check="gap",
        status=Status.FAIL if error else Status.PASS,
        postgres=0,
        clickhouse=int(error is not None),
        difference=error.what if error else "no change is missing from the topic",
        repair=f"run: sluice resync {table.name}",
    )


def _because(check: Check, why: str) -> Check:
    """Return an unsettled check with the reason; any other unchanged."""
    return replace(check, difference=why) if check.status == Status.UNSETTLED else check
