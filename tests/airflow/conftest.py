"""DAGs that run on the real services."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sluice.settings import PROJECT, Settings
from tests.support.airflow import airflow_environment


@pytest.fixture(scope="module")
def run_dag(
    services: Settings, tmp_path_factory: pytest.TempPathFactory, metadata: Path
) -> Iterator[Callable[..., str]]:
    """Run a DAG with values of its form; return its log, which ends with its state."""
    home = tmp_path_factory.mktemp("airflow")
    shutil.copy(metadata, home / "airflow.db")
    environment = {
        **os.environ,
        **airflow_environment(home, services),
        "SLUICE_HOME": str(services.home),
    }
    log = home / "run.log"
    runner = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("run_dag.py"), PROJECT / "dags"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert runner.stdin is not None
    assert runner.stdout is not None

    def run(dag: str, **form: object) -> str:
        assert runner.stdin is not None
        assert runner.stdout is not None
        print(json.dumps([dag, form, str(log)]), file=runner.stdin, flush=True)
        while (line := runner.stdout.readline()) != "ended\n":  # parsing DAGs prints, too
            assert line, f"it ended with {runner.wait()}"
        return re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())

    yield run
    runner.stdin.close()
    runner.wait()
    runner.stdout.close()
