"""What is wrong with the services, seen from outside: every check, in the order to mend things."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sluice.catalog import Catalog
from sluice.doctor import airflow, broker, clickhouse, postgres
from sluice.doctor.diagnosis import Diagnosis, failed, judged
from sluice.errors import Retryable, SluiceError
from sluice.settings import Settings

__all__ = ["Diagnosis", "examine", "failed", "judged"]


def examine(
    settings: Settings, catalog: Catalog, airflow_environment: Mapping[str, str] | None = None
) -> list[Diagnosis]:
    """Every check on PostgreSQL, the broker, ClickHouse and Airflow. Changes nothing.

    Args:
        airflow_environment: the variables of Airflow's processes; None where there are none.
    """
    return [
        *_service("postgres", lambda: postgres.checks(settings, catalog)),
        *_service("broker", lambda: broker.checks(settings, catalog)),
        *_service("clickhouse", lambda: clickhouse.checks(settings, catalog)),
        *([] if airflow_environment is None else airflow.checks(airflow_environment)),
    ]


def _service(name: str, checks: Callable[[], Iterator[Diagnosis]]) -> list[Diagnosis]:
    """A service's checks up to the first that it did not answer."""
    done: list[Diagnosis] = []
    try:
        for diagnosis in checks():
            done.append(diagnosis)
    except SluiceError as error:
        reached = not isinstance(error, Retryable)
        done.append(failed(name, "access", error, reached=reached))
    return done
