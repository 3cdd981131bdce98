"""Checks of every minute beside row counts: freshness, backlog, dead letters, schema and others.

Cost: a few queries for all tables on each side, and a few requests for the ends of their topics.
Only the scan of the column `_version` grows with the rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sluice.catalog import Catalog, Table
from sluice.catalog.quality_options import Limit, Status
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.mask_key import hashed
from sluice.clients.postgres import PostgresSource, SlotState
from sluice.clients.slot_loss import cause, remedy
from sluice.clients.topics import Topics
from sluice.drain.backlog import pending_events
from sluice.errors import SluiceError
from sluice.execution.outcomes import Outcomes
from sluice.quality.ahead import Ahead
from sluice.quality.carried import Carried
from sluice.quality.checks import Check, graded, not_checked
from sluice.quality.fact_counts import FactCounts
from sluice.warehouse.evolution import differing
from sluice.warehouse.parked import Hole, Holes

GIBIBYTE = 1 << 30
# The same for every server: WAL that PostgreSQL keeps for the slot fills its disk.
SLOT_LAG = Limit(warn=1 * GIBIBYTE, fail=10 * GIBIBYTE)
_WAL_STATUS = {
    "reserved": Status.PASS,
    "extended": Status.WARN,
    "unreserved": Status.FAIL,
    "lost": Status.FAIL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Compares measures of the pipeline with the limits that the models mark.

    Attributes:
        facts: measures the catalog's facts.
        ahead: finds versions ahead of their source.
        most_rows: the most row versions of a table that `ahead` scans; None for no limit.
        carried: the checks that need not be repeated.
        wrong_key: the error of the key of masked columns; None if it is the noted one.
        late: seconds for which checks have found a table not caught up, by table.
    """

    catalog: Catalog
    source: PostgresSource
    clickhouse: ClickHouse
    topics: Topics
    queries: Mapping[str, str]
    slot: str
    facts: FactCounts
    ahead: Ahead
    most_rows: int | None
    carried: Carried
    wrong_key: SluiceError | None
    late: Mapping[str, int]

    def run(self, tables: Sequence[Table]) -> tuple[Check, ...]:
        """Return the checks of these tables, their facts, and the slot.

        Raises:
            Unreachable: a service does not answer.
        """
        checks = [*self._measures(tables), *self._facts(tables)]
        checks += slot_checks(self.slot, self.source.find_slot(self.slot))
        checks += graded(self.catalog, list(self._schemas(tables)))
        checks += graded(self.catalog, list(self._parked(tables)))
        checks += graded(self.catalog, list(self._ahead(tables)))
        checks += graded(self.catalog, list(self._keys(tables)))
        return tuple(checks)

    def _measures(self, tables: Sequence[Table]) -> Iterator[Check]:
        dead = dict(self.clickhouse.execute(self.queries["dead_letters"]))
        known = dict(self.clickhouse.execute(self.queries["freshness"]))
        pending = pending_events(self.catalog, self.clickhouse, self.topics)
        now = time.time()
        for table in tables:
            behind = max(0, round(now - known[table.name] / 1000)) if table.name in known else 0
            yield self._freshness(table, behind)
            yield _measure(
                table,
                "pending_events",
                pending[table.name],
                "undrained events",
                f"run: sluice drain {table.name} --until-empty",
            )
            yield _measure(
                table,
                "dead_letters",
                dead.get(table.name, 0),
                "open dead letters",
                f"see: sluice dead-letters list --table {table.name}",
            )

    def _facts(self, tables: Sequence[Table]) -> Iterator[Check]:
        """Yield the freshness of the facts of these tables."""
        names = {table.name for table in tables}
        facts = [fact for fact in self.catalog.facts if fact.table.name in names]
        ages, troubles = self.facts.behind(facts)
        for fact in facts:
            if fact.name in troubles:
                yield not_checked(fact.name, "freshness", troubles[fact.name])
                continue
            fresh = _measure(
                fact.table,
                "freshness",
                ages[fact.name],
                "s since the oldest change that is not in the fact was drained",
                "run: sluice rebuild",
            )
            yield replace(fresh, table=fact.name)

    def _freshness(self, table: Table, behind: int) -> Check:
        """Return the freshness of a table's state.

        After a pause of the checks a single late result means little. So the table counts as late
        only for as long as checks have observed it.
        """
        check = _measure(
            table, "freshness", behind, "s behind", "see: sluice status, sluice logs relay"
        )
        late = min(behind, self.late.get(table.name, behind))
        observed = table.quality.limit("freshness").status(late)
        if check.status != Status.PASS and observed == Status.PASS:
            return replace(check, status=Status.UNSETTLED)
        return replace(check, status=observed)

    def _parked(self, tables: Sequence[Table]) -> Iterator[Check]:
        """Yield whether the relay sends each table's changes and no resync is outstanding."""
        holes: dict[str, Hole] = {}
        for hole in Holes(clickhouse=self.clickhouse, queries=self.queries).open():
            holes.setdefault(hole.table, hole)
        for table in tables:
            first = holes.get(table.name)
            yield Check(
                table=table.name,
                check="parked",
                status=Status.FAIL if first else Status.PASS,
                postgres=0,
                clickhouse=int(first is not None),
                difference=first.sentence() if first else "all its changes are sent",
                repair=first.repair() if first else "",
            )

    def _keys(self, tables: Sequence[Table]) -> Iterator[Check]:
        """Yield whether hashed columns are compared with the key that `sluice init` noted."""
        for table in tables:
            if not hashed(table):
                continue
            if self.wrong_key:
                yield not_checked(table.name, "mask_key", self.wrong_key)
                continue
            yield Check(
                table=table.name,
                check="mask_key",
                status=Status.PASS,
                postgres=0,
                clickhouse=0,
                difference="the key is the noted one",
            )

    def _ahead(self, tables: Sequence[Table]) -> Iterator[Check]:
        """Yield whether a version or a truncation of each table is ahead of its source."""
        outcomes = Outcomes()
        unchanged = self.carried.names("ahead")
        findings = self.ahead.find_each(tables, outcomes, self.most_rows, unchanged)
        for table in tables:
            if table.name in outcomes.troubles:
                yield not_checked(table.name, "ahead", outcomes.troubles[table.name])
                continue
            ahead = findings[table.name]
            yield Check(
                table=table.name,
                check="ahead",
                status=Status.FAIL if ahead else Status.PASS,
                postgres=0,
                clickhouse=ahead.rows + ahead.truncated,
                keys=ahead.keys,
                difference=ahead.sentence(),
                repair=ahead.repair() if ahead else "",
                carried_s=self._carried_s(table) if table.name in unchanged else 0,
            )

    def _carried_s(self, table: Table) -> int:
        return self.carried.checks[table.name, "ahead"].carried_s

    def _schemas(self, tables: Sequence[Table]) -> Iterator[Check]:
        """Yield whether PostgreSQL and ClickHouse have the models' columns, and only those."""
        differs, more = self.source.schema_differences(tables), self.source.more_columns(tables)
        stored = differing(self.clickhouse, tables)
        for table in tables:
            yield _schema(table, differs[table.name], more[table.name], stored.get(table.name))


