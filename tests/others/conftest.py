"""Services, and an environment with Sluice and the programs of requirements-others.txt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.settings import PROJECT, Settings
from tests.support.installed import built, empty_environment, install, statement
from tests.support.services import stack_environment, started, temporary_home


@pytest.fixture(scope="package")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `sluice` and of the Python that has the programs too."""
    home = empty_environment(tmp_path_factory)
    pinned = PROJECT / "requirements-others.txt"
    install(home, "--no-deps", "--require-hashes", "-r", pinned)
    install(home, "--no-deps", built(tmp_path_factory))
    return home / "bin"


@pytest.fixture
def theirs() -> Iterator[Settings]:
    """Services that nothing follows yet, with an empty database."""
    with temporary_home() as home, started(stack_environment(home)) as (settings, _):
        statement(settings.postgres, "CREATE DATABASE theirs")
        yield replace(settings, postgres=replace(settings.postgres, database="theirs"))
