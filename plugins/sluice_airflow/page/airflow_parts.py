"""Reads which of Airflow's own programs run, from the heartbeats in its metadata database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow.api.common.airflow_health import HEALTHY, get_airflow_health


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowPart:
    """A program of Airflow; `heard_at` is its last heartbeat, None without one."""

    name: str
    runs: bool
    heard_at: datetime | None


def read_parts() -> tuple[AirflowPart, ...]:
    """Return the scheduler, and the programs beside it that have ever run."""
    return parts_of(get_airflow_health())


def parts_of(health: Mapping[str, Mapping[str, Any]]) -> tuple[AirflowPart, ...]:
    """Return the programs in Airflow's health; one that never ran is left out, as none needs it."""
    return tuple(
        AirflowPart(
            name=f"Airflow's {name.replace('_', ' ')}",
            runs=part["status"] == HEALTHY,
            heard_at=datetime.fromisoformat(at)
            if (at := part.get(f"latest_{name}_heartbeat"))
            else None,
        )
        for name, part in health.items()
        if part["status"] is not None and name != "metadatabase"
    )
