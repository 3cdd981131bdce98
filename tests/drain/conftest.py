"""A broker and a ClickHouse of their own: these tests kill them and begin again, over and over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.embedded.stack import Stack
from sluice.generate.files import topics
from sluice.settings import read_settings
from sluice.star import create as warehouse
from tests.support.services import stack_environment, temporary_home


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The variables of a running broker and ClickHouse with everything the drain needs."""
    catalog = load_catalog("models")
    with temporary_home() as home:
        variables = stack_environment(home)
        stack = Stack(read_settings(variables))
        stack.launch()
        try:
            stack.start(("broker", "clickhouse"), lambda _: None)
            settings = read_settings(variables)
            Topics(settings.kafka).ensure(topics(catalog))
            with closing(ClickHouse(settings.clickhouse)) as clickhouse:
                warehouse.create_warehouse(clickhouse, catalog)
            yield variables
        finally:
            stack.stop()
