"""Findings of a deep check as checks: the rows and columns that differ, and their repair."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sluice.catalog import Fact, Rollup, Table
from sluice.catalog.quality_options import Status
from sluice.printable import shell_quoted
from sluice.quality.checks import COLUMNS, Check

MOST_KEYS = 1000  # keys reported of a table
MOST_NAMED = 50  # keys named in the finding's text, with the columns that differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A key whose rows differ.

    Attributes:
        columns: the columns that differ, when both sides have the row.
        sums: checksums of PostgreSQL's and ClickHouse's row; 0 for a missing row.
    """

    key: str
    kind: str
    columns: tuple[str, ...] = ()
    sums: tuple[int, int] = (0, 0)

    def sentence(self) -> str:
        """Return the difference as a phrase."""
        where = f" in {', '.join(self.columns)}" if self.columns else ""
        return f"{self.key} {self.kind}{where}"


@dataclass(slots=True, kw_only=True)
class TableFindings:
    """The result of the deep check of a table or one of its ranges.

    Attributes:
        postgres, clickhouse: the number of rows.
        point: the LSN as of which both sides were read; that of the last range.
        buckets: the number of buckets that differ.
        complete: whether every difference is among `differences`.
    """

    postgres: int
    clickhouse: int
    point: int = 0
    buckets: int = 0
    differences: list[Difference] = field(default_factory=list)
    complete: bool = True

    def add(self, part: TableFindings) -> None:
        """Add the findings of a range."""
        self.postgres += part.postgres
        self.clickhouse += part.clickhouse
        self.point = part.point
        self.buckets += part.buckets
        together = self.differences + part.differences
        self.differences = together[:MOST_KEYS]
        self.complete = self.complete and part.complete and len(together) <= MOST_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class FactFindings:
    """The result of comparing a fact with its join, or a rollup with its fact.

    Attributes:
        expected, actual: the number of rows or groups.
        keys: keys of wrong rows or groups.
        left: the number of differences that are left to the next rebuild.
    """

    expected: int
    actual: int
    keys: tuple[str, ...] = ()
    left: int = 0


def seen_twice(first: TableFindings, second: TableFindings) -> TableFindings:
    """Return the findings of both: rows that differ and that neither side changed in between."""
    known = {(d.key, d.kind, d.sums) for d in first.differences}
    return replace(
        second,
        differences=[d for d in second.differences if (d.key, d.kind, d.sums) in known],
        complete=first.complete and second.complete,
    )


def table_check(table: Table, findings: TableFindings) -> Check:
    """Return the findings of a table as a check."""
    differences = findings.differences
    more = "" if findings.complete else ", and more"
    status = Status.FAIL if differences else Status.PASS if findings.complete else Status.UNSETTLED
    named = ", ".join(difference.sentence() for difference in differences[:MOST_NAMED])
    if len(differences) > MOST_NAMED:
        named += f" and {len(differences) - MOST_NAMED} others"
    return Check(
        table=table.name,
        check=COLUMNS,
        status=status,
        postgres=findings.postgres,
        clickhouse=findings.clickhouse,
        keys=tuple(difference.key for difference in differences),
        repair=_repair(table, findings),
        difference=f"{named}{more}",
    )


def fact_check(fact: Fact, findings: FactFindings) -> Check:
    """Return a fact's comparison with its join as a check."""
    return _derived(fact.name, "fact_rows", findings, "differs from its join in")


def rollup_check(rollup: Rollup, findings: FactFindings) -> Check:
    """Return a rollup's comparison with its fact as a check."""
    return _derived(rollup.name, "rollup_rows", findings, "differs from the sums over its fact in")


def _derived(name: str, check: str, findings: FactFindings, phrase: str) -> Check:
    keys = findings.keys
    named = f"{phrase} {', '.join(keys[:MOST_NAMED])}" if keys else ""
    if len(keys) > MOST_NAMED:
        named += f" and {len(keys) - MOST_NAMED} others"
    later = f"{findings.left} changed since the last rebuild and are left to the next"
    return Check(
        table=name,
        check=check,
        status=Status.FAIL if keys else Status.PASS,
        postgres=findings.expected,
        clickhouse=findings.actual,
        keys=keys,
        repair="run: sluice rebuild --full",
        difference="; ".join([*([named] if named else []), *([later] if findings.left else [])]),
    )


def _repair(table: Table, findings: TableFindings) -> str:
    """Return the command that repairs the differing rows."""
    keys = [difference.key for difference in findings.differences]
    if not findings.complete or not 0 < len(keys) <= MOST_NAMED:
        return f"run: sluice resync {table.name} --diff"
    listed = " ".join(f"--key {shell_quoted(key)}" for key in keys)
    return f"run: sluice resync {table.name} {listed}"
