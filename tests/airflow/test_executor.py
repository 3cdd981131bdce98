"""The executor loads Sluice's library once, before it forks what runs tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.settings import PROJECT

pytestmark = pytest.mark.airflow

PROGRAM = """
import sys
from airflow.executors.executor_loader import ExecutorLoader

executor = ExecutorLoader.load_executor(ExecutorLoader.get_default_executor_name())
loaded = [name in sys.modules for name in ("sluice.wiring", "models")]
executor.start()
loaded += [name in sys.modules for name in ("sluice.wiring", "sluice.catalog.models", "models")]
executor.end()
print(type(executor).__mro__[1].__name__, loaded)
"""


def test_the_library_is_loaded_at_the_start_and_no_models(tmp_path: Path) -> None:
    variables = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__EXECUTOR": "sluice_airflow.executor.PreloadedExecutor",
        "AIRFLOW__CORE__PARALLELISM": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=variables,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1:] == ["LocalExecutor [False, False, True, False, False]"], (
        done.stderr
    )
