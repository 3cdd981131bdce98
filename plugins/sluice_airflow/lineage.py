"""What tasks read and write, told to OpenLineage where Airflow's provider for it is installed.

The provider sees of a Python task that it ran, not what it touched, and an asset's address holds no
server. So each task tells it, with the names that OpenLineage gives servers and tables: there they
meet what other tools tell of the same ones. Telling never fails a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sluice.catalog import Column, Fact, Table
from sluice.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A table or topic: its server, its name there, and its columns as (name, type)."""

    namespace: str
    name: str
    columns: tuple[tuple[str, str], ...]


def source(settings: Settings, table: Table) -> Dataset:
    """The table in PostgreSQL."""
    server = settings.postgres
    return Dataset(
        namespace=f"postgres://{server.host}:{server.port}",
        name=f"{server.database}.{table.schema}.{table.relation}",
        columns=tuple((column.name, column.postgres_type) for column in table.columns),
    )


def topic(settings: Settings, table: Table) -> Dataset:
    """The topic of its changes, at the first of the brokers."""
    server = settings.kafka.bootstrap.partition(",")[0]
    return Dataset(namespace=f"kafka://{server}", name=table.topic, columns=())


def stored(settings: Settings, name: str, columns: Iterable[tuple[str, Column]]) -> Dataset:
    """A table in ClickHouse, with its columns by their names there."""
    server = settings.clickhouse
    return Dataset(
        namespace=f"clickhouse://{server.host}:{server.port}",
        name=name,
        columns=tuple((own, column.type.clickhouse) for own, column in columns),
    )


def current_state(settings: Settings, table: Table) -> Dataset:
    """The table's current state."""
    columns = ((column.name, column) for column in table.columns)
    return stored(settings, f"cdc.{table.storage}", columns)


def drained(settings: Settings, table: Table) -> None:
    """Tell that changes of the table went from PostgreSQL by its topic into ClickHouse."""
    _tell([source(settings, table), topic(settings, table)], [current_state(settings, table)])


def rebuilt(settings: Settings, fact: Fact) -> None:
    """Tell that the fact was made of its tables."""
    columns = ((column.name, column.column) for column in fact.columns)
    of = [current_state(settings, table) for table in fact.tables]
    _tell(of, [stored(settings, f"olap.{fact.name}", columns)])


def _tell(inputs: Sequence[Dataset], outputs: Sequence[Dataset]) -> None:
    """An event of the task that runs, beside those that the provider sends of its start and end."""
    try:
        from airflow.providers.openlineage.api import emit_dataset_lineage
        from openlineage.client.event_v2 import Dataset as Told
        from openlineage.client.facet_v2 import schema_dataset
    except ImportError:
        return

    def told(of: Dataset) -> Told:
        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=name, type=kind)
            for name, kind in of.columns
        ]
        facets = {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)} if fields else {}
        return Told(namespace=of.namespace, name=of.name, facets=facets)

    emit_dataset_lineage(inputs=[*map(told, inputs)], outputs=[*map(told, outputs)])
