"""Drain the tables that have a backlog, several at a time; a table without one costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

from sluice.catalog import Table
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.backlog import Backlog, read_backlog
from sluice.drain.ports import DrainReport
from sluice.drain.side_by_side import Books, SideBySideStore
from sluice.errors import SluiceError
from sluice.execution.contention import until_done
from sluice.execution.outcomes import together
from sluice.execution.side_by_side import side_by_side
from sluice.settings import Settings
from sluice.warehouse.evolution import differing
from sluice.wiring.context import Run, opened, opened_apart
from sluice.wiring.drains import decoder_of, make_drain

# Seconds that the last tables have where the others took all the time of the run.
_LEAST = 5.0
# Undrained events of at least two tables that are worth a process each.
_LARGE = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The result of draining tables once.

    Attributes:
        reports: those of tables that had something to do.
        at_end: tables that are drained to their topics' ends.
        troubles: errors by table.
        shares: tables with a large backlog that are left to other processes, a list for each.
    """

    reports: Sequence[DrainReport] = ()
    at_end: frozenset[str] = frozenset()
    troubles: Mapping[str, SluiceError] = field(default_factory=dict)
    shares: Sequence[Sequence[str]] = ()

    def require(self) -> None:
        """Raise the errors of tables as one."""
        if self.troubles:
            raise together(self.troubles)


def drain_all(
    settings: Settings, names: Sequence[str] = (), *, pass_rejects: bool = False, processes: int = 1
) -> Drained:
    """Drain tables once, by default all.

    Args:
        pass_rejects: whether to accept any number of invalid events as dead letters.
        processes: how many processes may share a large backlog. With more than one, tables with
            such a backlog are not drained here; see Drained.shares.

    Raises:
        Unreachable, WrongUsage: no table can be drained.
    """
    with opened(settings) as run:
        tables = run.catalog.select(tuple(names))
        return drain_backlog(run, tables, pass_rejects=pass_rejects, processes=processes)


def drain_until_empty(
    settings: Settings, names: Sequence[str] = (), *, pass_rejects: bool = False
) -> Iterator[Drained]:
    """Drain tables until their topics are drained to their present ends, by this or other drains.

    Returns:
        The results of each round; a table with an error is drained no further.
    """
    with opened(settings) as run:
        remaining = list(run.catalog.select(tuple(names)))
        found = run.changes.positions([table.topic for table in remaining])
        ends = {t.name: found[t.topic].end if t.topic in found else 0 for t in remaining}
        while remaining:
            done = drain_backlog(run, remaining, pass_rejects=pass_rejects)
            yield done
            reached = {r.table for r in done.reports if r.next_offset >= ends[r.table]}
            ended = done.at_end | reached | done.troubles.keys()
            remaining = [table for table in remaining if table.name not in ended]


def drain_backlog(
    run: Run,
    tables: Sequence[Table],
    *,
    pass_rejects: bool = False,
    processes: int = 1,
    patience: float | None = None,
    seconds: float | None = None,
) -> Drained:
    """Drain tables once; see drain_all.

    Those with the fewest events come first, so that a burst on one table delays no other.

    Args:
        patience: seconds for which a table is retried while other drains of it come first; see
            until_done.
        seconds: the most time to read. Default: None, for that of the settings.
    """
    backlog = read_backlog(run.changes, run.store, tables)
    due = sorted(filter(backlog.due, tables), key=backlog.events)
    idle = [table for table in tables if not backlog.due(table)]
    run.changes.commit(backlog.uncommitted(idle))
    if run.topics.deletes_drained:
        run.topics.delete_drained(backlog.passed(tables))
    shares = _shares(backlog, due, processes)
    if shares or not due:
        return Drained(at_end=frozenset(table.name for table in idle), shares=shares)
    unlike = differing(run.clickhouse, due)
    ready = [table for table in due if table.name not in unlike]
    threads = max(1, min(run.settings.drain.threads, len(ready)))
    with closing(ClickHouse(run.settings.clickhouse)) as session:
        books = Books(session)
        most = min(run.settings.drain.seconds, seconds or run.settings.drain.seconds)
        step = _step(backlog, books, most, pass_rejects=pass_rejects, patience=patience)
        try:
            apart = partial(opened_apart, run.settings, threads)
            done = side_by_side(step, ready, apart, threads)
        finally:
            books.flush()
    ended = {report.table for report in done.results if report.caught_up}
    return Drained(
        reports=done.results,
        at_end=frozenset({table.name for table in idle} | ended),
        troubles={**unlike, **done.troubles},
    )


def _step(
    backlog: Backlog, books: Books, seconds: float, *, pass_rejects: bool, patience: float | None
) -> Callable[[Run, Table], DrainReport]:
    """Return the drain of one table on a thread's own run."""
    began = time.monotonic()

    def step(own: Run, table: Table) -> DrainReport:
        left = seconds - (time.monotonic() - began)
        drain = replace(
            make_drain(own, pass_rejects=pass_rejects),
            store=SideBySideStore(own.clickhouse, books),
            limits=replace(own.settings.drain, seconds=max(left, _LEAST)),
        )
        decoder, standing = decoder_of(own.catalog, table), iter([backlog.standing(table)])
        return until_done(lambda: drain.run(decoder, next(standing, None)), patience)

    return step


def _shares(backlog: Backlog, due: Sequence[Table], processes: int) -> list[list[str]]:
    """Divide a large backlog by its events; empty if one process drains it soon enough."""
    if processes < 2 or len(due) < 2 or sum(map(backlog.events, due)) < _LARGE:
        return []
    shares: list[list[str]] = [[] for _ in range(min(processes, len(due)))]
    events = [0] * len(shares)
    for table in reversed(due):  # the largest first
        least = events.index(min(events))
        shares[least].append(table.name)
        events[least] += backlog.events(table)
    return shares
