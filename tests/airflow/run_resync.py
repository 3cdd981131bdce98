"""Runs sluice_resync as Airflow does, with the form's values that are given as JSON; see
test_resync_dag.py.
"""

from __future__ import annotations

import json
import sys

from airflow.dag_processing.dagbag import DagBag

dag = DagBag(sys.argv[1]).dags["sluice_resync"]
run = dag.test(run_conf=json.loads(sys.argv[2]))
print("state:", run.state)
