"""A late minute is told where findings are told, by Airflow's own scheduler and executor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.airflow import airflow_environment
from tests.support.processes import stop
from tests.support.waiting import until
from tests.support.webhook import Posted, serving

pytestmark = pytest.mark.airflow

# Its task waits for a pool that is not there, so its run does not end.
LATE = """
from datetime import timedelta
from airflow.sdk import DAG, task
from sluice_airflow import deadlines
from tests.support.waiting import until

with DAG("late", schedule=None, deadline=deadlines.deadline(timedelta(seconds=1))):

    @task(pool="nothing")
    def wait() -> None:
        return

    wait()
"""


@pytest.fixture
def posted() -> Iterator[tuple[str, list[Any]]]:
    """A webhook's address, and what it was sent."""
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Posted)) as (port, kept):
        yield f"http://127.0.0.1:{port}/hook", kept


@contextmanager
def scheduling(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler with LocalExecutor, and no triggerer."""
    command = [sys.executable, "-m", "airflow", "scheduler", "--skip-serve-logs"]
    with (Path(environment["AIRFLOW_HOME"]) / "scheduler.log").open("wb") as log:
        scheduler = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield scheduler
    finally:
        stop(scheduler)


def test_a_run_that_goes_on_past_its_deadline_is_told_once(
    tmp_path: Path, metadata: Path, posted: tuple[str, list[Any]]
) -> None:
    address, told = posted
    shutil.copy(metadata, tmp_path / "airflow.db")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/late.py").write_text(LATE)
    environment = {
        **os.environ,
        **airflow_environment(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "sluice_airflow.executor.PreloadedExecutor",
        "AIRFLOW__CORE__PARALLELISM": "1",
        "AIRFLOW__API__BASE_URL": "https://airflow.example",
        "SLUICE_ALERT_WEBHOOK": address,
    }
    for arguments in ("dags reserialize", "dags trigger late -r first"):
        command = [sys.executable, "-m", "airflow", *arguments.split()]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    log = tmp_path / "scheduler.log"
    with scheduling(environment) as scheduler:

        def alerted() -> bool:
            assert scheduler.poll() is None, log.read_text()[-2000:]
            if not told:
                raise LookupError(log.read_text()[-2000:])
            return True

        until(alerted, "an alert is sent", 300, retry=LookupError)
    ((_, body),) = told
    (item,) = body["checks"]
    assert (item["table"], item["check"], item["status"]) == ("late", "deadline", "fail")
    assert "first is running, 1 s after it was queued" in item["message"]
    assert body["page"] == "https://airflow.example/sluice/"


def test_a_run_that_has_failed_is_not_late(
    monkeypatch: pytest.MonkeyPatch, posted: tuple[str, list[Any]]
) -> None:
    from sluice_airflow.deadlines import tell_late  # imports Airflow, which other tiers never need

    monkeypatch.setenv("SLUICE_ALERT_WEBHOOK", posted[0])
    run = {"dag_id": "sluice_drain", "dag_run_id": "r", "state": "failed"}
    tell_late(180, {"dag_run": run})
    assert posted[1] == []
    tell_late(180, {"dag_run": {**run, "state": "running"}})
    assert len(posted[1]) == 1
