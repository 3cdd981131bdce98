"""A task whose connection has a wrong password fails, and its log does not hold the password."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sluice.settings import PROJECT, Settings
from tests.support.airflow import airflow_environment
from tests.support.canaries import token
from tests.support.services import clickhouse_answers
from tests.support.waiting import until

pytestmark = [pytest.mark.airflow, pytest.mark.services, pytest.mark.clickhouse_may_crash]

CANARY = token()
# As Airflow does: what was raised, its causes, and where.
SCRIPT = """
import logging, sys, traceback
logging.basicConfig(level=logging.DEBUG)
from sluice_airflow import tasks
try:
    getattr(tasks, sys.argv[1]).function()
except Exception:
    traceback.print_exc()
"""
SASL = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN", "sasl.username": "me"}


@pytest.mark.parametrize(
    ("name", "service", "task"),
    [
        ("POSTGRES", "PostgreSQL", "compare"),
        ("REDPANDA", "broker", "drain"),
        ("CLICKHOUSE", "ClickHouse", "rebuild"),
    ],
)
def test_a_task_with_a_wrong_password_does_not_log_it(
    services: Settings, tmp_path: Path, name: str, service: str, task: str
) -> None:
    environment = {**os.environ, **airflow_environment(tmp_path, services)}
    variable = f"AIRFLOW_CONN_SLUICE_{name}"
    connection: dict[str, Any] = json.loads(environment[variable])
    if name == "REDPANDA":
        connection["extra"] |= {**SASL, "sasl.password": CANARY}
    else:
        connection["password"] = CANARY
    environment |= {variable: json.dumps(connection), "SLUICE_HOME": str(services.home)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, task],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    until(lambda: clickhouse_answers(services), "ClickHouse answers", 180)
    logged = done.stdout + done.stderr
    assert "Traceback" in logged
    assert service in logged
    assert CANARY.rstrip("=") not in logged
