"""Checks Airflow for `sluice doctor`: connections, plugin, pool and DAGs.

Runs in Airflow's environment, and so reads connections and metadata as its servers do. The last
line that it prints holds the diagnoses as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from time import time

import airflow
from airflow import plugins_manager
from airflow.models.dag import DagModel
from airflow.models.pool import Pool
from airflow.utils.session import create_session
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import configure_mappers

from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.clients.topics import Topics
from sluice.errors import WrongUsage
from sluice.operate.doctor import Diagnosis, Part, gathered, judged
from sluice.operate.doctor.gathering import SILENCE_S
from sluice.settings import WAREHOUSE_POOL, WAREHOUSE_SLOTS, Settings
from sluice_airflow.addresses import PREFIX
from sluice_airflow.connections import (
    CLICKHOUSE,
    POSTGRES,
    REDPANDA,
    connection,
    settings_from_connections,
)

_MAJOR = 3
_LEAST_S = 2.0
_SILENT = "its service may be overloaded or stopped; run: sluice doctor"
_MINUTE = ("sluice_drain", "sluice_rebuild", "sluice_quality")


def examine(until: float | None = None) -> Iterator[Diagnosis]:
    """Yield every check, in the order in which to fix things; read-only.

    Args:
        until: deadline for services that do not answer, seconds since 1970; every service has at
            least two seconds.
    """
    version = airflow.__version__
    yield judged("airflow", "version", int(version.split(".")[0]) == _MAJOR, version, "Airflow 3")
    # Their time must not count as a service's. Mappers first: without .airflowignore, the loader of
    # plugins puts files of ours under names of Airflow's.
    configure_mappers()
    plugin = _plugin()
    parts: dict[str, tuple[Callable[[], Iterable[Diagnosis]], str]] = {
        f"connection {name}": (partial(_connection, name, ask), _SILENT)
        for name, ask in _ASKED.items()
    }
    parts["plugin"] = (lambda: [plugin], "")
    remedy = "correct AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, or start its server"
    parts["database"] = (_metadata, remedy)
    silence = SILENCE_S if until is None else max(_LEAST_S, until - time())
    yield from gathered(
        [
            Part(service="airflow", check=name, checks=checks, remedy=remedy, silence=silence)
            for name, (checks, remedy) in parts.items()
        ]
    )


def _connection(name: str, ask: Callable[[Settings], str]) -> Iterator[Diagnosis]:
    """Yield whether a connection exists and its service answers."""
    connection(name)
    try:
        settings = settings_from_connections()
    except WrongUsage:
        return
    address = ask(settings)
    remedy = 'add {"bootstrap.servers": "host:port,..."} to its extra'
    found = f"{address} answers" if address else "no address"
    yield judged("airflow", f"connection {name}", bool(address), found, remedy)


def _ask_postgres(settings: Settings) -> str:
    with PostgresSource(settings.postgres).connect():
        return settings.postgres.address


def _ask_broker(settings: Settings) -> str:
    if settings.kafka.bootstrap:
        Topics(settings.kafka, SILENCE_S / 2).partitions()
    return settings.kafka.bootstrap


def _ask_clickhouse(settings: Settings) -> str:
    with closing(ClickHouse(settings.clickhouse)) as session:
        session.execute("SELECT 1")
        return settings.clickhouse.address


_ASKED = {POSTGRES: _ask_postgres, REDPANDA: _ask_broker, CLICKHOUSE: _ask_clickhouse}


def _plugin() -> Diagnosis:
    """Check that the CDC page is served, and that nothing else below plugins/ runs as a plugin."""
    apps = {app["url_prefix"]: app["app"] for app in plugins_manager.get_fastapi_plugins()[0]}
    errors = plugins_manager.get_import_errors()
    if PREFIX not in apps:
        found = "no installed package has it as an entry point of airflow.plugins"
        remedy = "install sluice where Airflow runs; in its repository, run: make setup"
        return judged("airflow", "plugin", False, found, remedy)
    if errors:
        remedy = "copy plugins/.airflowignore as well, or fix the named errors"
        return judged("airflow", "plugin", False, "; ".join(sorted(errors)), remedy)
    is_open = isinstance(apps[PREFIX], FastAPI)
    remedy = "its app did not load; see the api-server's log"
    return judged("airflow", "plugin", is_open, "loaded" if is_open else "closed", remedy)


def _metadata() -> Iterator[Diagnosis]:
    """Yield checks of Airflow's database: the pool and the DAGs that runs need."""
    try:
        with create_session() as session:
            pool = session.scalar(select(Pool.slots).where(Pool.pool == WAREHOUSE_POOL))
            rows = session.execute(select(DagModel.dag_id, DagModel.is_paused, DagModel.is_stale))
            dags = {dag_id: paused for dag_id, paused, stale in rows if not stale}
    except SQLAlchemyError as error:
        found = f"Airflow's database does not answer ({type(error).__name__})"
        remedy = "correct AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, or run: airflow db migrate"
        yield Diagnosis(
            service="airflow", check="database", ok=False, found=found, remedy=remedy, reached=False
        )
        return
    remedy = f"airflow pools set {WAREHOUSE_POOL} {WAREHOUSE_SLOTS} 'reads or writes ClickHouse'"
    yield judged("airflow", f"pool {WAREHOUSE_POOL}", bool(pool), f"{pool or 0} slots", remedy)
    missing = [name for name in _MINUTE if name not in dags]
    remedy = "put dags/sluice.py of `sluice new` into [core] dags_folder, start the dag-processor"
    found = f"missing: {', '.join(missing)}" if missing else f"{len(dags)} DAGs"
    yield judged("airflow", "DAGs", not missing, found, remedy)
    paused = [name for name in _MINUTE if dags.get(name)]
    remedy = "; ".join(f"airflow dags unpause {name}" for name in paused)
    yield judged("airflow", "paused DAGs", not paused, ", ".join(paused) or "none", remedy)


if __name__ == "__main__":
    print(
        json.dumps([asdict(diagnosis) for diagnosis in examine(*map(float, sys.argv[1:]))]),
        flush=True,
    )
    os._exit(0)  # a thread may still be waiting for a service
