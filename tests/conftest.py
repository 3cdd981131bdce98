"""The real services that tests run on, started once for the session."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from sluice.settings import Settings, environment_file
from tests.support import tiers
from tests.support.crashes import pytest_runtest_protocol  # noqa: F401 - hook
from tests.support.failures import pytest_configure  # noqa: F401 - hook
from tests.support.outside_broker import services_scope
from tests.support.services import migrate, running_services, temporary_home
from tests.support.tiers import (  # noqa: F401 - hooks
    pytest_collection_modifyitems,
    pytest_runtest_setup,
    pytest_xdist_make_scheduler,
)

# A developer's own .env is not the tests'.
os.environ["SLUICE_ENV_FILE"] = environment_file.ENV_FILE = os.devnull
# An example may take as long as it needs: the machine is not what is tested.
hypothesis_settings.register_profile("sluice", deadline=None)
hypothesis_settings.load_profile("sluice")


def pytest_collection_finish() -> None:
    """Write no bytecode from now on: a test may change a module twice within a second."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.fixture(scope=services_scope)
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


@pytest.fixture(scope=services_scope)
def services(home: Path) -> Iterator[Settings]:
    """PostgreSQL, broker and ClickHouse with everything that `sluice init` makes."""
    with running_services(home) as settings:
        yield settings


@pytest.fixture(scope="session")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Airflow's metadata database, created once for all workers; an Airflow gets a copy as
    airflow.db in its home.
    """
    tiers.require("airflow")
    root = tmp_path_factory.getbasetemp()
    home = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "airflow-migrated"
    home.mkdir(exist_ok=True)
    migrated = home / "migrated.db"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not migrated.exists():
            migrate(home)
            (home / "airflow.db").rename(migrated)
    return migrated
