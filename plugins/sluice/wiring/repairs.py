"""The checks and what brings both sides back to equality: by what differs, or after a loss."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial

from sluice.capture import slot as slots
from sluice.capture.initial_copy import replacing
from sluice.catalog import Catalog, Table, load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.decoder import Decoder
from sluice.drain.drain import Drain
from sluice.errors import SlotBusy, SlotMissing, SluiceError, TopicGap
from sluice.events.event import CONNECT
from sluice.execution.contention import until_done
from sluice.execution.outcomes import Outcomes
from sluice.generate.files import topics as topic_names
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.quality.checks import FAIL, QualityReport
from sluice.repair.recover import MENDED, Recovery
from sluice.repair.repair import AUTO, DIFF, Repair, selected
from sluice.repair.repair import forecast as describe_repair
from sluice.settings import Settings
from sluice.warehouse.key_ranges import Plans
from sluice.warehouse.parked import Hole
from sluice.wiring.ahead import put_below
from sluice.wiring.checks import ROWS, check, differences, make_deep_check
from sluice.wiring.drains import draining, make_decoder
from sluice.wiring.parked import await_sent, holes_in
from sluice.wiring.resyncs import make_selection, read_again
from sluice.wiring.steps import rebuild

log = logging.getLogger(__name__)


def quality(
    settings: Settings, tables: Sequence[str] = (), *, deep: bool = False, restart: bool = False
) -> QualityReport:
    """One run of the checks, of all tables when none is named; see Quality.run and DeepCheck."""
    report = check(settings, tables, deep=deep, restart=restart)
    wrong = {c.table for c in report.checks if c.check in ROWS and c.status == FAIL}
    if settings.repair == AUTO:
        wrong -= _rejecting(settings, wrong)
    if settings.repair != AUTO or not wrong:
        return report
    try:
        for line in repair(settings, sorted(wrong), mode=AUTO):
            log.warning("auto-repair: %s", line)
    except SluiceError as error:
        log.warning("auto-repair: %s", "; ".join(str(error).split("\n")))
    return check(settings, tables, deep=deep)


def _rejecting(settings: Settings, names: Collection[str]) -> set[str]:
    """Of these tables those that have open dead letters.

    What differs there may be what cannot be stored: it would be read again at every check and
    rejected each time, and only a person can correct it.
    """
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        counts = dict(clickhouse.execute(read_statements(PIPELINE)["dead_letters"]))
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
    """What a resync of these rows would change, in one line; nothing is changed."""
    table, outcomes = load_catalog(settings.models).table(name), Outcomes()
    selection = make_selection(table, lower, upper, keys)
    found = differences(settings, [table], outcomes)
    outcomes.require()
    ((_, findings),) = found
    return describe_repair(table, selected(table, findings, selection))


def repair(settings: Settings, names: Sequence[str] = (), *, mode: str = DIFF) -> Iterator[str]:
    """Bring tables back to equality by their differences, all of them when none is named.

    Unless `mode` is auto, a gap in a table's topic is passed first, as what is missing will differ,
    and a parked table is waited for until the relay sends it again. Its holes are closed by a
    comparison that began after that.

    Returns:
        What is done, a line each, as it is done.

    Raises:
        SluiceError: at the end, of the tables that could not be brought back.
    """
    catalog, outcomes = load_catalog(settings.models), Outcomes()
    yield from _repair(settings, catalog, catalog.select(tuple(names)), mode, outcomes)
    outcomes.require()


def _repair(
    settings: Settings, catalog: Catalog, tables: Sequence[Table], mode: str, outcomes: Outcomes
) -> Iterator[str]:
    """See `repair`; without the tables that `outcomes` has trouble with."""
    tables = [table for table in tables if table.name not in outcomes.troubles]
    if mode == DIFF:
        yield from _pass_gaps(settings, catalog, tables, outcomes)
    tables = [table for table in tables if table.name not in outcomes.troubles]
    yield from _put_below(settings, tables, outcomes)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        tables = [table for table in tables if table.name not in outcomes.troubles]
        holes, ended = holes_in(clickhouse), dict[str, list[Hole]]()
        for table in tables:
            with outcomes.of(table.name):
                ended[table.name] = (
                    await_sent(settings, holes, catalog, table)
                    if mode == DIFF
                    else [hole for hole in holes.open(table.name) if hole.sent is not None]
                )
        tables = [table for table in tables if table.name not in outcomes.troubles]
        found = differences(settings, tables, outcomes) if tables else []
        step = Repair(clickhouse=clickhouse, resync=partial(read_again, settings))
        for table, findings in found:
            with outcomes.of(table.name):
                report = step.run(table, findings, mode)
                yield report.sentence() if report else describe_repair(table, findings)
                if report:
                    report.require_stored()
                if report or not findings.differences:
                    for hole in ended[table.name]:
                        holes.close(hole, findings.point)
                        yield f"{table.name} is no longer parked: {hole.sentence()}"
    yield from _rebuilt(settings, catalog, outcomes)


def _put_below(settings: Settings, tables: Sequence[Table], outcomes: Outcomes) -> Iterator[str]:
    """Put what is ahead of its source below what comes; comparisons do not see it before."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, draining(settings) as run:
        for table in tables:
            with outcomes.of(table.name):
                if line := put_below(settings, clickhouse, run, table):
                    yield line


