"""Prints what Airflow makes of dags/ and plugins/, as JSON; run by test_dags.py on its own."""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from airflow import plugins_manager
from airflow.dag_processing.dagbag import DagBag

bag = DagBag(sys.argv[1])
drivers = sorted({"clickhouse_driver", "confluent_kafka"} & set(sys.modules))
plugins_manager.ensure_plugins_loaded() if hasattr(
    plugins_manager, "ensure_plugins_loaded"
) else plugins_manager.get_plugin_info()
json.dump(
    {
        "errors": bag.import_errors,
        "drivers": drivers,
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
