"""Resync tables from PostgreSQL: all rows, ranges of keys, keys, or shares of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from threading import Lock

from sluice.capture.fenced_snapshot import (
    ExactSnapshot,
    FencedReading,
    division,
    fenced_reading,
    log_end,
)
from sluice.catalog import Table
from sluice.catalog.key_selection import Selection, typed_key
from sluice.drain.bulk_load import BulkLoad
from sluice.errors import NeedsPerson, NotReady, StaleCheckpoint, TopicGap, WrongUsage
from sluice.events.event import CONNECT
from sluice.execution.contention import until_done
from sluice.repair.resync import Resync, ResyncReport
from sluice.settings import Settings
from sluice.warehouse.key_ranges import Plan
from sluice.wiring.ahead import hidden, put_below
from sluice.wiring.bulk import bulk_load, make_load
from sluice.wiring.context import Run, opened, opened_apart
from sluice.wiring.drains import make_decoder, make_drain, named_source
from sluice.wiring.masked import note_read, require_key
from sluice.wiring.parked import close_holes, holes_left, plan_whole


def resync(
    settings: Settings,
    name: str,
    *,
    lower: str = "",
    upper: str = "",
    keys: Sequence[str] = (),
    restart: bool = False,
) -> ResyncReport:
    """Reread a table, or some of its keys, from PostgreSQL; see Resync.run and plan_whole."""
    with opened(settings) as run:
        table = run.catalog.table(name)
        selection = make_selection(table, lower, upper, keys)
        step = make_resync(run, table)
        if selection != Selection():
            report = step.run(table, selection, restart=restart)
        else:
            plan = plan_whole(run, step, table, restart=restart)
            step.reached("planned")
            report = step.read(plan)
            close_holes(run, plan)
            note_read(run, plan)
        return replace(report, parked=holes_left(run, table))


def plan_resync(settings: Settings, name: str, *, lower: str = "", upper: str = "") -> Plan:
    """Divide a table, or a range of its keys, for several readers; see Resync.plan."""
    with opened(settings) as run:
        table = run.catalog.table(name)
        selection = make_selection(table, lower, upper, ())
        step = make_resync(run, table)
        if selection != Selection():
            return step.plan(table, selection)
        return plan_whole(run, step, table, restart=False)


def resync_share(
    settings: Settings, name: str, planned: str, share: int, shares: int
) -> ResyncReport:
    """Read one share of the remaining ranges of a plan; see Resync.read.

    Args:
        planned: the plan's run.

    Raises:
        NeedsPerson: changes were lost after it was planned.
    """
    with opened(settings) as run:
        table = run.catalog.table(name)
        step = replace(make_resync(run, table), readers=1)  # other tasks read the other shares
        plan = run.plans.find(table, planned)
        if plan is None:
            raise NeedsPerson(
                f"{name}: changes were lost since the resync began, or it began long ago",
                remedy=f"begin it again: sluice resync {name}, or a new run of sluice_resync",
            )
        report = step.read(plan, share, shares)
        close_holes(run, plan)
        note_read(run, plan)
        left = "" if plan.whole else holes_left(run, table)  # the last share closes them
        return replace(report, parked=left)


@contextmanager
def resyncing(settings: Settings, table: Table) -> Iterator[Resync]:
    """Open a run and make the resync of a table; see make_resync."""
    with opened(settings) as run:
        yield make_resync(run, table)


def make_resync(run: Run, table: Table, within: ExactSnapshot | None = None) -> Resync:
    """Make the resync of a table; the drain passes a gap in its topic first.

    Args:
        within: the snapshot for all ranges; without it each range has its own fence.
    """
    require_key(run, [table])
    decoder, drain = make_decoder(run, table.name), make_drain(run)
    try:  # a gap shows only until the topic is as long again as it was
        until_done(partial(drain.run, decoder))
    except TopicGap:
        run.plans.drop(table)  # first, because the gap came after the finished ranges were read
        until_done(partial(drain.skip_gap, table))
    _name_source(run, table)
    put_below(run, table)
    readers = 1 if within is not None else run.settings.copy_readers
    return _opened_resync(run, table, make_load(run, table), within, readers, Lock())


def _opened_resync(
    run: Run,
    table: Table,
    load: BulkLoad | None,
    within: ExactSnapshot | None,
    readers: int,
    draining: Lock,
) -> Resync:
    """Make the resync of a table that `make_resync` has prepared, on the sessions of a run.

    Args:
        draining: held by the reader that drains, as one at a time gets further than several.
    """
    settings, topics = run.settings, run.topics
    decoder, drain = make_decoder(run, table.name), make_drain(run)

    def drain_once() -> None:
        with draining, suppress(StaleCheckpoint):  # another process drains
            drain.run(decoder)

    @contextmanager
    def another() -> Iterator[Resync]:
        with opened_apart(settings, readers) as own:
            own_load = load and replace(bulk_load(own, table), unpublished=load.unpublished)
            yield _opened_resync(own, table, own_load, None, readers, draining)

    def reading(of: Table, by_offset: bool) -> AbstractContextManager[FencedReading]:
        if within is not None:  # nothing else comes onto the topic meanwhile
            end = log_end(topics, of) if by_offset else None
            return within.reading(settings, of, topics, drain_once, end, load)
        return fenced_reading(settings, of, topics, drain_once, by_offset=by_offset, load=load)

    return Resync(
        clickhouse=run.clickhouse,
        reading=reading,
        division=partial(division, settings),
        plans=run.plans,
        hidden=partial(hidden, run),
        another=another,
        readers=readers,
        verify=settings.copy_verify,
    )


def _name_source(run: Run, table: Table) -> None:
    """Ensure that a table's checkpoint names its change source before rows are read.

    It names none if the topic has no event and ClickHouse was emptied; see named_source.

    Raises:
        NotReady: the source is not known.
    """
    checkpoint = run.store.checkpoint(table.name)
    if checkpoint and checkpoint.source:
        return
    source = named_source(run)
    if not source:
        raise NotReady(
            f"nothing says which source the changes of {table.name} come from: no event of any"
            f" table is drained, and nobody reads from slot {run.settings.relay.slot!r}",
            remedy="start the source, or name it: sluice source relay, or: sluice source connect",
        )
    if source == CONNECT:
        until_done(partial(make_drain(run).change_source, table, CONNECT))


def read_again(
    run: Run, table: Table, selection: Selection, within: ExactSnapshot | None = None
) -> ResyncReport:
    """Reread rows that differ: these keys, or the ranges that hold differences."""
    step = make_resync(run, table, within)
    return step.run(table, selection, restart=True, differing=not selection.keys)


def make_selection(table: Table, lower: str, upper: str, keys: Sequence[str]) -> Selection:
    """Return the rows that a command names by keys or a range of keys; all rows if by neither.

    Raises:
        WrongUsage: a text is not a key, or the range is empty.
    """
    if keys and (lower or upper):
        raise WrongUsage("give keys or a range of keys, not both")
    selection = Selection(
        lower=typed_key(table, lower) if lower else None,
        upper=typed_key(table, upper) if upper else None,
        keys=tuple(typed_key(table, key) for key in keys),
    )
    if selection.empty(table):
        raise WrongUsage(f"{table.name}: the last key is before the first: {lower} to {upper}")
    return selection