def _rebuilt(settings: Settings, catalog: Catalog, outcomes: Outcomes) -> Iterator[str]:
    for fact in catalog.facts:
        with outcomes.of(fact.name):
            yield rebuild(settings, fact.name).sentence()


def recover(settings: Settings) -> Iterator[str]:
    """Bring everything back to equality after changes were lost, without dropping a table.

    Where the slot is of no use, or the server is another one, a new slot is made first; see
    Recovery. Where the change source can go on, what differs is read again; see `repair`.

    Returns:
        What is done, a line each, as it is done.

    Raises:
        NotReady: the change source is needed and does not run, or set-up is not finished.
        SluiceError: at the end, of the tables that could not be brought back.
    """
    catalog, topics = load_catalog(settings.models), Topics(settings.kafka)
    outcomes = Outcomes()
    topics.ensure(topic_names(catalog))
    fault, unsent = _fault(settings, catalog, topics)
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, draining(settings) as run:
        plans = Plans(clickhouse=clickhouse, queries=read_statements(PIPELINE))
        store = ClickHouseStore(clickhouse)
        checkpoints = [store.checkpoint(table.name) for table in catalog.tables]
        by_offset = CONNECT in {found.source for found in checkpoints if found}

        def drained(table: Table) -> None:
            plans.drop(table)  # changes were lost since the ranges that are done
            _drain_all(run, make_decoder(clickhouse, catalog, table.name))
            put_below(settings, clickhouse, run, table)

        if fault is None:
            for table in catalog.tables if by_offset else ():
                with outcomes.of(table.name):
                    drained(table)
                    _raise_epoch(run, table)
            outcomes.troubles.update(unsent)
            yield from _repair(settings, catalog, catalog.tables, DIFF, outcomes)
            outcomes.require()
            return
        yield fault.what
        step = Recovery(
            drained=drained,
            raise_epoch=partial(_raise_epoch, run),
            by_offset=by_offset,
            replacing=lambda: replacing(settings, catalog, topics),
            compare=lambda within: make_deep_check(clickhouse, lambda: nullcontext(within)),
            repair=lambda within: Repair(
                clickhouse=clickhouse, resync=partial(read_again, settings, within=within)
            ),
        )
        parked = holes_in(clickhouse)
        holes = parked.open()
        yield from step.run(catalog.tables, fault, outcomes)
        for hole in holes:  # compared and repaired as of the new slot's point
            if hole.table not in outcomes.troubles:
                parked.close(hole, hole.sent or hole.since)
        outcomes.troubles.update(unsent)
    yield from _rebuilt(settings, catalog, outcomes)
    if by_offset:
        yield "start Redpanda Connect; it goes on from the new slot"
    else:
        yield "start the relay: sluice up, or sluice relay"
    outcomes.require()


def _fault(
    settings: Settings, catalog: Catalog, topics: Topics
) -> tuple[SluiceError | None, dict[str, SluiceError]]:
    """Why the relay cannot go on from its slot, None where it can; and the tables that cannot be
    sent from a new one either.
    """
    try:
        ready = slots.prepare(settings.postgres, settings.relay, catalog, topics, snapshot=False)
    except SlotBusy:
        return None, {}
    except MENDED as error:
        return error, {}
    if ready.confirmed_lsn is None:
        return SlotMissing("there is no slot"), {}
    mended = [error for error in ready.unsent.values() if isinstance(error, MENDED)]
    others = {name: e for name, e in ready.unsent.items() if not isinstance(e, MENDED)}
    return next(iter(mended), None), others


def _drain_all(run: Drain, decoder: Decoder) -> None:
    """Drain to the topic's end; what is missing from the topic is found by comparing."""
    while True:
        try:
            if until_done(partial(run.run, decoder)).caught_up:
                return
        except TopicGap:
            until_done(partial(run.skip_gap, decoder.table))


def _raise_epoch(run: Drain, table: Table) -> None:
    until_done(partial(run.raise_epoch, table))


def _pass_gaps(
    settings: Settings, catalog: Catalog, tables: Sequence[Table], outcomes: Outcomes
) -> Iterator[str]:
    """Let the drain go on where topics lost messages; what was lost, a line each."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse, draining(settings) as run:
        plans = Plans(clickhouse=clickhouse, queries=read_statements(PIPELINE))
        for table in tables:
            with outcomes.of(table.name):
                try:
                    until_done(partial(run.run, make_decoder(clickhouse, catalog, table.name)))
                except TopicGap as error:
                    plans.drop(table)  # the gap came after the ranges that are done
                    until_done(partial(run.skip_gap, table))
                    yield f"{table.name}: {error.what}"
