"""The DAGs of Sluice for a file in the DAGs folder of a project, or of any Airflow."""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module
from pathlib import Path

from airflow.sdk import DAG

from sluice.settings import FILE


def dags(file: str) -> dict[str, DAG]:
    """Return Sluice's DAGs by id.

    Args:
        file: the calling DAG file. If the folder above its own has a sluice.toml, that is the
            project, unless SLUICE_PROJECT names another.
    """
    project = Path(file).resolve().parents[1]
    if (project / FILE).is_file():
        os.environ.setdefault("SLUICE_PROJECT", str(project))
    folder = str(Path(__file__).with_name("dags"))
    modules = [
        import_module(f"sluice_airflow.dags.{module.name}")
        for module in pkgutil.iter_modules([folder])
    ]
    found = [dag for module in modules for dag in vars(module).values() if isinstance(dag, DAG)]
    return {dag.dag_id: dag for dag in found}
