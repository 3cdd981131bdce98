"""One Postgres, drained into one ClickHouse server and into a cluster of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from sluice import wiring
from sluice.generate.files import write_files
from sluice.settings import Settings
from store_api.database import make_engine
from tests.cluster.servers import Servers
from tests.support.pipeline import CATALOG, relaying
from tests.support.services import running_services, temporary_home


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The services with one ClickHouse server, and a relay."""
    with temporary_home() as home, running_services(home) as settings, relaying(settings):
        yield settings


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Two servers that know each other."""
    made = Servers(tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def two(one: Settings, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The same services with the cluster of two servers."""
    out: Path = tmp_path_factory.mktemp("generated")
    write_files(CATALOG, out, servers.cluster)
    settings = replace(one, out=out, clickhouse=servers.settings())
    wiring.initialise(settings)
    return settings


@pytest.fixture(scope="module")
def engine(one: Settings) -> Iterator[Engine]:
    """Postgres."""
    made = make_engine(one.postgres)
    yield made
    made.dispose()
