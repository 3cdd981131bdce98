"""A broker and a ClickHouse of their own: these tests kill them and begin again, over and over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.drain.table import running
from tests.support.services import temporary_home


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The variables of a running broker and ClickHouse with everything the drain needs."""
    with temporary_home() as home, running(home) as variables:
        yield variables
