"""Data quality: do ClickHouse's rows equal Postgres' rows, as of one point of the WAL?

Postgres is counted in one snapshot, the fence. Then the drain is brought past the fence, and
ClickHouse is counted as of the fence: rows whose newest version is at or below it as they are,
the few that changed since as their history says. So writes that go on do not raise false alarms.
A difference is a finding only when a second fence finds the same difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sluice.adapters.clickhouse import ClickHouse
from sluice.adapters.postgres import Fence, PostgresSource
from sluice.catalog import Catalog, Fact, Table
from sluice.errors import Lagging, QualityFailed, Retryable, SluiceError, TopicGap
from sluice.fences import Fences
from sluice.generate.clickhouse import key_expression, quoted
from sluice.marks import OFF
from sluice.outcomes import Outcomes
from sluice.positions import format_lsn, pack
from sluice.rebuild import Rebuild

T = TypeVar("T")
PASS, WARN, FAIL, UNSETTLED = "pass", "warn", "fail", "unsettled"
# Checks whose two values are the same thing counted on both sides.
COMPARED = frozenset({"row_count", "fact_row_count", "rows", "fact_rows"})
_ATTEMPTS = 4


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
            counted = self.check in COMPARED and (self.postgres or self.clickhouse)
            parts = [*parts, self.difference] if counted else [f" {self.difference}"]
        text += "; ".join(parts)
        return f"{text}; {self.repair}" if self.repair and self.status != PASS else text


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """All checks of a run.

    Attributes:
        fence: the point of the WAL they are of.
        troubles: table or fact -> why it could not be compared this time, though another run may.
    """

    checks: tuple[Check, ...]
    fence: int = 0
    troubles: Mapping[str, SluiceError] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """The checks that failed, in words; an unsettled one is not a failure."""
        return [check.sentence() for check in self.checks if check.status == FAIL]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def behind(self) -> frozenset[str]:
        """Tables that the drain did not bring past the fence, so that they were not compared."""
        fenced = (check for check in self.checks if check.check in {"caught_up", "gap"})
        return frozenset(check.table for check in fenced if check.status != PASS)

    @property
    def settled(self) -> bool:
        """Whether the drain passed the fence with every table."""
        return not self.behind

    def require_passed(self) -> None:
        """Raise the worst of what was found and of what could not be compared.

        Raises:
            QualityFailed: a check failed.
            Retryable: a table could not be compared this time.
        """
        outcomes = Outcomes()
        outcomes.troubles.update(self.troubles)
        if self.failures:
            failed = ", ".join(sorted({c.table for c in self.checks if c.status == FAIL}))
            outcomes.troubles["quality"] = QualityFailed(f"quality checks failed: {failed}")
        outcomes.require()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Compares tables and their facts.

    Attributes:
        exact: a fence that waits for the transactions under way. Other fences are cheaper, but a
            commit that is in the WAL already and not yet visible lies before them unseen.
        keep: keeps the results of checks as of a point of the WAL.
        most_rows: tables that have more are not counted here.
        rebuilds: by fact name.
    """

    source: PostgresSource
    clickhouse: ClickHouse
    catalog: Catalog
    queries: Mapping[str, str]
    rebuilds: Mapping[str, Rebuild]
    fences: Fences
    exact: Callable[[Sequence[Table]], Fence]
    keep: Callable[[int, Sequence[Check]], None]
    most_rows: int

    def run(self, tables: Sequence[Table]) -> QualityReport:
        """Compare these tables, and the facts whose own table is among them; keep the results.

        Raises:
            NotReady: there is no replication slot yet.
            Unreachable: a service does not answer.
        """
        checks: list[Check] = []
        before: set[tuple[str, str, int]] | None = None
        counted, uncounted = self.source.at_most(tables, self.most_rows), dict[str, SluiceError]()
        for _ in range(_ATTEMPTS):
            fence = self.source.fence(counted) if before is None else self.exact(counted)
            uncounted.update(fence.troubles)
            counted = tuple(table for table in counted if table.name in fence.rows)
            behind = self.fences.behind(fence.lsn, tables)
            compared, troubles = self._compare(counted, fence, behind)
            troubles |= {n: e for n, e in uncounted.items() if n not in behind}
            checks = [*self._fenced(tables, fence, behind), *compared, *self._uncompared(troubles)]
            found = {
                (check.table, check.check, check.clickhouse - check.postgres)
                for check in compared
                if check.clickhouse != check.postgres
            }
            if not found:
                break
            if before is not None:
                checks = [_confirmed(check, found & before) for check in checks]
                if found <= before:
                    break
            before = found
        kept = graded(self.catalog, checks)
        self.keep(fence.lsn, kept)
        troubles |= {table.name: behind[table.name] for table in tables if table.name in behind}
        return QualityReport(checks=kept, fence=fence.lsn, troubles=passing(troubles))

    def _compare(
        self, tables: Sequence[Table], fence: Fence, behind: Mapping[str, SluiceError]
    ) -> tuple[list[Check], dict[str, SluiceError]]:
        """Compare the counts of tables and of their facts; and why some could not be."""
        outcomes, checks, counted = Outcomes(), list[Check](), dict[str, int]()
        for table in tables:
            if table.name not in behind:
                with outcomes.of(table.name):
                    counted[table.name] = self._rows_at(table, fence)
                    checks.append(self._table(table, fence, counted[table.name]))
        for fact in self.catalog.facts:
            if fact.table.name in counted:
                with outcomes.of(fact.name):
                    if fact.name in behind:
                        raise behind[fact.name]
                    checks.append(self._fact(fact, fence, counted[fact.table.name]))
        return checks, outcomes.troubles

    def _table(self, table: Table, fence: Fence, rows: int) -> Check:
        return Check(
            table=table.name,
            check="row_count",
            status=_status(fence.rows[table.name], rows),
            postgres=fence.rows[table.name],
            clickhouse=rows,
            repair=f"run: sluice resync {table.name}",
        )

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
            self._rebuild_again(fact)
        return difference

    def at_rest(self, fact: Fact, compare: Callable[[Fact], T]) -> T:
        """The comparison of a fact with its tables, at a moment when no drain was between."""
        rebuild = self.rebuilds[fact.name]
        for _ in range(_ATTEMPTS):
            drained = rebuild.drained()
            found = compare(fact)
            if rebuild.seen() == drained == rebuild.drained():
                return found
            self._rebuild_again(fact)
        return compare(fact)

    def _rebuild_again(self, fact: Fact) -> None:
        troubles = self.fences.catch_up().troubles
        if fact.name in troubles:
            raise troubles[fact.name]

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

    def _uncompared(self, troubles: Mapping[str, SluiceError]) -> list[Check]:
        """That tables or facts could not be compared."""
        facts = {fact.name for fact in self.catalog.facts}
        return [
            unmade(name, "fact_row_count" if name in facts else "row_count", error)
            for name, error in troubles.items()
        ]

    def _fenced(
        self, tables: Sequence[Table], fence: Fence, behind: Mapping[str, SluiceError]
    ) -> Iterator[Check]:
        """Whether each table is past the fence; where all are, findings of earlier runs end."""
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
                    status=PASS,
                    postgres=fence.lsn,
                    clickhouse=fence.lsn,
                    difference=f"everything up to {format_lsn(fence.lsn)} is drained",
                )
                yield _gap(table, None)

    def _lagging(self, table: Table, fence: Fence, late: Lagging) -> Check:
        """That nothing could be compared: a finding where no check of the slot is one for it."""
        slot = self.source.find_slot(self.fences.slot)
        return Check(
            table=table.name,
            check="caught_up",
            status=FAIL if slot is not None and slot.wal_status != "lost" else UNSETTLED,
            postgres=fence.lsn,
            clickhouse=slot.confirmed_lsn if slot else 0,
            difference=late.what,
            repair=late.remedy or "",
        )


def unmade(table: str, check: str, error: SluiceError) -> Check:
    """A check that an error kept from being made: a finding unless it may pass by itself."""
    return Check(
        table=table,
        check=check,
        status=UNSETTLED if isinstance(error, Retryable) else FAIL,
        postgres=0,
        clickhouse=0,
        difference=error.what,
        repair=error.remedy or "",
    )


def passing(troubles: Mapping[str, SluiceError]) -> dict[str, SluiceError]:
    """The troubles that may pass by themselves; the others, and a drain that is late, are findings
    of a check.
    """
    return {
        name: error
        for name, error in troubles.items()
        if isinstance(error, Retryable) and not isinstance(error, Lagging)
    }


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
