"""A ClickHouse of its own: these tests begin again with empty tables, over and over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.settings import ClickHouseSettings
from sluice.star.create import create_warehouse
from tests.support.services import stack_environment, started, temporary_home


@pytest.fixture(scope="session")
def warehouse() -> Iterator[ClickHouseSettings]:
    """ClickHouse with the tables of the example's models."""
    with (
        temporary_home() as home,
        started(stack_environment(home), ("clickhouse",)) as (settings, _),
    ):
        with closing(ClickHouse(settings.clickhouse)) as clickhouse:
            create_warehouse(clickhouse, load_catalog("models"))
        yield settings.clickhouse
