"""Adds links to the pages of Sluice's tasks: the CDC page, and ClickHouse's play UI.

The api-server computes links on demand, so they exist before a task has run and cost a run
nothing. Tasks of other DAGs get an empty link, which Airflow does not show.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

from sluice.errors import WrongUsage
from sluice_airflow.addresses import PREFIX, cdc_page
from sluice_airflow.connections import play_address

DAGS = "sluice_"


class CdcPageLink(BaseOperatorLink):
    """Link to the CDC page."""

    name = "CDC page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address; a path if Airflow has no base URL; empty for other DAGs' tasks."""
        if not ti_key.dag_id.startswith(DAGS):
            return ""
        return cdc_page() or f"{PREFIX}/"


class PlayLink(BaseOperatorLink):
    """Link to ClickHouse's play UI, with a query of what the task writes; asks for a password."""

    name = "ClickHouse play"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address; empty for other DAGs' tasks and without the connection."""
        if not ti_key.dag_id.startswith(DAGS):
            return ""
        relation = _written(ti_key.task_id)
        try:
            return play_address(f"SELECT * FROM {relation} LIMIT 100" if relation else "")
        except WrongUsage:
            return ""


def _written(task_id: str) -> str:
    """Return the view that a task writes; empty where there are several."""
    from sluice_airflow.tasks import catalog

    return next((f"olap.{f.name}" for f in catalog().facts if task_id == f"backfill_{f.name}"), "")
