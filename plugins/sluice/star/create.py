"""Creates or updates the ClickHouse tables and views to match the models.

The present state is read once for all tables; a table that matches its model costs no statement.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import count
from typing import TypeVar

from sluice.catalog import Catalog, Fact, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import NeedsPerson, NotReady, SluiceError
from sluice.execution.outcomes import Named, Outcomes
from sluice.execution.progress import Pace
from sluice.execution.side_by_side import side_by_side
from sluice.generate.clickhouse import on_cluster, quoted, table_statements
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.generate.star import star_statements
from sluice.printable import first_lines, named
from sluice.settings import PACKAGE, Cluster
from sluice.star.creation import Star, drop_rollup
from sluice.star.rebuild import Rebuild
from sluice.warehouse.creation import Creation, created, make_creation
from sluice.warehouse.evolution import Plan, evolve, plan_of
from sluice.warehouse.present import kinds_of, read_present
from sluice.warehouse.star_form import (
    differs,
    fact_differs,
    former_rollups,
    kinds_of_facts,
    rollups_made,
)

log = logging.getLogger(__name__)

_ALTERED = re.compile(r"ALTER TABLE cdc\.(\w+)")
_ADDED = re.compile(r"ADD COLUMN IF NOT EXISTS (\w+)")
_BOOKKEEPING = PACKAGE / "sql/bookkeeping.sql"
# A statement that creates a table mostly waits for the disk (docs/benchmarks/tables.md).
_SESSIONS = 4
_REPEATS = 3
_NAMED = 5  # tables that a line names

N = TypeVar("N", bound=Named)
T = TypeVar("T")


def create_warehouse(
    clickhouse: ClickHouse, catalog: Catalog
) -> tuple[list[str], dict[str, SluiceError]]:
    """Create or update everything in ClickHouse; return what was done, and the errors by table."""
    for name, statement in read_statements(_BOOKKEEPING).items():
        if name.startswith("database_"):
            clickhouse.everywhere(statement)
        else:
            clickhouse.execute(on_cluster(statement, clickhouse.cluster))
    kinds = kinds_of(column for table in catalog.tables for column in table.columns)
    present = read_present(clickhouse, kinds | kinds_of_facts(catalog.facts))
    outcomes, creation = Outcomes(), make_creation(clickhouse, present)
    done = _create_tables(clickhouse, catalog.tables, creation, outcomes)
    facts = [
        fact
        for fact in catalog.facts
        if not {table.name for table in fact.tables} & outcomes.troubles.keys()
    ]
    kept = {rollup.name for fact in catalog.facts for rollup in fact.table.rollups}
    kept |= {name for table in catalog.tables for name in (table.storage, table.history)}
    for fact in facts:
        with outcomes.of(fact.name):
            done += _drop_former(clickhouse, former_rollups(present, fact.name) - kept)
    done += _create_facts(clickhouse, outcomes.sound(facts), creation, outcomes)
    return done, outcomes.troubles


def state_tables() -> dict[str, list[str]]:
    """Return the tables of the pipeline's own state, each with the columns added by upgrades."""
    tables: dict[str, list[str]] = {}
    for statement in read_statements(_BOOKKEEPING).values():
        for place in created([statement]):
            tables[place.partition(".")[2]] = []
        if altered := _ALTERED.match(statement):
            tables[altered[1]] += _ADDED.findall(statement)
    return tables


def relations_of_fact(fact: Fact, cluster: Cluster) -> set[str]:
    """Return the `database.name` of each table and view of a fact and its rollups.

    On a cluster the tables that hold rows on each server are left out: their names vary.
    """
    names = created(star_statements(fact, cluster).texts())
    return {name for name in names if not (cluster.name and name.endswith(cluster.local("")))}


def make_rebuild(clickhouse: ClickHouse, fact: Fact) -> Rebuild:
    """Return a fact's rebuild on this session."""
    return Rebuild(
        clickhouse=clickhouse,
        fact=fact,
        star=star_statements(fact, clickhouse.cluster),
        queries=read_statements(PIPELINE),
    )


