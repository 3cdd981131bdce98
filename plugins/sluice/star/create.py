"""Creates or updates the ClickHouse tables and views to match the models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sluice.catalog import Catalog, Fact, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import on_cluster, quoted, table_statements
from sluice.generate.rollups import noted
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.generate.star import star_statements
from sluice.settings import PROJECT, Cluster
from sluice.star.fact_tables import FactStorage
from sluice.star.rebuild import Rebuild
from sluice.warehouse.evolution import evolve
from sluice.warehouse.present import Present, kinds_of, read_present
from sluice.warehouse.star_form import fact_differs, former_rollups, rollups_made

_CREATED = re.compile(
    r"^CREATE (?:OR REPLACE )?(?:(?:MATERIALIZED )?VIEW|TABLE) (?:IF NOT EXISTS )?"
    r"((?:cdc|olap)\.(?:`(?:\\.|[^`\\])+`|\w+))"
)
_ALTERED = re.compile(r"ALTER TABLE cdc\.(\w+)")
_ADDED = re.compile(r"ADD COLUMN IF NOT EXISTS (\w+)")
_BOOKKEEPING = PROJECT / "sql/clickhouse/bookkeeping.sql"


def create_warehouse(
    clickhouse: ClickHouse, catalog: Catalog
) -> tuple[list[str], dict[str, SluiceError]]:
    """Create or update everything in ClickHouse; return what was done, and the errors by table."""
    outcomes = Outcomes()
    for name, statement in read_statements(_BOOKKEEPING).items():
        if name.startswith("database_"):
            clickhouse.everywhere(statement)
        else:
            clickhouse.execute(on_cluster(statement, clickhouse.cluster))
    kinds = kinds_of(column for table in catalog.tables for column in table.columns)
    present = read_present(clickhouse, kinds)
    made = rollups_made(clickhouse, catalog.facts, present)
    done = _tables(clickhouse, catalog, outcomes, present)
    names = {rollup.name for fact in catalog.facts for rollup in fact.table.rollups}
    names |= {name for table in catalog.tables for name in (table.storage, table.history)}
    for fact in catalog.facts:
        if {table.name for table in fact.tables} & outcomes.troubles.keys():
            continue
        with outcomes.of(fact.name):
            for former in sorted(former_rollups(present, fact.name) - names):
                clickhouse.everywhere(f"DROP VIEW IF EXISTS olap.{quoted(former)}")
                _drop_rollup(clickhouse, former)
                done.append(f"olap.{former}: dropped, it is no longer in the models")
            done += _star(clickhouse, fact, made)
    return done, outcomes.troubles


def state_tables() -> dict[str, list[str]]:
    """Return the tables of the pipeline's own state, each with the columns added by upgrades."""
    tables: dict[str, list[str]] = {}
    for statement in read_statements(_BOOKKEEPING).values():
        for place in _relations([statement]):
            tables[place.partition(".")[2]] = []
        if altered := _ALTERED.match(statement):
            tables[altered[1]] += _ADDED.findall(statement)
    return tables


def relations_of_table(table: Table, cluster: Cluster) -> set[str]:
    """Return the `database.name` of each table and view of a source table on every server."""
    return _relations(table_statements(table, cluster).values())


def relations_of_fact(fact: Fact, cluster: Cluster) -> set[str]:
    """Return the `database.name` of each table and view of a fact and its rollups.

    On a cluster the tables that hold rows on each server are left out: their names vary.
    """
    names = _relations(star_statements(fact, cluster).texts())
    return {name for name in names if not (cluster.name and name.endswith(cluster.local("")))}


def _relations(statements: Iterable[str]) -> set[str]:
    """Return the names that the statements create."""
    matches = filter(None, map(_CREATED.match, statements))
    return {match[1].replace("`", "") for match in matches}


def make_rebuild(clickhouse: ClickHouse, fact: Fact) -> Rebuild:
    """Return a fact's rebuild on this session."""
    return Rebuild(
        clickhouse=clickhouse,
        fact=fact,
        star=star_statements(fact, clickhouse.cluster),
        queries=read_statements(PIPELINE),
    )


def _tables(
    clickhouse: ClickHouse, catalog: Catalog, outcomes: Outcomes, present: Present
) -> list[str]:
    """Create or update the source tables; return what was done."""
    done: list[str] = []
    for table in catalog.tables:
        with outcomes.of(table.name):
            plan = evolve(clickhouse, table, present)
            done += plan.safe
            if plan.resync:
                done.append(
                    f"rows of {table.name} lack the new values; run: sluice resync {table.name}"
                )
            for statement in table_statements(table, clickhouse.cluster).values():
                clickhouse.everywhere(statement)
    return done


def _star(clickhouse: ClickHouse, fact: Fact, made: Mapping[str, bool | SluiceError]) -> list[str]:
    """Create the fact, its rollups and views, or rebuild them to match; return what was done."""
    star, done, recreated = star_statements(fact, clickhouse.cluster), [], False
    tables = FactStorage(clickhouse=clickhouse, fact=fact, queries=read_statements(PIPELINE))
    tables.create(fact.name)
    tables.follow()
    for rollup in fact.table.rollups:
        is_made = made[rollup.name]
        if isinstance(is_made, SluiceError):
            raise is_made
        if not is_made:
            _drop_rollup(clickhouse, rollup.name)
            recreated = True
        statements = star.rollups[rollup.name]
        clickhouse.everywhere(statements.table)
        if statements.distributed:
            clickhouse.everywhere(statements.distributed)
        clickhouse.execute(statements.noted)
        clickhouse.execute(statements.noted_by)
        clickhouse.everywhere(statements.view)
    rebuild = make_rebuild(clickhouse, fact)
    renewed = fact_differs(clickhouse, fact) or (recreated and rebuild.seen() is not None)
    if renewed:
        done.append(rebuild.renew().sentence())
    # Before the merge, which may take long: the former view truncates values to its types.
    clickhouse.everywhere(star.view)
    if renewed:
        rebuild.merge()
    return done


def _drop_rollup(clickhouse: ClickHouse, name: str) -> None:
    """Drop a rollup's tables, the rows last: their table marks that the rollup exists."""
    for table in (noted(name), clickhouse.cluster.local(name), name):
        clickhouse.drop(table)
