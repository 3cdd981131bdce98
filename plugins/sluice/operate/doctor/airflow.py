"""Checks Airflow in a separate process, since this library does not import Airflow."""

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
    """Yield every check of the Airflow configured by these variables.

    Args:
        until: deadline for services that do not answer, seconds since 1970; None for some seconds
            after Airflow's code is loaded.
    """
    # Set as in Airflow's servers, so that connections are looked up in its database as well.
    variables = {**environment, "_AIRFLOW_PROCESS_CONTEXT": "server"}
    command = [sys.executable, "-m", _PROGRAM, *([] if until is None else [str(until)])]
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        diagnoses = json.loads(done.stdout.splitlines()[-1])
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
    for diagnosis in diagnoses:
        yield Diagnosis(**diagnosis)
