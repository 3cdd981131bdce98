"""Repairs exactly the rows that the deep check found to differ, by reading them again.

Each key is recorded in `cdc.repairs`. If a table has more differences than a finding can name,
every range that differs is read again, except by an automatic repair. After an interruption the
next repair finds fewer differences.
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
    """Repairs a table by its differences.

    Attributes:
        resync: reads the selected rows of a table again; for all rows, the ranges that differ.
    """

    clickhouse: ClickHouse
    resync: Callable[[Table, Selection], ResyncReport]

    def run(self, table: Table, findings: TableFindings, mode: str) -> ResyncReport | None:
        """Read again what differs.

        Returns:
            None if nothing differs, or if it is too much for the mode `auto`.
        """
        if not findings.differences or (mode == AUTO and not findings.complete):
            return None
        keys = tuple(parse_key(table, difference.key) for difference in findings.differences)
        report = self.resync(table, Selection(keys=keys) if findings.complete else Selection())
        self._keep(table, findings, report, mode)
        return report

    def _keep(self, table: Table, findings: TableFindings, report: ResyncReport, mode: str) -> None:
        count = len(findings.differences)
        self.clickhouse.insert(
            "cdc.repairs",
            ["source_table", "key", "difference", "compared", "fence", "mode", "done_by"],
            [
                [table.name] * count,
                [difference.key for difference in findings.differences],
                [difference.sentence() for difference in findings.differences],
                [format_lsn(findings.point)] * count,
                [format_lsn(report.fence)] * count,
                [mode] * count,
                [self.clickhouse.person] * count,
            ],
        )


def selected(table: Table, findings: TableFindings, selection: Selection) -> TableFindings:
    """Return the findings in selected rows only."""
    return TableFindings(
        postgres=findings.postgres,
        clickhouse=findings.clickhouse,
        point=findings.point,
        buckets=findings.buckets,
        differences=[
            difference
            for difference in findings.differences
            if selection.holds(table, parse_key(table, difference.key))
        ],
        complete=findings.complete,
    )


def forecast(table: Table, findings: TableFindings) -> str:
    """Return the effect of a repair as one line."""
    differences = findings.differences
    if not differences:
        return f"{table.name}: nothing differs as of {format_lsn(findings.point)}"
    count = f"{len(differences)} rows"
    named = ", ".join(difference.sentence() for difference in differences[:_MOST_SHOWN])
    more = len(differences) - _MOST_SHOWN
    named += f" and {more} others" if more > 0 else ""
    least = "" if findings.complete else "more than "
    return f"{table.name}: {least}{count} would change: {named}"
