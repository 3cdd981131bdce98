"""A fact's rollups, kept while its rows are written.

What a rebuild changes in each group is read with the rows that it replaces, and added to the sums
that are there: the cost follows the change. Groups are noted durably before the fact is written.
A note of another rebuild that is not settled, because it was killed, runs at once, redid days or
exchanges the fact, may stand for rows that the sums do not have yet, or have already; then all
noted groups are summed anew from the facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sluice.catalog import Fact, Rollup
from sluice.clients.clickhouse import ClickHouse
from sluice.execution.failpoints import Reached
from sluice.generate.clickhouse import quoted
from sluice.generate.rollups import changed
from sluice.generate.statements import FactStatements, RollupStatements

Seen = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a finished rebuild had seen, by table, and its name in the notes of its groups."""

    seen: Seen
    rebuild: UUID

    @property
    def version(self) -> int:
        """The version of the rows that it wrote."""
        return sum(self.seen.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupSums:
    """The rollups of one fact."""

    clickhouse: ClickHouse
    fact: Fact
    star: FactStatements
    reached: Reached

    def note(self, now: Recorded) -> None:
        """Read what the staged rows change in each group, and note the groups."""
        for rollup, statements in self._rollups:
            self._drop_changed(rollup)
            self._execute(statements.change, fact=self.fact.name)
            self._execute(statements.note, version=now.version, rebuild=str(now.rebuild))
            self.reached("groups noted")

    def add(self, low: Recorded, now: Recorded) -> None:
        """Add what was read to the sums, where nobody else has noted groups since `low`."""
        for rollup, statements in self._rollups:
            version = self._version(now)
            self._execute(statements.read)
            self.reached("sums read")
            # After the sums are read: who notes groups later sees our notes, and sums them anew.
            if self._unsettled(statements, low, now):
                self._sum(statements.sum_touched, now, self.fact.name, since=low.version)
            else:
                self._execute(statements.add, version=version)
                self.reached("rollups summed")
            self._drop_changed(rollup)

    def settle(self, low: Recorded, now: Recorded) -> None:
        """Sum what others have noted since `low`; nothing changed in our own groups."""
        for _, statements in self._rollups:
            if self._unsettled(statements, low, now):
                self._sum(statements.sum_touched, now, self.fact.name, since=low.version)

    def sum_noted(self, low: Recorded, now: Recorded) -> None:
        """Sum anew, from the facts, all groups that are noted since `low`."""
        for rollup, statements in self._rollups:
            self._sum(statements.sum_touched, now, self.fact.name, since=low.version)
            self._drop_changed(rollup)

    def sum_all(self, table: str, now: Recorded, *, once: bool = False) -> None:
        """Sum a whole table of the fact, which may be about to be exchanged for it.

        Args:
            once: the table has each row once, so there is nothing for FINAL to merge.
        """
        for _, statements in self._rollups:
            how = statements.sum_filled if once else statements.sum_all
            self._sum_table(statements, how, table, now)

    def sum_new(self, now: Recorded) -> None:
        """Sum all for a rollup that came to the models later: nothing has written to it yet."""
        for rollup, statements in self._rollups:
            rows = self._execute(f"SELECT count() FROM cdc.{quoted(rollup.name)}")
            if not rows[0][0]:
                self._sum_table(statements, statements.sum_all, self.fact.name, now)

    @property
    def _rollups(self) -> list[tuple[Rollup, RollupStatements]]:
        return [(rollup, self.star.rollups[rollup.name]) for rollup in self.fact.table.rollups]

    def _unsettled(self, statements: RollupStatements, low: Recorded, now: Recorded) -> bool:
        found = self._execute(
            statements.unsettled,
            since=low.version,
            rebuild=str(now.rebuild),
            last=str(low.rebuild),
        )
        return bool(found[0][0])

    def _sum_table(self, statements: RollupStatements, how: str, table: str, now: Recorded) -> None:
        self._execute(statements.announce, version=now.version, rebuild=str(now.rebuild))
        self._sum(how, now, table)

    def _sum(self, how: str, now: Recorded, table: str, **since: Any) -> None:
        self._execute(how, fact=table, version=self._version(now), **since)
        self.reached("rollups summed")

    def _version(self, now: Recorded) -> int:
        """The version of sums; of two that had seen the same, the one that read later wins.

        Backfills that run at once have seen the same, and one may sum a group before another has
        written to it: so the server's clock before the reading is the version's lower half.
        """
        read_at: int = self.clickhouse.execute("SELECT toUnixTimestamp64Nano(now64(9))")[0][0]
        return now.version << 64 | read_at

    def _execute(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        return self.clickhouse.execute(statement, **values)

    def _drop_changed(self, rollup: Rollup) -> None:
        name = quoted(changed(rollup))
        self.clickhouse.execute(f"DROP TEMPORARY TABLE IF EXISTS {name}")
