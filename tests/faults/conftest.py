from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sluice.clients.topics import EPOCH_TOPIC
from sluice.embedded.stack import Stack
from sluice.settings import Settings, read_settings
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
    """PostgreSQL and a broker that tests may break.

    `SLUICE_TEST_BROKER` puts another broker in the embedded one's place. It must be for tests
    alone: its notes of other servers are deleted.
    """
    with (
        temporary_home() as home,
        started(stack_environment(home), ("postgres", "broker")) as (embedded, stack),
    ):
        settings = embedded
        if outside := os.environ.get("SLUICE_TEST_BROKER"):
            kafka = replace(read_settings(os.environ).kafka, bootstrap=outside)
            settings = replace(settings, kafka=kafka)
            delete_topics(settings, {EPOCH_TOPIC})
        yield settings, stack


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
