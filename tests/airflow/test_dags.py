"""The DAGs as Airflow itself reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sluice.catalog.quality_options import MEASURES
from sluice.settings import PROJECT

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return describe(tmp_path_factory.mktemp("airflow"))


def describe(home: Path, **settings: str) -> Any:
    environment = {
        **os.environ,
        **settings,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'plugins'}",
    }
    script = Path(__file__).with_name("describe_dags.py")
    done = subprocess.run(
        [sys.executable, str(script), str(PROJECT / "dags")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_dags_parse_without_an_error_a_driver_and_the_models(described: Any) -> None:
    assert described["errors"] == {}
    assert described["heavy"] == []
    assert set(described["dags"]) == {
        "sluice_drain",
        "sluice_rebuild",
        "sluice_quality",
        "sluice_deep_quality",
        "sluice_resync",
        "sluice_replay",
        "sluice_dismiss",
        "sluice_fact_backfill",
        "sluice_maintenance",
    }


def test_the_plugin_loader_leaves_the_libraries_alone(described: Any) -> None:
    assert described["overrun"] is False


def test_each_dag_is_documented_tagged_in_the_pool_and_runs_once_at_a_time(described: Any) -> None:
    for dag_id, dag in described["dags"].items():
        assert dag["documented"]
        assert "sluice" in dag["tags"]
        assert dag["max_active_runs"] == (4 if dag_id == "sluice_fact_backfill" else 1)
        assert dag["pools"] == ["sluice_warehouse"]


def test_tasks_do_not_grow_with_tables_and_every_asset_has_one_consumer(described: Any) -> None:
    dags = described["dags"]
    assert dags["sluice_drain"]["tasks"] == ["drain", "drain_apart", "drain_failed"]
    assert dags["sluice_rebuild"]["tasks"] == ["rebuild", "rebuild_apart"]
    assert dags["sluice_drain"]["timetable"] == "CronTriggerTimetable"
    assert dags["sluice_rebuild"]["consumes"] == ["sluice drained"]
    assert dags["sluice_quality"]["consumes"] == ["sluice rebuilt"]
    counted = Counter(name for dag in dags.values() for name in dag["consumes"])
    assert max(counted.values()) == 1


def test_runs_that_were_missed_before_the_stack_started_are_not_made_up_for(
    described: Any,
) -> None:
    """But for the drain, which is due at once."""
    dags = described["dags"].items()
    scheduled = {n: dag for n, dag in dags if dag["timetable"] == "CronTriggerTimetable"}
    scheduled.pop("sluice_drain")
    assert {name: dag["first_runs"] for name, dag in scheduled.items()} == {
        "sluice_deep_quality": ["02 12:17", "02 13:17", "02 13:17", "02 13:17"],
        "sluice_fact_backfill": ["03 00:00"] * 4,
        "sluice_maintenance": ["03 02:40"] * 4,
    }


def test_runs_of_the_minute_have_a_deadline_where_somebody_is_told(
    described: Any, tmp_path: Path
) -> None:
    assert all(not dag["deadlines"] for dag in described["dags"].values())
    chosen = tmp_path / ".env"  # wherever settings are read from
    chosen.write_text("SLUICE_ALERT_WEBHOOK=http://127.0.0.1:9/\n")
    told = describe(tmp_path, SLUICE_ENV_FILE=str(chosen))["dags"]
    late = {dag_id: dag["deadlines"] for dag_id, dag in told.items() if dag["deadlines"]}
    assert late == {
        f"sluice_{name}": [MEASURES["freshness"].warn] for name in ("drain", "rebuild", "quality")
    }
