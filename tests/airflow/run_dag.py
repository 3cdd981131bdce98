"""Runs a DAG as Airflow does: the DAGs' folder, its id, and its form's values as JSON."""

from __future__ import annotations

import json
import sys

from airflow.dag_processing.dagbag import DagBag

dag = DagBag(sys.argv[1]).dags[sys.argv[2]]
run = dag.test(run_conf=json.loads(sys.argv[3]))
print("state:", run.state)
