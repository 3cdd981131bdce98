"""Builds Sluice's settings from Airflow connections."""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import replace

from airflow.sdk import Connection, get_current_context
from airflow.sdk.exceptions import AirflowNotFoundException
from pydantic import SecretStr

from sluice.errors import WrongUsage
from sluice.settings import (
    ClickHouseSettings,
    KafkaSettings,
    PostgresSettings,
    Settings,
    read_settings,
)
from sluice_airflow.addresses import cdc_page

POSTGRES, REDPANDA, CLICKHOUSE = "sluice_postgres", "sluice_redpanda", "sluice_clickhouse"
PLAY = "play"  # key in ClickHouse's extra: the address of its play UI for browsers


def settings_from_connections() -> Settings:
    """Return settings with the services of the three connections and the rest of the environment.

    Raises:
        WrongUsage: a connection is missing.
    """
    settings = read_settings(os.environ)
    postgres, redpanda, clickhouse = map(connection, (POSTGRES, REDPANDA, CLICKHOUSE))
    options = {name: str(value) for name, value in redpanda.extra_dejson.items()}
    broker = options.pop("bootstrap.servers", "")
    driver = {name: value for name, value in clickhouse.extra_dejson.items() if name != PLAY}
    page = settings.alerts.page or cdc_page()
    server, own = settings.postgres, settings.clickhouse
    is_own = (clickhouse.host, clickhouse.port) == (own.host, own.port)
    return replace(
        settings,
        alerts=replace(settings.alerts, page=page),
        postgres=PostgresSettings(
            host=postgres.host or "127.0.0.1",
            port=postgres.port or 5432,
            user=postgres.login or "postgres",
            password=SecretStr(postgres.password or ""),
            database=postgres.schema or server.database,
            options=postgres.extra_dejson,
            mask_key=server.mask_key,
            embedded=server.embedded
            and (postgres.host, postgres.port) == (server.host, server.port),
        ),
        kafka=KafkaSettings(
            bootstrap=broker,
            options=options,
            embedded=settings.kafka.embedded and broker == settings.kafka.bootstrap,
        ),
        clickhouse=ClickHouseSettings(
            host=clickhouse.host or "127.0.0.1",
            port=clickhouse.port or 9000,
            http_port=int(driver.pop("http_port", 8123)),
            user=clickhouse.login or "default",
            password=SecretStr(clickhouse.password or ""),
            options=driver,
            cluster=own.cluster,
            person=person() or own.person,
            embedded=own.embedded and is_own,
            account=own.account if is_own else None,
        ),
    )


def person() -> str:
    """Return the user or the kind of trigger that started the current run; empty outside a task."""
    try:
        run = get_current_context()["dag_run"]
    except RuntimeError:
        return ""
    kind = getattr(run.run_type, "value", run.run_type)
    return run.triggering_user_name or f"Airflow: {kind}"


def play_address(query: str = "") -> str:
    """Return the address of ClickHouse's play UI: `play` of the connection's extra, or its host.

    Args:
        query: what it shows, ready to run. Default: nothing.

    Raises:
        WrongUsage: the connection is missing.
    """
    clickhouse = connection(CLICKHOUSE)
    extra = clickhouse.extra_dejson
    scheme = "https" if extra.get("secure") else "http"
    host = clickhouse.host or "127.0.0.1"
    address = str(extra.get(PLAY) or f"{scheme}://{host}:{extra.get('http_port', 8123)}/play")
    return f"{address}#{b64encode(query.encode()).decode()}" if query else address


def connection(name: str) -> Connection:
    """Return an Airflow connection.

    Raises:
        WrongUsage: it is missing.
    """
    try:
        present: Connection = Connection.get(name)
    except AirflowNotFoundException as error:
        raise WrongUsage(
            f"Airflow connection {name!r} is missing",
            remedy=f"add it under Admin > Connections, or set AIRFLOW_CONN_{name.upper()}",
        ) from error
    return present
