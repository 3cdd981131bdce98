"""Adds links to the pages of Sluice's tasks: the CDC page, and ClickHouse's play UI.

The api-server computes links on demand, so they exist before a task has run and cost a run
nothing. Tasks of other DAGs get an empty link, which Airflow does not show.
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
    """The subject of a task.

    Attributes:
        page: its path below the CDC page.
        relation: its table or view in ClickHouse; empty where there are several.
    """

    page: str = ""
    relation: str = ""


class CdcPageLink(BaseOperatorLink):
    """Link to the CDC page, or to a table's page for the task that drains it."""

    name = "CDC page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address; a path if Airflow has no base URL; empty for other DAGs' tasks."""
        if not ti_key.dag_id.startswith(DAGS):
            return ""
        return (cdc_page() or f"{PREFIX}/") + subject(ti_key.task_id).page


class PlayLink(BaseOperatorLink):
    """Link to ClickHouse's play UI, with a query of what the task writes; asks for a password."""

    name = "ClickHouse play"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address; empty for other DAGs' tasks and without the connection."""
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
    """Return the subject of a task."""
    from sluice_airflow.tasks import catalog

    return subjects(catalog()).get(task_id, Subject())


def subjects(of: Catalog) -> dict[str, Subject]:
    """Return the subjects of tasks of one table or fact, by task id."""
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
