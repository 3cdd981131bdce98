"""What is wrong with the services, seen from outside: every check, in the order to fix things."""

from __future__ import annotations

from collections.abc import Mapping

from sluice.catalog import Catalog
from sluice.doctor import airflow, broker, clickhouse, postgres
from sluice.doctor.diagnosis import Diagnosis, failed, judged
from sluice.doctor.gathering import Part, gathered
from sluice.settings import Settings

__all__ = ["Diagnosis", "Part", "examine", "failed", "gathered", "judged"]
_LOADING_S = 60.0  # Airflow's code has to be loaded first, which waits for nobody


def examine(
    settings: Settings, catalog: Catalog, airflow_environment: Mapping[str, str] | None = None
) -> list[Diagnosis]:
    """Every check on PostgreSQL, the broker, ClickHouse and Airflow, all at once. Changes nothing.

    Args:
        airflow_environment: the variables of Airflow's processes; None where there are none.
    """
    parts = [
        Part(
            service=name,
            checks=lambda of=module: of.checks(settings, catalog),  # type: ignore[misc]
            remedy=f"is it overloaded or stopped? see: sluice status, sluice logs {name}",
        )
        for name, module in _SERVICES.items()
    ]
    if airflow_environment is not None:
        environment = airflow_environment
        parts.append(
            Part(
                service="airflow",
                checks=lambda: airflow.checks(environment),
                remedy=airflow.REMEDY,
                silence=_LOADING_S,
            )
        )
    return gathered(parts)


_SERVICES = {"postgres": postgres, "broker": broker, "clickhouse": clickhouse}
