"""A ClickHouse of its own: these tests begin again with empty tables, over and over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.embedded.stack import Stack
from sluice.settings import ClickHouseSettings, read_settings
from sluice.star.create import create_warehouse
from tests.support.services import stack_environment, temporary_home


@pytest.fixture(scope="session")
def warehouse() -> Iterator[ClickHouseSettings]:
    """ClickHouse with the tables of the example's models."""
    with temporary_home() as home:
        environment = stack_environment(home)
        stack = Stack(read_settings(environment))
        stack.launch()
        try:
            stack.start(("clickhouse",), lambda _: None)
            settings = read_settings(environment).clickhouse
            with closing(ClickHouse(settings)) as clickhouse:
                create_warehouse(clickhouse, load_catalog("models"))
            yield settings
        finally:
            stack.stop()