def _create_tables(
    clickhouse: ClickHouse, tables: Sequence[Table], creation: Creation, outcomes: Outcomes
) -> list[str]:
    """Create or update the source tables; return what was done."""
    cluster, present = clickhouse.cluster, creation.present

    def lacking(table: Table) -> list[str]:
        return creation.needed(table_statements(table, cluster).values())

    def create(session: ClickHouse, table: Table) -> Plan:
        statements = lacking(table)
        plan = evolve(session, table, present)
        for statement in table_statements(table, cluster).values() if plan.safe else statements:
            session.everywhere(statement)
        return plan

    unlike = []
    for table in tables:
        with outcomes.of(table.name):
            if lacking(table) or plan_of(present, table, cluster) != Plan():
                unlike.append(table)
    plans = _at_once(clickhouse, create, unlike, outcomes, "tables")
    statements = [statement for _, plan in plans for statement in plan.safe]
    done = first_lines(statements, "more statements")
    if names := [table.name for table, plan in plans if plan.resync]:
        few = f"run: sluice resync {' '.join(names)}"
        many = "run sluice resync for each; sluice quality --deep names them until then"
        text = few if len(names) <= _NAMED else many
        done.append(f"rows of {named(names, _NAMED)} lack the new values; {text}")
    return done


def _drop_former(clickhouse: ClickHouse, rollups: Iterable[str]) -> list[str]:
    """Drop rollups that left the models; return what was done."""
    done = []
    for former in sorted(rollups):
        clickhouse.everywhere(f"DROP VIEW IF EXISTS olap.{quoted(former)}")
        drop_rollup(clickhouse, former)
        done.append(f"olap.{former}: dropped, it is no longer in the models")
    return done


def _create_facts(
    clickhouse: ClickHouse, facts: Sequence[Fact], creation: Creation, outcomes: Outcomes
) -> list[str]:
    """Create the facts, their rollups and views, or rebuild them to match; return what was done."""
    made = rollups_made(clickhouse, facts, creation.present)
    newest = clickhouse.newest() if facts else ()
    stars: list[Star] = []
    for fact in facts:
        with outcomes.of(fact.name):
            star = Star(
                fact=fact,
                statements=star_statements(fact, clickhouse.cluster),
                creation=creation,
                made=made,
                differs=differs(creation.present, fact, newest),
            )
            if star.is_unlike():
                stars.append(star)
    done: list[str] = []
    for star, recreated in _at_once(clickhouse, _create_fact, stars, outcomes, "facts"):
        with outcomes.of(star.name):
            if star.differs or recreated:
                done += _renew(clickhouse, star, recreated=recreated)
    return done


def _create_fact(clickhouse: ClickHouse, star: Star) -> bool:
    """Create what a star lacks; return whether rollups of an existing fact were recreated.

    Repeated where another `sluice init` dropped a rollup of the former models meanwhile: once it is
    created from these models, neither drops it.
    """
    recreated = False
    for repeats in range(_REPEATS, -1, -1):
        if star.existed or repeats < _REPEATS:
            star = star.read_again(clickhouse)
        recreated |= star.recreates
        try:
            star.create(clickhouse)
            break
        except (NotReady, NeedsPerson):
            if not repeats:
                raise
    return recreated


def _renew(clickhouse: ClickHouse, star: Star, *, recreated: bool) -> list[str]:
    """Rebuild a fact that differs from the models, or whose rollups were recreated."""
    rebuild = make_rebuild(clickhouse, star.fact)
    renewed = fact_differs(clickhouse, star.fact) or (recreated and rebuild.seen() is not None)
    done = [rebuild.renew().sentence()] if renewed else []
    # Before the merge, which may take long: the former view truncates values to its types.
    clickhouse.everywhere(star.statements.view)
    if renewed:
        rebuild.merge()
    return done


def _at_once(
    clickhouse: ClickHouse,
    step: Callable[[ClickHouse, N], T],
    items: Sequence[N],
    outcomes: Outcomes,
    what: str,
) -> list[tuple[N, T]]:
    """Run a step for several tables or facts at a time; return its results in their order.

    Args:
        outcomes: receives the errors.
        what: the plural of the items, for the log of the progress.
    """
    pace, number = Pace(log, f"{{}} {what} done"), count(1)

    def counted(session: ClickHouse, item: N) -> tuple[N, T]:
        try:
            return item, step(session, item)
        finally:
            pace.at(next(number), len(items))

    steps = side_by_side(counted, items, lambda: closing(clickhouse.another()), _SESSIONS)
    outcomes.troubles.update(steps.troubles)
    places = {item.name: place for place, item in enumerate(items)}
    return sorted(steps.results, key=lambda result: places[result[0].name])
