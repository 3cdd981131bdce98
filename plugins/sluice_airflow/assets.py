"""The assets of the pipeline, from the source tables to the facts.

Each asset has one producing task and at most one consuming DAG: on Postgres, tasks that emit one
asset with several consumers at the same moment can deadlock in Airflow's queue (apache/airflow
#70128).
"""

from __future__ import annotations

from airflow.sdk import Asset

from sluice.catalog import Fact, Table


def source(table: Table) -> Asset:
    """The table in Postgres."""
    return Asset(
        name=f"postgres {table.name}", uri=f"sluice://postgres/{table.schema}/{table.relation}"
    )


def topic(table: Table) -> Asset:
    """The topic of its changes."""
    return Asset(name=f"topic {table.topic}", uri=f"sluice://redpanda/{table.topic}")


def current_state(table: Table) -> Asset:
    """Its current state in ClickHouse."""
    return Asset(name=f"clickhouse {table.storage}", uri=f"sluice://clickhouse/cdc/{table.storage}")


def fact(of: Fact) -> Asset:
    """The fact that people query."""
    return Asset(name=f"clickhouse {of.name}", uri=f"sluice://clickhouse/olap/{of.name}")


DRAINED = Asset(name="sluice drained", uri="sluice://minute/drained")
REBUILT = Asset(name="sluice rebuilt", uri="sluice://minute/rebuilt")
