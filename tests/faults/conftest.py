from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sluice.embedded.stack import Stack
from sluice.settings import Settings
from store_api.demo import load
from tests.faults.pipeline import Pipeline
from tests.faults.source import TABLES, Source
from tests.support.pipeline import checked, relaying
from tests.support.services import (
    delete_topics,
    initialise,
    stack_environment,
    started,
    temporary_home,
)
from tests.support.waiting import until


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Settings, Stack]]:
    """PostgreSQL and a broker that tests may break."""
    with (
        temporary_home() as home,
        started(stack_environment(home), ("postgres", "broker")) as running,
    ):
        yield running


@pytest.fixture
def source(server: tuple[Settings, Stack]) -> Iterator[Source]:
    made = Source(*server)
    made.sql(
        "CREATE TABLE things (id int PRIMARY KEY, name text)",
        "CREATE TABLE parts (id int PRIMARY KEY, thing_id int REFERENCES things)",
    )
    yield made
    slots = "FROM pg_replication_slots WHERE slot_name LIKE 'faults%'"
    until(
        lambda: made.sql(f"SELECT count(*) {slots} AND active") == [(0,)],
        "no session reads from a slot",
    )
    made.sql(
        f"SELECT pg_drop_replication_slot(slot_name) {slots}",
        f"DROP PUBLICATION IF EXISTS {made.settings.relay.publication}",
        "DROP TABLE IF EXISTS parts, things",
    )
    delete_topics(made.settings, {f"cdc.{name}" for name in TABLES})


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with temporary_home() as home:
        environment = stack_environment(home)
        with started(environment) as (settings, stack):
            initialise(settings)
            load(settings, customers=40, orders=200, seed=6)
            with relaying(settings):
                checked(settings)
            yield Pipeline(
                settings=settings, stack=stack, environment=environment, changes=random.Random(4)
            )
