from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from sluice.embedded.postgres import ensure_database
from sluice.embedded.stack import Stack
from sluice.settings import Settings, read_settings
from tests.conftest import stack_environment, temporary_home
from tests.faults.source import TABLES, Source, until


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Settings, Stack]]:
    """PostgreSQL and a broker that tests may break."""
    with temporary_home() as home:
        environment = stack_environment(home)
        Stack(read_settings(environment)).launch()
        settings = read_settings(environment)
        stack = Stack(settings)
        try:
            stack.start(("postgres", "broker"), lambda _: None)
            ensure_database(settings.postgres, settings.postgres.database)
            yield settings, stack
        finally:
            stack.stop()


@pytest.fixture
def source(server: tuple[Settings, Stack]) -> Iterator[Source]:
    made = Source(*server)
    made.sql(
        "CREATE TABLE things (id int PRIMARY KEY, name text)",
        "CREATE TABLE parts (id int PRIMARY KEY, thing_id int REFERENCES things)",
    )
    yield made
    slots = "FROM pg_replication_slots WHERE slot_name LIKE 'faults%'"
    until(lambda: not made.sql(f"SELECT {slots.replace('WHERE', 'WHERE active AND')}"))
    made.sql(
        f"SELECT pg_drop_replication_slot(slot_name) {slots}",
        f"DROP PUBLICATION IF EXISTS {made.settings.relay.publication}",
        "DROP TABLE IF EXISTS parts, things",
    )
    admin = AdminClient({"bootstrap.servers": made.settings.kafka.bootstrap})
    present = {f"cdc.{name}" for name in TABLES} & set(admin.list_topics(timeout=10).topics)
    for future in admin.delete_topics(list(present)).values() if present else ():
        future.result()
