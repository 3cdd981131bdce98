"""Examines the services from outside; lists its checks in the order in which to fix them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import time

from sluice.catalog import Catalog
from sluice.errors import SluiceError, own_log
from sluice.operate.doctor import airflow, broker, clickhouse, postgres
from sluice.operate.doctor.diagnosis import Diagnosis, failed, judged, sentences
from sluice.operate.doctor.gathering import SILENCE_S, Part, gathered
from sluice.settings import Settings

__all__ = [
    "Diagnosis",
    "Part",
    "airflow_part",
    "examine",
    "examine_broker",
    "failed",
    "gathered",
    "judged",
    "sentences",
]
_LOADING_S = 60.0  # Airflow's code has to be loaded first


def examine(settings: Settings, catalog: Catalog, others: Sequence[Part] = ()) -> list[Diagnosis]:
    """Check PostgreSQL, the broker, ClickHouse and other parts concurrently; read-only."""
    return gathered([*(_part(name, settings, catalog) for name in _SERVICES), *others])


def examine_broker(settings: Settings, catalog: Catalog) -> list[Diagnosis]:
    """Check the broker alone."""
    return gathered([_part("broker", settings, catalog)])


def _part(name: str, settings: Settings, catalog: Catalog) -> Part:
    embedded = {
        "postgres": settings.postgres.embedded,
        "broker": settings.kafka.embedded,
        "clickhouse": settings.clickhouse.embedded,
    }
    look = own_log(name) if embedded[name] else "see its own log"
    return Part(
        service=name,
        checks=lambda: _SERVICES[name].checks(settings, catalog),
        remedy=f"it may be overloaded or stopped; {look}",
    )


def airflow_part(environment: Callable[[], Mapping[str, str] | None]) -> Part:
    """Return the checks of Airflow.

    Args:
        environment: returns the environment of Airflow's processes; None without Airflow.
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
