"""Airflow's part, asked of a program of its own: this library does not import Airflow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping

from sluice.operate.doctor.diagnosis import Diagnosis

_PROGRAM = "sluice_airflow.doctor"
_SECONDS = 120
REMEDY = f"run, where Airflow runs: python -m {_PROGRAM}"


def checks(environment: Mapping[str, str], until: float | None = None) -> Iterator[Diagnosis]:
    """Every check on the Airflow that is configured by these variables.

    Args:
        until: when services that are silent are given up, seconds since 1970; None for some
            seconds after Airflow's code is loaded.
    """
    # As Airflow's servers do, so that connections are looked up in its database, too.
    variables = {**environment, "_AIRFLOW_PROCESS_CONTEXT": "server"}
    command = [sys.executable, "-m", _PROGRAM, *([] if until is None else [str(until)])]
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        yield Diagnosis(
            service="airflow",
            check="access",
            ok=False,
            found="Airflow's code does not run here",
            remedy=REMEDY,
            reached=False,
        )
        return
    for diagnosis in found:
        yield Diagnosis(**diagnosis)
