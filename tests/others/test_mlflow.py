"""MLflow's experiments, by its models and by the tables that its migrations make."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.settings import Settings
from tests.others.followed import follow

pytestmark = pytest.mark.others
WRITER = Path(__file__).with_name("write_mlflow.py")
WRITTEN = frozenset(
    "assessments datasets entity_associations evaluation_dataset_tags evaluation_datasets"
    " experiment_tags experiments input_tags inputs latest_metrics logged_model_metrics"
    " logged_model_params logged_model_tags logged_models metrics model_version_tags"
    " model_versions params registered_model_aliases registered_model_tags registered_models runs"
    " spans tags trace_info trace_request_metadata trace_tags workspaces".split()
)


# The module of the store holds all models; the modules of the models hold some each.
@pytest.mark.parametrize("models", ["mlflow.store.tracking.sqlalchemy_store", ""])
def test_mlflows_experiments_reach_equality(
    models: str, theirs: Settings, scripts: Path, tmp_path: Path
) -> None:
    rows = follow(theirs, scripts, tmp_path, writer=WRITER, models=models)
    assert {name for name, count in rows.items() if count} >= WRITTEN
    assert (rows["runs"], rows["registered_models"], rows["model_versions"]) == (26, 1, 3)
    assert rows["metrics"] == 26 * 10 + 1
