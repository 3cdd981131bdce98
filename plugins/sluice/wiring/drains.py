"""Drain topics into ClickHouse; list, replay and dismiss dead letters; change the source."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sluice.capture import slot as slots
from sluice.capture.row_reader import present_rows
from sluice.catalog import Catalog, Table, load_catalog
from sluice.drain.dead_letters import Condition, DeadLetter, DeadLetters, ReplayReport, replay
from sluice.drain.decoder import Decoder
from sluice.drain.drain import Drain
from sluice.drain.ports import DrainReport
from sluice.drain.wal import wal_end
from sluice.errors import NotReady, WrongUsage
from sluice.events.event import CONNECT, RELAY, KeyText, Record
from sluice.execution.contention import until_done
from sluice.execution.outcomes import each
from sluice.generate.connect import require_unmasked
from sluice.generate.event_schemas import event_schema
from sluice.settings import Settings
from sluice.warehouse.evolution import differing
from sluice.wiring.context import Run, opened
from sluice.wiring.masked import require_key

# Seconds within which a concurrent drain, once its insert has begun, has written its checkpoint.
_SETTLE = 0.3


def drain(settings: Settings, table: str, *, pass_rejects: bool = False) -> DrainReport:
    """Run a table's drain once; see Drain."""
    with opened(settings) as run:
        decoder = make_decoder(run, table)
        return until_done(partial(make_drain(run, pass_rejects=pass_rejects).run, decoder))


def skip(settings: Settings, table: str, offset: int) -> str:
    """Let a table's drain skip the record at which it stopped; see Drain.skip.

    The check `parked` reports the skipped record until all rows of the table are reread.
    """
    with opened(settings) as run:
        decoder = make_decoder(run, table)

        def noted(line: str) -> None:
            end = wal_end(settings.postgres)
            if end is None:
                raise NotReady(
                    "PostgreSQL is in recovery, so that nothing says as of when rows are to be read"
                    " again",
                    remedy="name the primary, or promote it, then run it again",
                )
            run.holes.skip(table, end.lsn, line)

        return make_drain(run).skip(decoder, offset, settings.clickhouse.person, noted)


def change_source(settings: Settings, source: str) -> list[str]:
    """Let another change source take over all tables; return a line for each table changed.

    Raises:
        NotReady: the present source still reads from the slot, or events are undrained.
        WrongUsage: there is no such source.
    """
    if source == CONNECT:
        require_unmasked(load_catalog(settings.models))
    with slots.session(settings.postgres) as cursor:
        reader = slots.reader(cursor, settings.relay.slot)
    if reader is not None:
        raise NotReady(
            f"slot {settings.relay.slot!r} is being read from (pid {reader})",
            remedy="stop the present change source, then run it again",
        )
    with opened(settings) as run:
        step = make_drain(run)

        def change(table: Table) -> str:
            changed = until_done(partial(step.change_source, table, source))
            return f"{table.name}: from here on its changes come from {source}" if changed else ""

        return [line for line in each(change, run.catalog.tables) if line]


def dead_letters(
    settings: Settings,
    table: str,
    limit: int,
    conditions: Sequence[Condition] = (),
    *,
    every: bool = False,
) -> list[DeadLetter]:
    """Return the newest rejected events; see DeadLetters.newest."""
    with opened(settings) as run:
        letters = DeadLetters(clickhouse=run.clickhouse)
        return letters.newest(table, conditions, every=every, limit=limit)


def dismiss_dead_letters(
    settings: Settings,
    table: str,
    conditions: Sequence[Condition] = (),
    *,
    reason: str,
) -> str:
    """Close open dead letters of a table, with an audit row; return one line about it."""
    if not reason.strip():
        raise WrongUsage(
            "a dead letter is dismissed for a reason", remedy="give one: --reason TEXT"
        )
    with opened(settings) as run:
        run.catalog.table(table)
        letters = DeadLetters(clickhouse=run.clickhouse)
        count = letters.dismiss(table, conditions, reason=reason)
    return f"{table}: {count} dead letters dismissed by {settings.clickhouse.person}"


def replay_dead_letters(
    settings: Settings, table: str, conditions: Sequence[Condition] = ()
) -> ReplayReport:
    """Replay open dead letters of a table; see dead_letters.replay."""
    with opened(settings) as run:
        letters = DeadLetters(clickhouse=run.clickhouse)
        return replay(letters, make_drain(run), make_decoder(run, table), conditions)


def make_drain(run: Run, *, pass_rejects: bool = False) -> Drain:
    """Make the drain of topics."""
    settings = run.settings
    return Drain(
        changes=run.changes,
        store=run.store,
        limits=settings.drain,
        settle=_SETTLE,
        reread=partial(_present_rows, run),
        pass_rejects=pass_rejects,
        wal_end=partial(wal_end, settings.postgres),
        announced=lambda: named_source(run) or RELAY,
    )


def named_source(run: Run) -> str:
    """Return the change source of all tables: from a checkpoint, else from the slot's reader.

    Empty if neither is known.
    """
    checkpoints = run.store.checkpoints()
    for table in run.catalog.tables:
        if table.name in checkpoints and checkpoints[table.name].source:
            return checkpoints[table.name].source
    with slots.session(run.settings.postgres) as cursor:
        return slots.change_source(cursor, run.settings.relay.slot)


def make_decoder(run: Run, name: str) -> Decoder:
    """Make the decoder of a table's messages from its generated schema.

    Raises:
        TableDiffers: ClickHouse's table differs from the model; rows would lose values.
        NotReady: ClickHouse lacks the table.
    """
    table = run.catalog.table(name)
    for error in differing(run.clickhouse, [table]).values():
        raise error
    return decoder_of(run.catalog, table)


def decoder_of(catalog: Catalog, table: Table) -> Decoder:
    """Make the decoder of a table that ClickHouse has as the model says."""
    return Decoder(table, event_schema(catalog, table))


def _present_rows(run: Run, table: Table, keys: Sequence[KeyText]) -> list[Record]:
    require_key(run, [table])
    with slots.session(run.settings.postgres) as cursor:
        return present_rows(cursor, table, keys)
