"""What a deep check found, and how it is told: the rows that differ, in what, what repairs them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sluice.catalog import Fact, Rollup, Table
from sluice.catalog.quality_options import Status
from sluice.printable import shell_quoted
from sluice.quality.checks import Check

# So many keys of a table are told.
MOST_KEYS = 1000
# Of so many keys the columns that differ are looked up, and all are named in the finding.
MOST_NAMED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A key whose rows differ.

    Attributes:
        columns: those that do, when both sides have the row.
        sums: the checksum of PostgreSQL's row and of ClickHouse's; 0 where there is none.
    """

    key: str
    kind: str
    columns: tuple[str, ...] = ()
    sums: tuple[int, int] = (0, 0)

    def sentence(self) -> str:
        """The difference in a few words."""
        where = f" in {', '.join(self.columns)}" if self.columns else ""
        return f"{self.key} {self.kind}{where}"


@dataclass(slots=True, kw_only=True)
class TableFindings:
    """What the deep check of a table, or of a range of it, found.

    Attributes:
        point: of the WAL, as of which both sides were read; of more ranges, of the last one.
        buckets: how many buckets differ.
        complete: whether every difference is among `differences`.
    """

    postgres: int
    clickhouse: int
    point: int = 0
    buckets: int = 0
    differences: list[Difference] = field(default_factory=list)
    complete: bool = True

    def add(self, part: TableFindings) -> None:
        """Take in what was found in a range."""
        self.postgres += part.postgres
        self.clickhouse += part.clickhouse
        self.point = part.point
        self.buckets += part.buckets
        together = self.differences + part.differences
        self.differences = together[:MOST_KEYS]
        self.complete = self.complete and part.complete and len(together) <= MOST_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class FactFindings:
    """What the comparison of a fact with its join, or of a rollup with its fact, found.

    Attributes:
        wanted, found: rows or groups that are to be there, and that are.
        keys: keys of rows, or groups, that are wrong.
        left: how many differ and may be late only; the next rebuild brings them.
    """

    wanted: int
    found: int
    keys: tuple[str, ...] = ()
    left: int = 0


def seen_twice(first: TableFindings, second: TableFindings) -> TableFindings:
    """What both found: rows that differ and that neither side changed in between."""
    known = {(found.key, found.kind, found.sums) for found in first.differences}
    return replace(
        second,
        differences=[d for d in second.differences if (d.key, d.kind, d.sums) in known],
        complete=first.complete and second.complete,
    )


def table_check(table: Table, findings: TableFindings) -> Check:
    """The findings of a table as a check."""
    differences = findings.differences
    more = "" if findings.complete else ", and more"
    status = Status.FAIL if differences else Status.PASS if findings.complete else Status.UNSETTLED
    named = ", ".join(difference.sentence() for difference in differences[:MOST_NAMED])
    if len(differences) > MOST_NAMED:
        named += f" and {len(differences) - MOST_NAMED} others"
    return Check(
        table=table.name,
        check="rows",
        status=status,
        postgres=findings.postgres,
        clickhouse=findings.clickhouse,
        keys=tuple(difference.key for difference in differences),
        repair=_repair(table, findings),
        difference=f"{named}{more}",
    )


def fact_check(fact: Fact, findings: FactFindings) -> Check:
    """A fact's comparison with its join as a check."""
    return _derived(fact.name, "fact_rows", findings, "differs from its join in")


def rollup_check(rollup: Rollup, findings: FactFindings) -> Check:
    """A rollup's comparison with its fact as a check."""
    return _derived(rollup.name, "rollup_rows", findings, "differs from the sums over its fact in")


def _derived(name: str, check: str, findings: FactFindings, how: str) -> Check:
    keys = findings.keys
    named = f"{how} {', '.join(keys[:MOST_NAMED])}" if keys else ""
    if len(keys) > MOST_NAMED:
        named += f" and {len(keys) - MOST_NAMED} others"
    later = f"{findings.left} changed since the last rebuild and are left to the next"
    return Check(
        table=name,
        check=check,
        status=Status.FAIL if keys else Status.PASS,
        postgres=findings.wanted,
        clickhouse=findings.found,
        keys=keys,
        repair="run: sluice rebuild --full",
        difference="; ".join([*([named] if named else []), *([later] if findings.left else [])]),
    )


def _repair(table: Table, findings: TableFindings) -> str:
    """The command that brings the differing rows right."""
    keys = [difference.key for difference in findings.differences]
    if not findings.complete or not 0 < len(keys) <= MOST_NAMED:
        return f"run: sluice resync {table.name}"
    listed = " ".join(f"--key {shell_quoted(key)}" for key in keys)
    return f"run: sluice resync {table.name} {listed}"
