"""Links on the pages of Sluice's tasks: to the CDC page, and to ClickHouse's own query page.

The api-server makes them when somebody looks, so they are there before a task has run and cost a
minute's run nothing. Tasks of other DAGs get an empty link, which Airflow does not show.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from airflow.sdk import BaseOperatorLink

from sluice.catalog import Catalog
from sluice.errors import WrongUsage
from sluice_airflow.addresses import PREFIX, cdc_page
from sluice_airflow.connections import play_address

DAGS = "sluice_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a task works on.

    Attributes:
        page: below the CDC page's address.
        relation: what people query in ClickHouse; empty where it is no single one.
    """

    page: str = ""
    relation: str = ""


class CdcPageLink(BaseOperatorLink):
    """The CDC page; of a task that drains a table, the table's."""

    name = "CDC page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, of another DAG's task empty; a path where Airflow knows not its own."""
        if not ti_key.dag_id.startswith(DAGS):
            return ""
        return (cdc_page() or f"{PREFIX}/") + subject(ti_key.task_id).page


class PlayLink(BaseOperatorLink):
    """ClickHouse's play UI, with a query on what the task writes; it asks for the password."""

    name = "ClickHouse play"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, of another DAG's task or without the connection empty."""
        if not ti_key.dag_id.startswith(DAGS):
            return ""
        try:
            address = play_address()
        except WrongUsage:
            return ""
        relation = subject(ti_key.task_id).relation
        query = f"SELECT * FROM {relation} LIMIT 100" if relation else ""
        return f"{address}#{b64encode(query.encode()).decode()}" if query else address


def subject(task_id: str) -> Subject:
    """What the task of this id works on."""
    from sluice_airflow.tasks import catalog

    return subjects(catalog()).get(task_id, Subject())


def subjects(of: Catalog) -> dict[str, Subject]:
    """Task id -> what it works on, of tasks that are those of one table or fact."""
    drains = {
        f"drain_{table.name}": Subject(
            page=f"tables/{table.name}",
            relation=f"{'cdc' if table.is_fact else 'olap'}.{table.storage}",
        )
        for table in of.tables
    }
    return drains | {
        f"{task}_{fact.name}": Subject(relation=f"olap.{fact.name}")
        for fact in of.facts
        for task in ("rebuild", "backfill")
    }
