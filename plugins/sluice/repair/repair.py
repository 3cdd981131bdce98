"""Repair: rows that the deep check found to differ are read again, and no others.

Each key is kept in `cdc.repairs`. Of a table with more differences than a finding can name, every
range of keys that differs is read again, unless nobody asked for it. Killed anywhere, the next
repair finds less that differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection, parse_key
from sluice.clients.clickhouse import ClickHouse
from sluice.events.positions import format_lsn
from sluice.quality.differences import TableFindings
from sluice.repair.resync import ResyncReport

AUTO, DIFF = "auto", "diff"
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Brings a table back to equality by its differences.

    Attributes:
        resync: reads the selected rows of a table again; of all rows the ranges that differ.
    """

    clickhouse: ClickHouse
    resync: Callable[[Table, Selection], ResyncReport]

    def run(self, table: Table, findings: TableFindings, mode: str) -> ResyncReport | None:
        """Read what differs again; None where nothing does, or where auto leaves it to a person."""
        if not findings.differences or (mode == AUTO and not findings.complete):
            return None
        keys = tuple(parse_key(table, found.key) for found in findings.differences)
        report = self.resync(table, Selection(keys=keys) if findings.complete else Selection())
        self._keep(table, findings, report, mode)
        return report

    def _keep(self, table: Table, found: TableFindings, report: ResyncReport, mode: str) -> None:
        count = len(found.differences)
        self.clickhouse.insert(
            "cdc.repairs",
            ["source_table", "key", "difference", "compared", "fence", "mode", "done_by"],
            [
                [table.name] * count,
                [difference.key for difference in found.differences],
                [difference.sentence() for difference in found.differences],
                [format_lsn(found.point)] * count,
                [format_lsn(report.fence)] * count,
                [mode] * count,
                [self.clickhouse.person] * count,
            ],
        )


def selected(table: Table, findings: TableFindings, selection: Selection) -> TableFindings:
    """The findings in selected rows alone."""
    return TableFindings(
        postgres=findings.postgres,
        clickhouse=findings.clickhouse,
        point=findings.point,
        buckets=findings.buckets,
        differences=[
            found
            for found in findings.differences
            if selection.holds(table, parse_key(table, found.key))
        ],
        complete=findings.complete,
    )


def forecast(table: Table, findings: TableFindings) -> str:
    """What a repair would do, in one line."""
    found = findings.differences
    if not found:
        return f"{table.name}: nothing differs as of {format_lsn(findings.point)}"
    count = f"{len(found)} rows" if findings.complete else f"more than {len(found)} rows"
    named = ", ".join(difference.sentence() for difference in found[:_MOST_SHOWN])
    more = f" and {len(found) - _MOST_SHOWN} others" if len(found) > _MOST_SHOWN else ""
    return f"{table.name}: {count} would change: {named}{more}"
