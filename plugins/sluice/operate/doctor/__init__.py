"""What is wrong with the services, seen from outside: every check, in the order to fix things."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import time

from sluice.catalog import Catalog
from sluice.errors import SluiceError
from sluice.operate.doctor import airflow, broker, clickhouse, postgres
from sluice.operate.doctor.diagnosis import Diagnosis, failed, judged
from sluice.operate.doctor.gathering import SILENCE_S, Part, gathered
from sluice.settings import Settings

__all__ = ["Diagnosis", "Part", "airflow_part", "examine", "failed", "gathered", "judged"]
_LOADING_S = 60.0  # Airflow's code has to be loaded first, which waits for nobody


def examine(settings: Settings, catalog: Catalog, others: Sequence[Part] = ()) -> list[Diagnosis]:
    """Every check on PostgreSQL, the broker, ClickHouse and of other parts, all at once.

    Changes nothing.
    """
    parts = [
        Part(
            service=name,
            checks=lambda of=module: of.checks(settings, catalog),  # type: ignore[misc]
            remedy=f"is it overloaded or stopped? see: sluice status, sluice logs {name}",
        )
        for name, module in _SERVICES.items()
    ]
    return gathered([*parts, *others])


def airflow_part(environment: Callable[[], Mapping[str, str] | None]) -> Part:
    """Airflow's checks.

    Args:
        environment: gives the variables of Airflow's processes; None where there are none.
    """
    return Part(
        service="airflow",
        checks=partial(_airflow, environment, time() + SILENCE_S),
        remedy=airflow.REMEDY,
        silence=_LOADING_S,
    )


def _airflow(
    environment: Callable[[], Mapping[str, str] | None], until: float
) -> Iterator[Diagnosis]:
    try:
        variables = environment()
    except SluiceError as error:
        yield failed("supervisor", "access", error, reached=False)
        return
    if variables is not None:
        yield from airflow.checks(variables, until)


_SERVICES = {"postgres": postgres, "broker": broker, "clickhouse": clickhouse}
