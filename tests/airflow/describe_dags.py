"""Prints what Airflow makes of dags/ and plugins/, as JSON; run by test_dags.py on its own."""

from __future__ import annotations

import json
import sys
from typing import Any, cast

import pendulum
from airflow import plugins_manager
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables import trigger
from airflow.timetables.base import TimeRestriction


def first_run(timetable: Any, minute: int) -> str:
    """When a DAG without a start date runs first whose scheduler begins on March 2 at 12:`minute`.

    Day, hour and minute.
    """
    now = pendulum.datetime(2026, 3, 2, 12, minute)
    trigger.utcnow = lambda: now  # type: ignore[attr-defined]
    info = decode_timetable(encode_timetable(timetable)).next_dagrun_info(
        last_automated_data_interval=None,
        restriction=TimeRestriction(earliest=None, latest=None, catchup=False),
    )
    assert info is not None
    return info.run_after.strftime("%d %H:%M")


bag = DagBag(sys.argv[1])
rare = {"clickhouse_driver", "confluent_kafka", "psycopg2", "models", "models.generated"}
heavy = sorted(rare & set(sys.modules))
plugins_manager.ensure_plugins_loaded() if hasattr(
    plugins_manager, "ensure_plugins_loaded"
) else plugins_manager.get_plugin_info()
json.dump(
    {
        "errors": bag.import_errors,
        "heavy": heavy,
        "overrun": "drain" in sys.modules or "errors" in sys.modules,
        "dags": {
            dag_id: {
                "tasks": sorted(dag.task_ids),
                "tags": sorted(dag.tags),
                "documented": bool(dag.doc_md) and all(task.doc_md for task in dag.tasks),
                "pools": sorted({task.pool for task in dag.tasks}),
                "max_active_runs": dag.max_active_runs,
                "deadlines": [
                    alert.interval.total_seconds() for alert in cast("Any", dag).deadline or ()
                ],
                "timetable": type(dag.timetable).__name__,
                "first_runs": [first_run(dag.timetable, minute) for minute in (16, 18, 22, 24)]
                if dag.start_date is None and type(dag.timetable).__name__.startswith("Cron")
                else None,
                "consumes": [
                    asset.name for asset in getattr(dag.timetable.asset_condition, "objects", ())
                ]
                if dag.timetable.asset_condition
                else [],
                "produces": [asset.name for task in dag.tasks for asset in task.outlets],
            }
            for dag_id, dag in bag.dags.items()
        },
    },
    sys.stdout,
)