def _schema(
    table: Table, differs: Sequence[str], more: Sequence[str], stored: SluiceError | None
) -> Check:
    """Return whether PostgreSQL and ClickHouse have a model's columns, and only those.

    Args:
        differs: how PostgreSQL differs.
        more: the columns that only PostgreSQL has.
        stored: how ClickHouse differs.
    """
    repair = "migrate PostgreSQL or the model; then run: sluice generate, sluice init"
    if stored is not None:
        differs = [*differs, stored.what]
        repair = f"{stored.remedy}" if len(differs) == 1 else repair
    parts = list(differs)
    if more:
        columns = "column" if len(more) == 1 else "columns"
        parts.append(f"PostgreSQL has {columns} {', '.join(more)}, which the models lack")
    if more and not differs:
        repair = (
            "rows are stored without it; to store it, add it to the model, then run: sluice"
            f" generate, sluice init, sluice resync {table.name}"
        )
    return Check(
        table=table.name,
        check="schema",
        status=Status.FAIL if differs else Status.WARN if more else Status.PASS,
        postgres=len(table.columns) + len(more),
        clickhouse=len(table.columns) - len(differs),
        difference="; ".join(parts) or "columns match the model",
        repair=repair,
    )


def slot_checks(name: str, state: SlotState | None) -> Iterator[Check]:
    """Yield how much WAL is kept for the slot, and whether it can still be read."""
    lag, wal = (state.lag_bytes or 0, state.wal_status) if state else (0, "missing")
    yield Check(
        table=name,
        check="slot_lag",
        status=SLOT_LAG.status(lag),
        postgres=0,
        clickhouse=lag,
        difference=f"PostgreSQL keeps {lag / GIBIBYTE:.2f} GiB of WAL for the slot",
        repair="see: sluice status, sluice logs relay",
    )
    status = _WAL_STATUS.get(wal, Status.FAIL)
    yield Check(
        table=name,
        check="wal_status",
        status=status,
        postgres=0,
        clickhouse=int(status != Status.PASS),
        difference=_wal_status(state),
        repair=remedy(state.invalidation if state else "")
        if wal in {"lost", "missing"}
        else "let the relay catch up; see: sluice logs relay",
    )


def _wal_status(state: SlotState | None) -> str:
    if state is None:
        return "the slot is gone"
    if state.invalidation:
        return f"the slot was invalidated: {cause(state.invalidation)}"
    return f"the slot's WAL is {state.wal_status}"


def _measure(table: Table, name: str, value: int, unit: str, repair: str) -> Check:
    limit = table.quality.limit(name)
    status = limit.status(value)
    above = {Status.WARN: limit.warn, Status.FAIL: limit.fail}.get(status)
    more = f" (limit {above:.0f})" if above is not None else ""
    return Check(
        table=table.name,
        check=name,
        status=status,
        postgres=0,
        clickhouse=value,
        difference=f"{value} {unit}{more}",
        repair=repair,
    )
