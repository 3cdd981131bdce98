"""Defines checks and the report of a run: values, severities, sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sluice.catalog import Catalog
from sluice.catalog.quality_options import Status
from sluice.errors import Lagging, QualityFailed, Retryable, SluiceError
from sluice.execution.outcomes import Outcomes
from sluice.printable import first_lines, named

T = TypeVar("T")
# (table, check) -> seconds for which the check has been unsettled.
Ages = Mapping[tuple[str, str], int]


_MOST_COUNTS = 20  # lines of equal counts
# The check of every column of a table's rows, and both checks of its rows.
COLUMNS = "rows"
ROWS = frozenset({"row_count", COLUMNS})
# Checks that count the same on both sides.
COMPARED = ROWS | {"fact_row_count", "fact_rows"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check; docs/quality.md lists them all.

    Attributes:
        table: the source table, the fact, or the slot.
        check: `row_count`, `freshness`, ...; of a deep check `rows`, `fact_rows`, ...
        status: `pass`, `warn`, `fail`, or `unsettled` when the sides could not be compared.
        postgres, clickhouse: the values of both sides; for a measure 0 and its value.
        keys: keys that differ, where the check knows them.
        repair: the command that repairs a failure.
        difference: the difference as a sentence.
        carried_s: how many seconds before the run the two sides were compared; see carried.py.
            Default: 0, in the run.
        follows: the tables whose wrong rows cause it, and whose repair ends it. Default: none.
    """

    table: str
    check: str
    status: Status
    postgres: int
    clickhouse: int
    keys: tuple[str, ...] = ()
    repair: str = ""
    difference: str = ""
    carried_s: int = 0
    follows: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        """Return the command that repairs it; empty where the repair of other rows ends it."""
        return "" if self.follows else self.repair

    def sentence(self) -> str:
        """Return the check as one line: what, where, both values, and what to do."""
        text = f"{self.table}: {self.check} {self.status}:"
        parts = [f" Postgres {self.postgres}, ClickHouse {self.clickhouse}"]
        if self.difference:
            counted = self.check in COMPARED and (self.postgres or self.clickhouse)
            parts = [*parts, self.difference] if counted else [f" {self.difference}"]
        text += "; ".join(parts)
        if self.status == Status.PASS:
            return text
        if self.follows:
            return f"{text}; {follows_words(self.follows)}"
        return f"{text}; {self.repair}" if self.repair else text


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """All checks of a run.

    Attributes:
        fence: the point of the WAL as of which both sides were compared.
        troubles: errors by table or fact that could not be compared; a later run may succeed.
    """

    checks: tuple[Check, ...]
    fence: int = 0
    troubles: Mapping[str, SluiceError] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """Return the sentences of failed checks; unsettled checks are not failures."""
        return [check.sentence() for check in self.checks if check.status == Status.FAIL]

    @property
    def unequal(self) -> tuple[str, ...]:
        """The tables of which the check of every column found rows to differ."""
        return tuple(
            check.table
            for check in self.checks
            if check.check == COLUMNS and check.status == Status.FAIL and check.keys
        )

    @property
    def findings(self) -> list[str]:
        """Return a line for each check that did not pass, failures first; of very many, the first.

        Those that follow from wrong rows of a table come behind these, indented.
        """
        found = sorted(
            (check for check in self.checks if check.status != Status.PASS),
            key=lambda check: (check.status != Status.FAIL, check.table),
        )
        lines = [
            f"  {check.sentence()}" if check.follows else check.sentence()
            for check in grouped(found, lambda one: one.table, lambda one: one.follows)
        ]
        return first_lines(lines, "more findings; see: sluice quality --json")

    @property
    def sums(self) -> list[str]:
        """Return the counts that are equal, and the number of passed checks, as lines.

        The counts of more than a screen of tables are one line for each kind of check.
        """
        equal = [c for c in self.checks if c.status == Status.PASS and c.check in COMPARED]
        counts = [check.sentence() for check in equal]
        if len(equal) > _MOST_COUNTS:
            counts = [
                f"{kind} {Status.PASS}: {len(alike):,} tables, {sum(alike):,} rows"
                for kind in dict.fromkeys(check.check for check in equal)
                if (alike := [check.postgres for check in equal if check.check == kind])
            ]
        passed = sum(check.status == Status.PASS for check in self.checks)
        total = f"{passed:,} of {len(self.checks):,} checks passed"
        return [*counts, total]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def behind(self) -> frozenset[str]:
        """Return the tables that were not compared because the drain did not pass the fence."""
        fenced = (check for check in self.checks if check.check in {"caught_up", "gap"})
        return frozenset(check.table for check in fenced if check.status != Status.PASS)

    @property
    def settled(self) -> bool:
        """Whether the drain passed the fence for every table."""
        return not self.behind

    def require_passed(self) -> None:
        """Raise the worst of all findings and errors.

        Raises:
            QualityFailed: a check failed.
            Retryable: a table could not be compared this time.
        """
        outcomes = Outcomes()
        outcomes.troubles.update(self.troubles)
        if self.failures:
            failed = sorted({c.table for c in self.checks if c.status == Status.FAIL})
            outcomes.troubles["quality"] = QualityFailed(f"quality checks failed: {named(failed)}")
        outcomes.require()


def follows_words(tables: Sequence[str]) -> str:
    """Return what is said of a finding that the wrong rows of these tables cause."""
    return f"follows from {', '.join(tables)} and ends with that repair"


def grouped(
    findings: Sequence[T],
    table: Callable[[T], str | None],
    follows: Callable[[T], Sequence[str]],
) -> Iterator[T]:
    """Yield findings so that each comes behind those of the tables that it follows from.

    Args:
        findings: in the order of those that follow from nothing, by table.
    """
    roots = [one for one in findings if not follows(one)]
    last: dict[str | None, int] = {}
    for at, root in enumerate(roots):
        if last.get(table(root), at - 1) == at - 1:
            last[table(root)] = at
    behind: dict[int, list[T]] = {}
    for one in findings:
        if follows(one):
            at = max((last[name] for name in follows(one) if name in last), default=-1)
            behind.setdefault(at, []).append(one)
    for at, root in enumerate(roots):
        yield root
        yield from behind.get(at, ())
    yield from behind.get(-1, ())


def not_checked(table: str, check: str, error: SluiceError) -> Check:
    """Return a check that an error prevented: unsettled if a later run may succeed, else failed."""
    return Check(
        table=table,
        check=check,
        status=Status.UNSETTLED if isinstance(error, Retryable) else Status.FAIL,
        postgres=0,
        clickhouse=0,
        difference=error.what,
        repair=error.remedy or "",
    )


def passing(troubles: Mapping[str, SluiceError]) -> dict[str, SluiceError]:
    """Return the errors that a later run may not have.

    The others, and a late drain, are results of a check.
    """
    return {
        name: error
        for name, error in troubles.items()
        if isinstance(error, Retryable) and not isinstance(error, Lagging)
    }


def graded(catalog: Catalog, checks: Sequence[Check]) -> tuple[Check, ...]:
    """Return the checks with the severities of the models' marks, without those that are off."""
    marks = {table.name: table.quality for table in catalog.tables}
    for fact in catalog.facts:
        names = (fact.name, *(rollup.name for rollup in fact.table.rollups))
        marks.update(dict.fromkeys(names, fact.table.quality))
    kept = []
    for check in checks:
        severity = marks[check.table].severity(check.check)
        if severity is not None:
            kept.append(replace(check, status=severity) if check.status == Status.FAIL else check)
    return tuple(kept)
