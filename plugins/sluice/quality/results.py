"""Stores results of checks in `cdc.quality_checks`, and alerts of changes since the last ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from sluice.catalog.quality_options import Status
from sluice.clients.clickhouse import ClickHouse
from sluice.events.positions import format_lsn
from sluice.execution.progress import duration
from sluice.printable import printable
from sluice.quality.carried import Place
from sluice.quality.checks import Ages, Check

log = logging.getLogger(__name__)

_NONE: Mapping[Place, str] = {}
_RANK = {Status.PASS: 0, Status.WARN: 1, Status.FAIL: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A check whose result is worse than the previous one, or passes after a finding."""

    check: Check
    before: Status

    @property
    def recovered(self) -> bool:
        """Whether a finding has ended."""
        return self.check.status == Status.PASS

    def sentence(self) -> str:
        """Return the news as one printable line."""
        sentence = printable(self.check.sentence())
        return f"recovered: {sentence}" if self.recovered else sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Stores the results of checks, and reports what is new.

    Attributes:
        tell: called with the news of each run that has any; must not raise.
    """

    clickhouse: ClickHouse
    queries: Mapping[str, str]
    tell: Callable[[Sequence[News]], None]

    def keep(
        self, lsn: int, checks: Sequence[Check], marks: Mapping[Place, str] = _NONE
    ) -> tuple[Check, ...]:
        """Store results as of a point of the WAL; return them with the ages of unsettled ones.

        Consecutive runs report news once; concurrent runs may report it twice.

        Args:
            marks: the state of both sides before they were compared; see carried.py. Default: none.
        """
        if not checks:
            return ()
        checks = self._aged(checks)
        news = self._news(checks)
        self._insert(lsn, checks, marks)
        if news:
            self.tell(news)
        return tuple(checks)

    def ages(self, tables: Sequence[str]) -> Ages:
        """Return for how long checks of these tables have been unsettled; see checks.Ages."""
        rows = self.clickhouse.execute(self.queries["unsettled_for"], tables=list(tables))
        return {(table, check): int(seconds) for table, check, seconds in rows}

    def _aged(self, checks: Sequence[Check]) -> list[Check]:
        """Return the checks, with the duration of those that have been unsettled before."""
        late = [check for check in checks if _late(check)]
        ages = self.ages([check.table for check in late]) if late else {}
        aged = []
        for check in checks:
            age = ages.get((check.table, check.check), 0) if _late(check) else 0
            text = f"{check.difference}; for {duration(age)} now".removeprefix("; ")
            aged.append(replace(check, difference=text) if age else check)
        return aged

    def _news(self, checks: Sequence[Check]) -> list[News]:
        tables = sorted({check.table for check in checks})
        rows = self.clickhouse.execute(self.queries["last_results"], tables=tables)
        last = {(table, check): Status(status) for table, check, status in rows}
        news = []
        for check in checks:
            before = last.get((check.table, check.check), Status.PASS)
            if check.status in {Status.UNSETTLED, before}:
                continue
            if check.status == Status.PASS or _RANK[check.status] > _RANK[before]:
                news.append(News(check=check, before=before))
        return news

    def _insert(self, lsn: int, checks: Sequence[Check], marks: Mapping[Place, str]) -> None:
        run = uuid4().hex
        names = ["run", "source_table", "check", "status", "fence"]
        names += ["postgres", "clickhouse", "keys", "repair", "difference", "carried_s", "mark"]
        rows = [
            (
                run,
                check.table,
                check.check,
                check.status.value,  # of an enum the driver would write the name
                format_lsn(lsn),
                check.postgres,
                check.clickhouse,
                list(check.keys),
                check.repair if check.status in (Status.FAIL, Status.WARN) else "",
                check.difference,
                check.carried_s,
                marks.get((check.table, check.check), "") if check.status == Status.PASS else "",
            )
            for check in checks
        ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        self.clickhouse.insert("cdc.quality_checks", names, columns)


def _late(check: Check) -> bool:
    return check.status == Status.UNSETTLED or (
        check.check == "caught_up" and check.status != Status.PASS
    )
