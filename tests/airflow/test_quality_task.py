"""The quality task as Airflow runs it, on the real services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sluice import wiring
from sluice.settings import PROJECT, Settings
from store_api.demo import load
from tests.support.airflow import airflow_environment
from tests.support.pipeline import checked, relaying

pytestmark = [pytest.mark.airflow, pytest.mark.services]

SCRIPT = """
import json, sys
from sluice_airflow import tasks
try:
    getattr(tasks, sys.argv[1]).function(**json.loads(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error, sep="\\n")
"""


def said(
    task: str, services: Settings, home: Path, *, form: Any = None, **variables: str
) -> list[str]:
    """What the task raises, as lines."""
    given = json.dumps({"params": form} if form else {})
    environment = {
        **os.environ,
        **airflow_environment(home, services),
        "SLUICE_HOME": str(services.home),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, task, given],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_task_fails_with_the_words_of_the_check_and_a_link_to_the_page(
    services: Settings, tmp_path: Path
) -> None:
    load(services, customers=10, orders=20, seed=1)
    with relaying(services):
        checked(services)
        wiring.query(services, "DELETE FROM cdc.dim_order WHERE id % 2 = 0")
        address = {"AIRFLOW__API__BASE_URL": "https://airflow.example.org/etl/"}
        lines = said("compare", services, tmp_path, **address)
        wiring.resync(services, "orders")  # others compare the same tables
        assert checked(services).passed
    assert "AirflowFailException" in lines
    assert any(line.startswith("orders: row_count fail: Postgres ") for line in lines), lines
    assert any(line.endswith("run: sluice resync orders --diff") for line in lines)
    assert lines[-1] == "see: https://airflow.example.org/etl/sluice/"


@pytest.mark.parametrize(("task", "form"), [("compare", None), ("compare_deeply", {"tables": []})])
def test_before_the_first_snapshots_end_nothing_is_compared_and_the_task_is_skipped(
    services: Settings, tmp_path: Path, task: str, form: Any
) -> None:
    lines = said(task, services, tmp_path, form=form, SLUICE_SLOT="never_made")
    assert "AirflowSkipException" in lines
    assert lines[-1].startswith("nothing to compare yet: no replication slot 'never_made'")
