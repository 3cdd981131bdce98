"""Who may see the values of rows: whoever Airflow lets run the resync.

Rows are personal data where the tables are. A viewer sees figures, states and reasons, which hold
no values; see SECURITY.md.
"""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, HTTPException, Request

from sluice_airflow.page.repairs import RESYNC

require_repair = requires_access_dag("POST", DagAccessEntity.RUN, RESYNC)


def _may_repair(request: Request, user: GetUserDep) -> bool:
    """Return whether Airflow lets the user run the resync."""
    try:
        require_repair(request, user)
    except HTTPException:
        return False
    return True


MayRepair = Annotated[bool, Depends(_may_repair)]
