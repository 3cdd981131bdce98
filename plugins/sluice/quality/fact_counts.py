"""Asks how far all facts are, in few statements: the rows that they lack, and the oldest change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sluice.catalog import Fact
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import quoted
from sluice.quality.bulk import read_each
from sluice.quality.fact_check import kept_rows, settled_rows
from sluice.star.rollups import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class FactCounts:
    """Measures facts as of their last rebuilds.

    Attributes:
        queries: the statements of sql/pipeline.sql.
        missing: returns the rows that one fact lacks, less those in excess, by its keys; raises
            Lagging.
    """

    clickhouse: ClickHouse
    queries: Mapping[str, str]
    missing: Callable[[Fact], int]

    def missing_rows(
        self, facts: Sequence[Fact], rows: Mapping[str, int], outcomes: Outcomes
    ) -> dict[str, int]:
        """Return, by fact, the rows that it lacks, less those in excess.

        A fact whose count differs from that of its table, or that was rebuilt in full meanwhile,
        is compared by its keys.

        Args:
            rows: the number of rows of each fact's own table, by fact.
            outcomes: takes the errors by fact.
        """
        low = self._standings()
        known = {fact.name: fact for fact in facts if fact.name in low}
        settled, kept = (
            self._counts({n: text(f, low[n][1]) for n, f in known.items()}, rows)
            for text in (settled_rows, kept_rows)
        )
        now = self._standings() if known else {}
        equal = {
            name
            for name in known
            if name in settled
            and settled[name] == kept.get(name)
            and name in now
            and now[name][0] == low[name][0]
        }
        missing = dict.fromkeys(equal, 0)
        for fact in facts:
            if fact.name not in equal:
                with outcomes.of(fact.name):
                    missing[fact.name] = self.missing(fact)
        return missing

    def behind(self, facts: Sequence[Fact]) -> tuple[dict[str, int], dict[str, SluiceError]]:
        """Return how many seconds ago the oldest change that a fact lacks was drained, by fact.

        Returns:
            Fact -> seconds, and fact -> error of those that cannot be read.
        """
        if not facts:
            return {}, {}
        drained = dict(self.clickhouse.execute(self.queries["drained"]))
        low, owners, queries = self._standings(), dict[str, str](), dict[str, str]()
        for fact in facts:
            seen = low[fact.name][1] if fact.name in low else {}
            for table in fact.tables:
                if drained.get(table.name, 0) > seen.get(table.name, 0):
                    owners[name := f"{fact.name} {table.name}"] = fact.name
                    queries[name] = _oldest(table.storage, seen.get(table.name, 0))
        outcomes, ages = Outcomes(), dict.fromkeys((fact.name for fact in facts), 0)
        for name, (age,) in read_each(self.clickhouse, queries, outcomes).items():
            ages[owners[name]] = max(ages[owners[name]], int(age))
        return ages, {owners[name]: error for name, error in outcomes.troubles.items()}

    def _standings(self) -> dict[str, tuple[UUID, Seen]]:
        """Return, by fact, its table's identity and what the last rebuild into it had seen."""
        rows = self.clickhouse.execute(self.queries["standings"])
        return {fact: (storage, seen) for fact, storage, seen in rows}

    def _counts(self, queries: Mapping[str, str], rows: Mapping[str, int]) -> dict[str, int]:
        # A fact that cannot be counted here is compared by its keys, which gives its error.
        counts = read_each(self.clickhouse, queries, Outcomes(), lambda name: rows.get(name, 0))
        return {name: int(count) for name, (count,) in counts.items()}


def _oldest(storage: str, seen: int) -> str:
    return (
        "SELECT if(count() = 0, 0, dateDiff('second', min(_ingested_at), now64(3)))"
        f" FROM cdc.{quoted(storage)} WHERE _seq > {seen}"
    )
