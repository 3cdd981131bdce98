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

from sluice.catalog import Catalog, Fact, Table
from sluice.catalog.quality_options import Status
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import Fence, PostgresSource
from sluice.errors import Lagging, NotReady, SluiceError, TopicGap
from sluice.events.positions import format_lsn, pack
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import key_expression, quoted
from sluice.quality.checks import Ages, Check, QualityReport, graded, passing, unmade
from sluice.quality.fences import Fences

_ATTEMPTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Compares row counts of tables and their facts.

    Attributes:
        missing: returns the rows that a fact lacks, less those in excess; raises Lagging.
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
    missing: Callable[[Fact], int]
    fences: Fences
    exact: Callable[[Sequence[Table]], Fence]
    keep: Callable[[int, Sequence[Check]], tuple[Check, ...]]
    ages: Callable[[Sequence[str]], Ages]
    most_rows: int

    def run(self, tables: Sequence[Table]) -> QualityReport:
        """Compare these tables, and the facts whose own table is among them; store the results.

        Raises:
            NotReady: there is no replication slot yet.
            Unreachable: a service does not answer.
        """
        counted, uncounted = self.source.at_most(tables, self.most_rows), dict[str, SluiceError]()
        fence, drained = self.source.fence(counted), None
        for _ in range(_ATTEMPTS):
            uncounted.update(fence.troubles)
            counted = tuple(table for table in counted if table.name in fence.rows)
            behind = self.fences.behind(fence.lsn, tables)
            compared, troubles = self._compare(counted, fence, behind, drained)
            troubles |= {n: e for n, e in uncounted.items() if n not in behind}
            checks = [*self._fenced(tables, fence, behind), *compared, *self._uncompared(troubles)]
            if all(check.status != Status.UNSETTLED for check in compared):
                break
            drained = self.drained()
            try:
                fence = self.exact(counted)
            except NotReady as error:
                checks = [_because(check, error.what) for check in checks]
                break
        kept = self.keep(fence.lsn, graded(self.catalog, checks))
        troubles |= {table.name: behind[table.name] for table in tables if table.name in behind}
        return QualityReport(checks=kept, fence=fence.lsn, troubles=passing(troubles))

    def pass_now(self) -> tuple[int, Set[str]]:
        """Drain past the current end of the WAL; return the point, and the tables behind it."""
        lsn = self.source.fence(()).lsn
        return lsn, self.fences.behind(lsn, self.catalog.tables).keys()

    def drained(self) -> dict[str, int]:
        """Return the highest drained `_seq` by source table."""
        return dict(self.clickhouse.execute(self.queries["drained"]))

    def version(self, table: Table, lsn: int) -> int | None:
        """Return the version below which a table's rows are as of the point; None for Connect."""
        checkpoint = self.clickhouse.execute(self.queries["source"], table=table.name)
        if not checkpoint or checkpoint[0][0] != "relay":
            return None
        return pack(checkpoint[0][1], lsn, 0)

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
        outcomes, counted, facts = Outcomes(), dict[str, Check](), list[Check]()
        for table in tables:
            if table.name not in behind:
                with outcomes.of(table.name):
                    counted[table.name] = self._row_count(table, fence, drained)
        for fact in self.catalog.facts:
            if fact.table.name in counted:
                with outcomes.of(fact.name):
                    if fact.name in behind:
                        raise behind[fact.name]
                    facts.append(self._fact(fact, counted[fact.table.name]))
        return [*counted.values(), *facts], outcomes.troubles

    def _row_count(self, table: Table, fence: Fence, drained: Mapping[str, int] | None) -> Check:
        expected = fence.rows[table.name]
        version = self.version(table, fence.lsn)
        if version is None:
            status, rows = self._counted_now(table, expected, drained)
        else:
            status, rows = self._counted(table, expected, version, exact=drained is not None)
        return Check(
            table=table.name,
            check="row_count",
            status=status,
            postgres=expected,
            clickhouse=rows,
            repair=f"run: sluice resync {table.name}",
        )

    def _counted(
        self, table: Table, expected: int, version: int, *, exact: bool
    ) -> tuple[Status, int]:
        """Return the status, and live rows as of the fence.

        A row that a change moves past the fence between two queries is counted twice if settled
        rows are counted first, and not at all if they are counted last. So the true number is
        between both counts, and a number outside of them is a difference.
        """
        settled, changed = self._settled_rows(table, version), self._changed_rows(table, version)
        if settled + changed == expected or not exact:
            status = Status.PASS if settled + changed == expected else Status.UNSETTLED
            return status, settled + changed
        most, least = settled + changed, self._settled_rows(table, version) + changed
        if least <= expected <= most:
            return (Status.PASS if least == expected else Status.UNSETTLED), least
        return Status.FAIL, most if expected > most else least

    def _counted_now(
        self, table: Table, expected: int, drained: Mapping[str, int] | None
    ) -> tuple[Status, int]:
        """Return the status, and current live rows, which are those of the fence if nothing was
        drained since before it.
        """
        live = self.clickhouse.execute(self.queries["live_rows"], table=table.storage)
        rows = int(live[0][0])
        if rows == expected:
            return Status.PASS, rows
        at_rest = drained is not None and self.drained().get(table.name) == drained.get(table.name)
        return (Status.FAIL if at_rest else Status.UNSETTLED), rows

    def _settled_rows(self, table: Table, version: int) -> int:
        rows = self.clickhouse.execute(
            self.queries["settled_rows"], table=table.storage, fence=version
        )
        return int(rows[0][0])

    def _changed_rows(self, table: Table, version: int) -> int:
        key = key_expression([column.name for column in table.key])
        rows = self.clickhouse.execute(
            "SELECT countIf(deleted = 0) FROM (\n"
            "    SELECT argMax(_is_deleted, _version) AS deleted\n"
            f"    FROM cdc.{quoted(table.history)}\n"
            f"    WHERE _version <= {{fence:UInt128}} AND {key} IN (\n"
            f"        SELECT {key} FROM cdc.{quoted(table.storage)}\n"
            "        WHERE _version > {fence:UInt128}\n"
            f"    )\n    GROUP BY {key}\n)",
            fence=version,
        )
        return int(rows[0][0])

    def _fact(self, fact: Fact, counted: Check) -> Check:
        """Compare a fact with its own table as of its last rebuild; report it as of the fence."""
        missing = self.missing(fact)
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

    def _uncompared(self, troubles: Mapping[str, SluiceError]) -> list[Check]:
        """Return checks of tables and facts that could not be compared."""
        facts = {fact.name for fact in self.catalog.facts}
        return [
            unmade(name, "fact_row_count" if name in facts else "row_count", error)
            for name, error in troubles.items()
        ]

    def _fenced(
        self, tables: Sequence[Table], fence: Fence, behind: Mapping[str, SluiceError]
    ) -> Iterator[Check]:
        """Yield whether each table is past the fence; passing checks end earlier findings."""
        for table in tables:
            error = behind.get(table.name)
            if isinstance(error, TopicGap):
                yield _gap(table, error)
            elif isinstance(error, Lagging):
                yield self._lagging(table, fence, error)
            elif error is not None:
                yield unmade(table.name, "caught_up", error)
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

    def _lagging(self, table: Table, fence: Fence, late: Lagging) -> Check:
        """Return the check of a late table: a warning if that lasts and the slot is intact."""
        slot = self.source.find_slot(self.fences.slot)
        age = self.ages([table.name]).get((table.name, "caught_up"), 0)
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
