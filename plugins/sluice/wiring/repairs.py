"""Repair tables: by their differences, or after changes were lost."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from sluice.capture import slot as slots
from sluice.capture.initial_copy import replacing
from sluice.catalog import Table
from sluice.catalog.quality_options import Status
from sluice.errors import SlotBusy, SlotMissing, SluiceError, TopicGap
from sluice.events.event import CONNECT
from sluice.execution.contention import until_done
from sluice.execution.outcomes import Outcomes
from sluice.generate.files import topics as topic_names
from sluice.quality.checks import ROWS, QualityReport
from sluice.repair.recover import RECOVERABLE, Recovery
from sluice.repair.repair import AUTO, DIFF, Repair, selected
from sluice.repair.repair import forecast as describe_repair
from sluice.settings import Settings
from sluice.star.create import make_rebuild
from sluice.warehouse.parked import Hole
from sluice.wiring.ahead import put_below
from sluice.wiring.checks import check, compared, make_deep_check
from sluice.wiring.context import Run, opened
from sluice.wiring.drains import make_decoder, make_drain
from sluice.wiring.masked import require_key
from sluice.wiring.parked import await_sent
from sluice.wiring.resyncs import make_selection, read_again

log = logging.getLogger(__name__)


def quality(
    settings: Settings, tables: Sequence[str] = (), *, deep: bool = False, restart: bool = False
) -> QualityReport:
    """Run the checks once, for all tables if none is named; see Quality.run and DeepCheck."""
    with opened(settings) as run:
        report = check(run, tables, deep=deep, restart=restart)
        wrong = {c.table for c in report.checks if c.check in ROWS and c.status == Status.FAIL}
        if settings.repair == AUTO:
            wrong -= _rejecting(run, wrong)
        if settings.repair != AUTO or not wrong:
            return report
        try:
            for line in _repair(run, sorted(wrong), AUTO):
                log.warning("auto-repair: %s", line)
        except SluiceError as error:
            log.warning("auto-repair: %s", "; ".join(str(error).split("\n")))
        return check(run, tables, deep=deep)


def _rejecting(run: Run, names: Collection[str]) -> set[str]:
    """Return the tables among these that have open dead letters.

    Their differences may be rows that cannot be stored. An automatic repair would reread them at
    each check and reject them each time; only a person can correct them.
    """
    counts = dict(run.clickhouse.execute(run.queries["dead_letters"]))
    rejecting = set(names) & counts.keys()
    for name in sorted(rejecting):
        log.warning(
            "auto-repair: %s: %d of its events were rejected, so it is left to a person;"
            " see: sluice dead-letters list --table %s",
            name,
            counts[name],
            name,
        )
    return rejecting


def forecast(
    settings: Settings, name: str, *, lower: str = "", upper: str = "", keys: Sequence[str] = ()
) -> str:
    """Return in one line what a resync of these rows would change; change nothing."""
    with opened(settings) as run:
        table, outcomes = run.catalog.table(name), Outcomes()
        selection = make_selection(table, lower, upper, keys)
        found = compared(run, [table], outcomes)
    outcomes.require()
    ((_, findings),) = found
    return describe_repair(table, selected(table, findings, selection))


def repair(settings: Settings, names: Sequence[str] = (), *, mode: str = DIFF) -> Iterator[str]:
    """Reread what differs in tables, in all if none is named.

    Unless `mode` is auto, the drain first passes a gap in a table's topic, because the missing
    changes show as differences, and a parked table is awaited until the relay sends it again. A
    comparison that began after that closes its holes.

    Returns:
        A line for each step, when it is done.

    Raises:
        SluiceError: at the end, for the tables that could not be repaired.
    """
    with opened(settings) as run:
        yield from _repair(run, names, mode)


def _repair(run: Run, names: Sequence[str], mode: str) -> Iterator[str]:
    tables, outcomes = run.catalog.select(tuple(names)), Outcomes()
    require_key(run, tables)  # before a gap is passed
    yield from _repaired(run, tables, mode, outcomes)
    outcomes.require()


def _repaired(run: Run, tables: Sequence[Table], mode: str, outcomes: Outcomes) -> Iterator[str]:
    """See `repair`; skip the tables for which `outcomes` holds an error."""
    tables = outcomes.sound(tables)
    if mode == DIFF:
        yield from _pass_gaps(run, tables, outcomes)
    tables = outcomes.sound(tables)
    yield from _put_below(run, tables, outcomes)
    tables, ended = outcomes.sound(tables), dict[str, list[Hole]]()
    for table in tables:
        with outcomes.of(table.name):
            ended[table.name] = (
                await_sent(run, table)
                if mode == DIFF
                else [hole for hole in run.holes.open(table.name) if hole.sent is not None]
            )
    tables = outcomes.sound(tables)
    found = compared(run, tables, outcomes) if tables else []
    step = Repair(clickhouse=run.clickhouse, resync=partial(read_again, run))
    for table, findings in found:
        with outcomes.of(table.name):
            report = step.run(table, findings, mode)
            yield report.sentence() if report else describe_repair(table, findings)
            if report:
                report.require_stored()
            if report or not findings.differences:
                for hole in ended[table.name]:
                    run.holes.close(hole, findings.point)
                    yield f"{table.name} is no longer parked: {hole.sentence()}"
    yield from _rebuilt(run, outcomes)


def _put_below(run: Run, tables: Sequence[Table], outcomes: Outcomes) -> Iterator[str]:
    """Begin a new epoch for tables with versions ahead, which would hide what a repair writes."""
    for table in tables:
        with outcomes.of(table.name):
            if line := put_below(run, table):
                yield line


def _rebuilt(run: Run, outcomes: Outcomes) -> Iterator[str]:
    for fact in run.catalog.facts:
        with outcomes.of(fact.name):
            yield until_done(make_rebuild(run.clickhouse, fact).run).sentence()


def recover(settings: Settings) -> Iterator[str]:
    """Repair all tables after changes were lost, without dropping one.

    If the slot cannot be used, or PostgreSQL is another server, a new slot is created first; see
    Recovery. If the change source can resume, what differs is reread; see `repair`.

    Returns:
        A line for each step, when it is done.

    Raises:
        NotReady: the change source is needed and does not run, or set-up is not finished.
        SluiceError: at the end, for the tables that could not be repaired.
    """
    with opened(settings) as run:
        yield from _recovered(run)


def _recovered(run: Run) -> Iterator[str]:
    catalog, outcomes = run.catalog, Outcomes()
    require_key(run, catalog.tables)  # before the slot is replaced
    run.topics.ensure(topic_names(catalog))
    fault, unsent = _fault(run)
    checkpoints = [run.store.checkpoint(table.name) for table in catalog.tables]
    by_offset = CONNECT in {found.source for found in checkpoints if found}
    if fault is None:
        for table in catalog.tables if by_offset else ():
            with outcomes.of(table.name):
                _drain_all(run, table)
                _raise_epoch(run, table)
        outcomes.troubles.update(unsent)
        yield from _repaired(run, catalog.tables, DIFF, outcomes)
        outcomes.require()
        return
    yield fault.what
    holes = run.holes.open()
    yield from _recovery(run, by_offset).run(catalog.tables, fault, outcomes)
    for hole in holes:  # compared and repaired as of the new slot's point
        if hole.table not in outcomes.troubles:
            run.holes.close(hole, hole.sent or hole.since)
    outcomes.troubles.update(unsent)
    yield from _rebuilt(run, outcomes)
    if by_offset:
        yield "start Redpanda Connect; it goes on from the new slot"
    else:
        yield "start the relay: sluice up, or sluice relay"
    outcomes.require()


def _recovery(run: Run, by_offset: bool) -> Recovery:
    return Recovery(
        drained=partial(_drain_all, run),
        raise_epoch=partial(_raise_epoch, run),
        by_offset=by_offset,
        replacing=lambda: replacing(run.settings, run.catalog, run.topics),
        compare=lambda within: make_deep_check(run, lambda: nullcontext(within)),
        repair=lambda within: Repair(
            clickhouse=run.clickhouse, resync=partial(read_again, run, within=within)
        ),
    )


def _fault(run: Run) -> tuple[SluiceError | None, dict[str, SluiceError]]:
    """Return why the relay cannot resume from its slot, None if it can, and the tables that it
    could not send from a new slot either.
    """
    try:
        settings = run.settings
        ready = slots.prepare(
            settings.postgres, settings.relay, run.catalog, run.topics, snapshot=False
        )
    except SlotBusy:
        return None, {}
    except RECOVERABLE as error:
        return error, {}
    if ready.confirmed_lsn is None:
        return SlotMissing("there is no slot"), {}
    recoverable = [error for error in ready.unsent.values() if isinstance(error, RECOVERABLE)]
    others = {name: e for name, e in ready.unsent.items() if not isinstance(e, RECOVERABLE)}
    return next(iter(recoverable), None), others


def _drain_all(run: Run, table: Table) -> None:
    """Drain to the topic's end; a comparison finds what the topic lacks."""
    run.plans.drop(table)  # changes were lost after the finished ranges were read
    drain, decoder, caught_up = make_drain(run), make_decoder(run, table.name), False
    while not caught_up:
        try:
            caught_up = until_done(partial(drain.run, decoder)).caught_up
        except TopicGap:
            until_done(partial(drain.skip_gap, table))
    put_below(run, table)


def _raise_epoch(run: Run, table: Table) -> None:
    until_done(partial(make_drain(run).raise_epoch, table))


def _pass_gaps(run: Run, tables: Sequence[Table], outcomes: Outcomes) -> Iterator[str]:
    """Let the drain pass gaps in topics; return a line for each gap."""
    drain = make_drain(run)
    for table in tables:
        with outcomes.of(table.name):
            try:
                until_done(partial(drain.run, make_decoder(run, table.name)))
            except TopicGap as error:
                run.plans.drop(table)  # the gap came after the finished ranges were read
                until_done(partial(drain.skip_gap, table))
                yield f"{table.name}: {error.what}"
