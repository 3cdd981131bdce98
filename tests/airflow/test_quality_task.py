"""The quality task as Airflow runs it, on the real services."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sluice import wiring
from sluice.settings import PROJECT, Settings
from store_api.demo import load
from tests.integration.test_loop import checked, relaying
from tests.page.conftest import airflow_environment

pytestmark = [pytest.mark.airflow, pytest.mark.services]

SCRIPT = """
from sluice_airflow import tasks
try:
    tasks.compare.function()
except Exception as error:
    print(type(error).__name__, error, sep="\\n")
"""


def test_the_task_fails_with_the_words_of_the_check_and_a_link_to_the_page(
    services: Settings, tmp_path: Path
) -> None:
    load(services, customers=10, orders=20, seed=1)
    with relaying(services):
        checked(services)
        wiring.query(services, "DELETE FROM cdc.dim_order WHERE id % 2 = 0")
        environment = {
            **os.environ,
            **airflow_environment(tmp_path, services),
            "AIRFLOW__API__BASE_URL": "https://airflow.example.org/etl/",
            "SLUICE_HOME": str(services.home),
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        )
    lines = done.stdout.splitlines()
    assert "AirflowFailException" in lines
    assert any(line.startswith("orders: row_count fail: Postgres ") for line in lines), lines
    assert any(line.endswith("run: sluice resync orders") for line in lines)
    assert lines[-1] == "see: https://airflow.example.org/etl/sluice/"
