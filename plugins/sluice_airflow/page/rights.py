"""Decides who may see values of rows: users whom Airflow permits to run the resync.

Rows may be personal data, and so may their keys. Other viewers see figures, states and reasons,
which contain neither; see SECURITY.md.
"""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, HTTPException, Request

from sluice_airflow.page.repairs import RESYNC

require_repair = requires_access_dag("POST", DagAccessEntity.RUN, RESYNC)


def _may_repair(request: Request, user: GetUserDep) -> bool:
    """Whether Airflow permits the user to run the resync."""
    try:
        require_repair(request, user)
    except HTTPException:
        return False
    return True


MayRepair = Annotated[bool, Depends(_may_repair)]
