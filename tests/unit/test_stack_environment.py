"""What the programs of the embedded stack get from the environment of its caller."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sluice.embedded import airflow_service
from sluice.embedded.passwords import ensure_secrets
from sluice.embedded.programs import programs
from sluice.embedded.stack import Stack
from sluice.settings import OWN_POSTGRES, PROJECT, read_secrets, read_settings


@pytest.mark.parametrize("given", ["", "/own/models", "/own/models:/others"])
def test_programs_find_the_modules_of_the_callers_path_after_sluices_own(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", given)
    settings = read_settings({"SLUICE_HOME": str(tmp_path)})
    ensure_secrets(settings.home)
    paths = Stack(settings).environment()["PYTHONPATH"].split(os.pathsep)
    own = [str(PROJECT), str(PROJECT / "plugins")]
    # An empty entry would stand for the folder in which a program starts.
    assert paths == [*own, *(given.split(os.pathsep) if given else [])]


THEIRS = {
    "by host": {"SLUICE_POSTGRES_HOST": "127.0.0.1", "SLUICE_POSTGRES_PORT": "5432"},
    "by password": {"SLUICE_POSTGRES_PASSWORD": "theirs", "SLUICE_POSTGRES_PORT": "5432"},
}


@pytest.mark.parametrize("given", THEIRS)
def test_a_postgresql_of_somebody_else_gets_no_database_and_no_port(
    given: str, tmp_path: Path
) -> None:
    """Airflow's metadata is in the stack's own server, on another port."""
    variables = {"SLUICE_HOME": str(tmp_path), **THEIRS[given]}
    ensure_secrets(tmp_path)
    settings, secrets = read_settings(variables), read_secrets(tmp_path)
    found = programs(settings)
    assert found["postgres"].ports == ((8082, "SLUICE_AIRFLOW_PORT"),)
    assert "api" not in found
    environment = airflow_service.environment(settings, secrets)
    assert "@127.0.0.1:8082/airflow" in environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    connection = json.loads(environment["AIRFLOW_CONN_SLUICE_POSTGRES"])
    assert connection["port"] == 5432
    assert connection["password"] == THEIRS[given].get("SLUICE_POSTGRES_PASSWORD", "")
    assert "require_auth" not in connection["extra"]
    assert secrets["postgres"] not in json.dumps(connection)
    assert secrets["postgres"] != settings.postgres.password.get_secret_value()


def test_the_stacks_own_postgresql_has_the_source_and_the_metadata(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    settings = read_settings({"SLUICE_HOME": str(tmp_path)})
    assert settings.metadata is settings.postgres
    assert settings.postgres.options == OWN_POSTGRES
    found = programs(settings)
    assert found["postgres"].ports == ((5434, "SLUICE_POSTGRES_PORT"),)
    assert "api" in found


def test_a_clickhouse_of_somebody_else_is_not_started(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    settings = read_settings(
        {"SLUICE_HOME": str(tmp_path), "SLUICE_CLICKHOUSE_HOST": "clickhouse.example.com"}
    )
    assert "clickhouse" not in programs(settings)


def test_the_example_is_left_to_its_own_models(tmp_path: Path) -> None:
    settings = read_settings({"SLUICE_HOME": str(tmp_path), "SLUICE_MODELS": "tests.logistics"})
    assert "api" not in programs(settings)
