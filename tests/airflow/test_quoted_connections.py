"""The connections that docs/services quotes are what the client libraries take."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from clickhouse_driver import Client
from confluent_kafka import Consumer
from psycopg2.extensions import make_dsn

from sluice.clients.broker import Broker
from sluice.clients.postgres import connection_options
from sluice.settings import PROJECT, Settings, read_settings
from tests.support.quoted_commands import blocks
from tests.support.tls import certificate

PAGES = sorted((PROJECT / "docs" / "services").glob("*.md"))
AUTHORITY = re.compile(r"/etc/ssl/\S+?\.pem")
SHOW = (
    "from sluice_airflow.connections import settings_from_connections as s;"
    "from tests.airflow.test_quoted_connections import shown; print(shown(s()))"
)


def shown(settings: Settings) -> str:
    """What a test compares of settings."""
    postgres, kafka, clickhouse = settings.postgres, settings.kafka, settings.clickhouse
    secrets = [postgres.password.get_secret_value(), clickhouse.password.get_secret_value()]
    return json.dumps(
        [
            [
                postgres.host,
                postgres.port,
                postgres.user,
                postgres.database,
                dict(postgres.options),
            ],
            [kafka.bootstrap, dict(kafka.options)],
            [clickhouse.host, clickhouse.port, clickhouse.http_port, clickhouse.user],
            [dict(clickhouse.options), *secrets],
        ],
        sort_keys=True,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What all pages export, with a certificate of ours as the authority's."""
    authority = certificate(tmp_path_factory.mktemp("ca"), "ca")
    exports = [block for page in PAGES for block in blocks(page) if block.startswith("export")]
    text = AUTHORITY.sub(str(authority), "".join(exports))
    script = f"{text}\n{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "AIRFLOW"))}
    done = subprocess.run(
        ["bash", "-ec", script], env=plain, capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_variables_are_taken_by_the_client_libraries(environment: dict[str, str]) -> None:
    settings = read_settings(environment)
    dsn = make_dsn(**connection_options(settings.postgres))
    assert "sslmode=verify-full" in dsn
    consumer = Broker(settings.kafka).client(Consumer, {"group.id": "quoted"})
    consumer.close()
    clickhouse = settings.clickhouse
    driver = Client(host=clickhouse.host, port=clickhouse.port, **clickhouse.options)
    assert driver.connection.secure_socket
    assert driver.connection.hosts[0] == (clickhouse.host, 9440)


@pytest.mark.airflow
def test_airflows_connections_say_the_same_as_the_variables(
    environment: dict[str, str], tmp_path: Path
) -> None:
    there = {
        **environment,
        "AIRFLOW_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "plugins")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env=there, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == shown(read_settings(environment))
