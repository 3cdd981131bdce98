"""Set up the pipeline; rebuild, backfill and roll back facts; maintain ClickHouse."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from functools import partial

from sluice.capture import publication as publications
from sluice.capture import relations
from sluice.capture import slot as slots
from sluice.catalog import Catalog, Fact, Table
from sluice.clients.mask_key import require_mask_key
from sluice.clients.topics import partitioned
from sluice.drain.bulk_load import publish_strays
from sluice.errors import SluiceError, WrongUsage
from sluice.events.event import DEAD_LETTER_TOPIC
from sluice.execution.contention import until_done
from sluice.execution.outcomes import Outcomes
from sluice.execution.side_by_side import Results, side_by_side
from sluice.generate.files import require_current
from sluice.generate.files import topics as topic_names
from sluice.generate.sql_files import read_statements
from sluice.printable import first_lines, named
from sluice.settings import PACKAGE, Settings
from sluice.star.changed_facts import ChangedFact, changed_facts
from sluice.star.create import create_warehouse, make_rebuild
from sluice.star.rebuild import RebuildReport
from sluice.warehouse.maintenance import GUARD, Maintenance, MaintenanceReport
from sluice.warehouse.masked import note_key
from sluice.wiring.context import Run, opened
from sluice.wiring.drains import make_drain
from sluice.wiring.masked import compare_masks, require_key

log = logging.getLogger(__name__)

# Facts that are rebuilt at a time; each rebuild holds the rows of a range in memory.
_REBUILDS = 2
_MAINTENANCE = PACKAGE / "sql/maintenance.sql"


def initialise(settings: Settings, *, new_mask_key: bool = False) -> list[str]:
    """Create or update topics, ClickHouse tables and views and the publication to match the models.

    Idempotent.

    Args:
        new_mask_key: whether the key of masked columns was changed on purpose. Default: false.

    Returns:
        A line for each change, and for each step that is left to a person.

    Raises:
        StaleGenerated: generated files do not match the models.
        NeedsPerson: columns are hashed, and there is no key, or another one than before.
        TableDiffers, NeedsPerson: a table needs a person; all others are done.
        NotReady: PostgreSQL lacks a table; all others are done.
        TopicPartitioned, PublicationIncomplete: a topic or the existing publication needs a person.
    """
    with opened(settings) as run:
        catalog, outcomes = run.catalog, Outcomes()
        if new_mask_key:
            require_mask_key(settings.postgres, catalog.tables)
        else:
            require_key(run, catalog.tables)
        require_current(catalog, settings.out, settings.clickhouse.cluster)
        with outcomes.of("broker"):
            _ensure_topics(run, outcomes)
        done, stopped = create_warehouse(run.clickhouse, catalog)
        with outcomes.of("dead letters"):
            done += _keep_letters(run)
        outcomes.troubles.update(stopped)
        with outcomes.of("masks"):
            note_key(run.clickhouse, settings.postgres, catalog.tables)
            done += compare_masks(run, outcomes.sound(catalog.tables))
        faulty: dict[str, SluiceError] = {}
        with outcomes.of("publication"), slots.session(settings.postgres) as cursor:
            faulty = publications.faults(cursor, catalog)
            faulty |= publications.ensure(cursor, settings.relay, catalog, faulty)
            children = list(relations.uncovered(cursor, catalog).values())
            done += first_lines(children, "more tables have such children")
        outcomes.troubles.update(faulty)
        done += _unlike_postgres(run, [t for t in catalog.tables if t.name not in faulty])
        outcomes.require(done)
        return done


def _ensure_topics(run: Run, outcomes: Outcomes) -> None:
    """Create missing topics; report those with more than one partition."""
    wanted = topic_names(run.catalog)
    run.topics.ensure(wanted)
    for name, count in run.topics.partitions().items():
        if count > 1 and name in wanted:
            with outcomes.of(name):
                raise partitioned(name, count)


def _keep_letters(run: Run) -> Iterator[str]:
    """Apply the retention of dead letters to their topic, if the settings have one."""
    kept = run.settings.letters_kept
    if kept is not None and run.topics.keep_for(DEAD_LETTER_TOPIC, kept):
        yield f"{DEAD_LETTER_TOPIC} keeps messages for {kept.days} days"


def rebuild(settings: Settings, fact: str, *, full: bool = False) -> RebuildReport:
    """Run a fact's rebuild once; see Rebuild.run."""
    with opened(settings) as run:
        step = make_rebuild(run.clickhouse, _fact(run.catalog, fact))
        return until_done(lambda: step.run(full=full))


def rebuild_all(settings: Settings, names: Sequence[str] = ()) -> Results[RebuildReport]:
    """Rebuild facts, by default all; one without changes costs nothing and has no report.

    Raises:
        Unreachable, WrongUsage: no fact can be rebuilt.
    """
    with opened(settings) as run:
        facts = [_fact(run.catalog, name) for name in names] or run.catalog.facts
        return rebuild_changed(run, facts)


def rebuild_changed(run: Run, facts: Sequence[Fact]) -> Results[RebuildReport]:
    """See rebuild_all."""

    def step(own: Run, changed: ChangedFact) -> RebuildReport:
        rebuild = make_rebuild(own.clickhouse, changed.fact)
        return until_done(partial(rebuild.run, formed=changed.formed))

    changed = changed_facts(run.clickhouse, facts, run.queries)
    return side_by_side(step, changed, partial(opened, run.settings), _REBUILDS)


def backfill(settings: Settings, fact: str, first: date, last: date) -> RebuildReport:
    """Recompute a fact's days, both ends included; see Rebuild.backfill."""
    with opened(settings) as run:
        step = make_rebuild(run.clickhouse, _fact(run.catalog, fact))
        return until_done(lambda: step.backfill(first, last))


def rollback(settings: Settings, fact: str) -> RebuildReport:
    """Undo a fact's last full rebuild; see Rebuild.rollback."""
    with opened(settings) as run:
        return make_rebuild(run.clickhouse, _fact(run.catalog, fact)).rollback()


def maintain(settings: Settings, guard: timedelta = GUARD) -> MaintenanceReport:
    """Run the maintenance once; see Maintenance.run."""
    with opened(settings) as run:
        _publish_strays(run)
        return Maintenance(
            clickhouse=run.clickhouse,
            catalog=run.catalog,
            queries=read_statements(_MAINTENANCE),
            guard=guard,
            letters_kept=settings.letters_kept,
        ).run()


def _publish_strays(run: Run) -> None:
    """Let rebuilds see the rows of killed loads; the maintenance reports a table's other errors."""
    for table in run.catalog.tables:
        try:
            if publish_strays(run.clickhouse, make_drain(run), table):
                log.warning("%s: rows of a killed resync are now in view of rebuilds", table.name)
        except SluiceError as error:
            log.warning("%s: %s", table.name, error.what)


def _unlike_postgres(run: Run, tables: Sequence[Table]) -> list[str]:
    """Return a line for each table whose columns in PostgreSQL differ from its model."""
    differences = run.source.schema_differences(tables)
    lines = [
        f"PostgreSQL's table {name} is not its model's: {'; '.join(lines)}; migrate it"
        for name, lines in differences.items()
        if lines
    ]
    return first_lines(lines, "more tables are not their models'; sluice quality names them")


def _fact(catalog: Catalog, name: str) -> Fact:
    for fact in catalog.facts:
        if fact.name == name:
            return fact
    known = named(fact.name for fact in catalog.facts)
    raise WrongUsage(f"no fact {name!r} in the models (known: {known})")
