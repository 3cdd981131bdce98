"""Runs DAGs as Airflow does; its argument is the DAGs' folder, which it parses once.

A line of standard input is a DAG's id, its form's values and the file for its log, as JSON. Each
runs in a fork of this process; when it has ended, a line is printed.
"""

from __future__ import annotations

import json
import os
import sys

from airflow.dag_processing.dagbag import DagBag

dags = DagBag(sys.argv[1]).dags
for line in sys.stdin:
    name, form, log = json.loads(line)
    if (child := os.fork()) == 0:
        with open(log, "wb") as output:  # noqa: PTH123 - its descriptor is what matters
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        print("state:", dags[name].test(run_conf=form).state)
        sys.exit()
    os.waitpid(child, 0)
    print("ended", flush=True)
