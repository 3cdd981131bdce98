"""Reports what tasks read and write to OpenLineage, if Airflow's provider for it is installed.

The provider sees that a Python task ran, but not which data it used, and an asset's address has no
server. So each task reports its datasets by OpenLineage's naming rules, under which they match the
reports of other tools. Reporting never fails a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sluice.catalog import Column, Fact, Table
from sluice.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A table or topic.

    Attributes:
        namespace: its server.
        columns: (name, type) of each column.
    """

    namespace: str
    name: str
    columns: tuple[tuple[str, str], ...]


def source(settings: Settings, table: Table) -> Dataset:
    """Return the dataset of a table in PostgreSQL."""
    server = settings.postgres
    return Dataset(
        namespace=f"postgres://{server.address}",
        name=f"{server.database}.{table.schema}.{table.relation}",
        columns=tuple((column.name, column.postgres_type) for column in table.columns),
    )


def topic(settings: Settings, table: Table) -> Dataset:
    """Return the dataset of a table's topic, on the first of the brokers."""
    server = settings.kafka.bootstrap.partition(",")[0]
    return Dataset(namespace=f"kafka://{server}", name=table.topic, columns=())


def stored(settings: Settings, name: str, columns: Iterable[tuple[str, Column]]) -> Dataset:
    """Return the dataset of a table in ClickHouse, whose columns may have other names there."""
    server = settings.clickhouse
    return Dataset(
        namespace=f"clickhouse://{server.address}",
        name=name,
        columns=tuple((own, column.type.clickhouse) for own, column in columns),
    )


def current_state(settings: Settings, table: Table) -> Dataset:
    """Return the dataset of a table's current state."""
    columns = ((column.name, column) for column in table.columns)
    return stored(settings, f"cdc.{table.storage}", columns)


def drained(settings: Settings, table: Table) -> None:
    """Report that changes of the table went from PostgreSQL through its topic into ClickHouse."""
    _report([source(settings, table), topic(settings, table)], [current_state(settings, table)])


def rebuilt(settings: Settings, fact: Fact) -> None:
    """Report that the fact was computed from its tables."""
    columns = ((column.name, column.column) for column in fact.columns)
    inputs = [current_state(settings, table) for table in fact.tables]
    _report(inputs, [stored(settings, f"olap.{fact.name}", columns)])


def _report(inputs: Sequence[Dataset], outputs: Sequence[Dataset]) -> None:
    """Emit an event of the running task, beside the provider's own of its start and end."""
    try:
        from airflow.providers.openlineage.api import emit_dataset_lineage
        from openlineage.client.event_v2 import Dataset as Emitted
        from openlineage.client.facet_v2 import schema_dataset
    except ImportError:
        return

    def emitted(dataset: Dataset) -> Emitted:
        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=name, type=kind)
            for name, kind in dataset.columns
        ]
        facets = {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)} if fields else {}
        return Emitted(namespace=dataset.namespace, name=dataset.name, facets=facets)

    emit_dataset_lineage(inputs=[*map(emitted, inputs)], outputs=[*map(emitted, outputs)])
