"""Airflow's part of `sluice doctor`: an Airflow that is whole, and one with everything wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sluice.operate.doctor import Diagnosis
from sluice.operate.doctor.airflow import checks
from sluice.settings import PROJECT, WAREHOUSE_POOL, Settings
from tests.support.airflow import airflow_environment
from tests.support.services import free_ports
from tests.support.strangers import stranger

pytestmark = [pytest.mark.airflow, pytest.mark.services]


def run(environment: dict[str, str], *arguments: str) -> None:
    """A command of Airflow's."""
    command = [sys.executable, "-m", "airflow", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=PROJECT)


@pytest.fixture(scope="module")
def environment(
    services: Settings, tmp_path_factory: pytest.TempPathFactory, metadata: Path
) -> dict[str, str]:
    """An Airflow without any pool or DAG; its secrets are looked up as its servers do."""
    home = tmp_path_factory.mktemp("airflow")
    shutil.copy(metadata, home / "airflow.db")
    return {**os.environ, **airflow_environment(home, services)}


def wrong(environment: dict[str, str]) -> dict[str, Diagnosis]:
    """Check -> what is to mend."""
    return {found.check: found for found in checks(environment) if not found.ok}


def test_an_airflow_that_was_only_migrated_lacks_pool_and_dags(
    environment: dict[str, str],
) -> None:
    found = wrong(environment)
    assert list(found) == [f"pool {WAREHOUSE_POOL}", "DAGs"]
    assert found[f"pool {WAREHOUSE_POOL}"].remedy.startswith(f"airflow pools set {WAREHOUSE_POOL}")
    assert found["DAGs"].found == "missing: sluice_drain, sluice_rebuild, sluice_quality"


def test_an_airflow_with_pool_and_dags_is_whole_until_a_dag_is_paused(
    environment: dict[str, str],
) -> None:
    run(environment, "pools", "set", WAREHOUSE_POOL, "4", "of the tests")
    run(environment, "dags", "reserialize")
    minutes = "sluice_(drain|rebuild|quality)"
    run(environment, "dags", "unpause", "--yes", "--treat-dag-id-as-regex", minutes)
    assert wrong(environment) == {}
    run(environment, "dags", "pause", "sluice_rebuild")
    (paused,) = wrong(environment).values()
    assert (paused.found, paused.remedy) == (
        "sluice_rebuild",
        "airflow dags unpause sluice_rebuild",
    )


def test_a_connection_that_is_missing_is_named_and_the_plugin_needs_no_folder(
    environment: dict[str, str], tmp_path: Path
) -> None:
    lacking = {**environment, "AIRFLOW__CORE__PLUGINS_FOLDER": str(tmp_path)}
    del lacking["AIRFLOW_CONN_SLUICE_REDPANDA"]
    found = wrong(lacking)
    assert "connection sluice_redpanda" in found
    assert "plugin" not in found
    assert "AIRFLOW_CONN_SLUICE_REDPANDA" in found["connection sluice_redpanda"].remedy


def test_connections_that_reach_nothing_are_named(environment: dict[str, str]) -> None:
    changed = dict(environment)
    (closed,) = free_ports(1)
    for name, lost in (
        ("SLUICE_POSTGRES", {"port": closed}),
        ("SLUICE_REDPANDA", {"extra": {}}),
        ("SLUICE_CLICKHOUSE", {"port": closed}),
    ):
        variable = f"AIRFLOW_CONN_{name}"
        changed[variable] = json.dumps({**json.loads(changed[variable]), **lost})
    found = wrong(changed)
    names = [f"connection sluice_{name}" for name in ("postgres", "redpanda", "clickhouse")]
    assert [name for name in found if name.startswith("connection")] == names
    assert "does not answer" in found[names[0]].found
    assert "bootstrap.servers" in found[names[1]].remedy
    assert "does not answer" in found[names[2]].found
    assert [found[name].reached for name in names] == [False, True, False]


def test_libraries_that_airflow_ran_as_plugins_are_named(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Without .airflowignore the loader runs every file below the folder by its stem."""
    copy = tmp_path / "plugins"
    shutil.copytree(PROJECT / "plugins", copy, ignore=shutil.ignore_patterns(".airflowignore"))
    found = wrong({**environment, "AIRFLOW__CORE__PLUGINS_FOLDER": str(copy)})
    assert "plugin" in found
    assert ".airflowignore" in found["plugin"].remedy


def test_a_database_that_does_not_answer_is_named(
    environment: dict[str, str], tmp_path: Path
) -> None:
    address = f"sqlite:///{tmp_path / 'absent' / 'airflow.db'}"
    found = wrong({**environment, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address})
    assert any(not diagnosis.reached for diagnosis in found.values()), found


def test_services_that_are_silent_are_named_and_the_rest_is_examined_all_the_same(
    environment: dict[str, str],
) -> None:
    changed = dict(environment)
    with stranger("says nothing") as port:
        for name, lost in (
            ("SLUICE_POSTGRES", {"port": port}),
            ("SLUICE_REDPANDA", {"extra": {"bootstrap.servers": f"127.0.0.1:{port}"}}),
            ("SLUICE_CLICKHOUSE", {"port": port}),
        ):
            variable = f"AIRFLOW_CONN_{name}"
            changed[variable] = json.dumps({**json.loads(changed[variable]), **lost})
        found = {one.check: one for one in checks(changed, until=time.time())}
    names = [f"connection sluice_{name}" for name in ("postgres", "redpanda", "clickhouse")]
    assert [name for name in found if name.startswith("connection")] == names
    assert not any(found[name].ok or found[name].reached for name in names)
    assert {found[name].found for name in names} == {"no answer in 2 s"}  # the least there is
    assert {"version", "plugin", "DAGs"} <= found.keys()
