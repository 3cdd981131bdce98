"""What a deep check found, and how it is told: the rows that differ, in what, what repairs them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace

from sluice.catalog import Fact, Table
from sluice.quality import FAIL, PASS, UNSETTLED, Check

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


# Rows of the join, rows of the fact, and keys that differ.
FactFindings = tuple[int, int, tuple[str, ...]]


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
    status = FAIL if differences else PASS if findings.complete else UNSETTLED
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


def fact_check(fact: Fact, joined: int, stored: int, keys: tuple[str, ...]) -> Check:
    """A fact's comparison with its join as a check."""
    named = f"differs from its join in {', '.join(keys[:MOST_NAMED])}" if keys else ""
    if len(keys) > MOST_NAMED:
        named += f" and {len(keys) - MOST_NAMED} others"
    return Check(
        table=fact.name,
        check="fact_rows",
        status=FAIL if keys else PASS,
        postgres=joined,
        clickhouse=stored,
        keys=keys,
        repair="run: sluice rebuild --full",
        difference=named,
    )


def _repair(table: Table, findings: TableFindings) -> str:
    """The command that brings the differing rows right."""
    keys = [difference.key for difference in findings.differences]
    if not findings.complete or not 0 < len(keys) <= MOST_NAMED:
        return f"run: sluice resync {table.name}"
    listed = " ".join(f"--key {shlex.quote(key)}" for key in keys)
    return f"run: sluice resync {table.name} {listed}"
