"""Optuna's studies, by its models and by the tables in PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.settings import Settings
from tests.others.followed import follow

pytestmark = pytest.mark.others
WRITER = Path(__file__).with_name("write_optuna.py")
# Of `search` 6 and 30 trials, of `two objectives` 12; `old` and `brief` are deleted.
TRIALS = 6 + 30 + 12


@pytest.mark.parametrize("models", ["optuna.storages._rdb.models", ""])
def test_optunas_studies_reach_equality(
    models: str, theirs: Settings, scripts: Path, tmp_path: Path
) -> None:
    rows = follow(theirs, scripts, tmp_path, writer=WRITER, models=models)
    assert (rows["studies"], rows["trials"], rows["trial_heartbeats"]) == (2, TRIALS, TRIALS)
    assert rows["trial_intermediate_values"] == 4 * (6 + 30)
    assert all(rows.values()), rows
