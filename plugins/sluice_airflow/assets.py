"""Defines the pipeline's assets, from the source tables to the facts.

Each asset has at most one consuming DAG: with PostgreSQL as Airflow's
database, tasks that concurrently emit an asset with several consumers can deadlock in Airflow's
queue (apache/airflow #70128).
"""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias

from sluice.catalog import Fact, Table


def source(table: Table) -> Asset:
    """Return the asset of a table in PostgreSQL."""
    return Asset(
        name=f"postgres {table.name}", uri=f"sluice://postgres/{table.schema}/{table.relation}"
    )


def topic(table: Table) -> Asset:
    """Return the asset of a table's topic."""
    return Asset(name=f"topic {table.topic}", uri=f"sluice://redpanda/{table.topic}")


def current_state(table: Table) -> Asset:
    """Return the asset of a table's current state in ClickHouse."""
    return Asset(name=f"clickhouse {table.storage}", uri=f"sluice://clickhouse/cdc/{table.storage}")


def fact(of: Fact) -> Asset:
    """Return the asset of a fact in ClickHouse."""
    return Asset(name=f"clickhouse {of.name}", uri=f"sluice://clickhouse/olap/{of.name}")


# The outlets of tasks that emit events of the tables, or facts, which they found changed.
CURRENT_STATES = AssetAlias("sluice current states")
FACTS = AssetAlias("sluice facts")
DRAINED = Asset(name="sluice drained", uri="sluice://minute/drained")
REBUILT = Asset(name="sluice rebuilt", uri="sluice://minute/rebuilt")
