"""`sluice doctor` on real services with planted faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from sluice.adapters.clickhouse import ClickHouse
from sluice.catalog import Catalog, load_catalog
from sluice.doctor import Diagnosis, examine
from sluice.relay import slot as slots
from sluice.settings import RelaySettings, Settings
from tests.conftest import free_ports

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog("models")


def wrong(settings: Settings, catalog: Catalog) -> list[Diagnosis]:
    return [diagnosis for diagnosis in examine(settings, catalog) if not diagnosis.ok]


@contextmanager
def lacking(settings: Settings, table: str) -> Iterator[None]:
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        clickhouse.execute(f"RENAME TABLE cdc.{table} TO cdc.hidden")
        try:
            yield
        finally:
            clickhouse.execute(f"RENAME TABLE cdc.hidden TO cdc.{table}")


def test_nothing_is_to_mend_after_init(services: Settings, catalog: Catalog) -> None:
    assert wrong(services, catalog) == []


def test_a_missing_state_table_is_named(services: Settings, catalog: Catalog) -> None:
    with lacking(services, "drains"):
        (found,) = wrong(services, catalog)
    assert (found.check, found.found) == ("state tables", "missing: drains")
    assert found.remedy == "sluice init"


def test_a_publication_that_is_not_there_is_named(services: Settings, catalog: Catalog) -> None:
    other = replace(services, relay=RelaySettings(slot="unpublished", ack="broker"))
    (found,) = wrong(other, catalog)
    assert found.check == "publication pglog_stream_unpublished"


def test_a_role_that_may_not_replicate_is_named(services: Settings, catalog: Catalog) -> None:
    with slots.session(services.postgres) as cursor:
        cursor.execute("CREATE ROLE plain_reader LOGIN PASSWORD 'plain'")
    plain = replace(services.postgres, user="plain_reader", password=SecretStr("plain"))
    try:
        checks = {found.check for found in wrong(replace(services, postgres=plain), catalog)}
    finally:
        with slots.session(services.postgres) as cursor:
            cursor.execute("DROP ROLE plain_reader")
    assert checks == {"replication"}


def test_a_topic_with_two_partitions_is_named(services: Settings, catalog: Catalog) -> None:
    table = replace(catalog.tables[0], name="parted")
    admin = AdminClient({"bootstrap.servers": services.kafka.bootstrap})
    admin.create_topics([NewTopic(table.topic, 2, 1)])[table.topic].result(10)
    try:
        found = wrong(services, replace(catalog, tables=(*catalog.tables, table)))
    finally:
        admin.delete_topics([table.topic])[table.topic].result(10)
    (parted,) = [diagnosis for diagnosis in found if diagnosis.service == "broker"]
    assert (parted.check, parted.found) == (table.topic, "2 partitions")


def test_the_command_tells_what_does_not_answer_from_what_is_wrong(services: Settings) -> None:
    (free,) = free_ports(1)
    there = {
        **os.environ,
        "SLUICE_HOME": str(services.home),
        "SLUICE_POSTGRES_PORT": str(services.postgres.port),
        "SLUICE_KAFKA_PORT": services.kafka.bootstrap.rpartition(":")[2],
        "SLUICE_CLICKHOUSE_PORT": str(services.clickhouse.port),
    }
    cases: tuple[tuple[dict[str, str], int], ...] = (
        ({}, 0),
        ({"SLUICE_SLOT": "elsewhere"}, 1),
        ({"SLUICE_POSTGRES_PORT": str(free)}, 3),
    )
    for changed, code in cases:
        command = [sys.executable, "-c", "from sluice.cli import main; main()", "doctor", "--json"]
        done = subprocess.run(
            command, env={**there, **changed}, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert json.loads(done.stdout)["healthy"] == (code == 0)
        assert "Traceback" not in done.stderr
