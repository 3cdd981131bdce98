"""The role of sql/postgres/role.sql: enough for the relay, and nothing more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pydantic import SecretStr

from sluice.capture import publication
from sluice.capture import slot as slots
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.postgres import connection_options
from sluice.clients.topics import Topics
from sluice.embedded.postgres import ensure_database
from sluice.errors import PublicationIncomplete
from sluice.generate.files import generated_files
from sluice.settings import PROJECT, PostgresSettings, RelaySettings, Settings
from store_api.database import make_engine
from tests.generate.badges import Base
from tests.support.services import drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services

CATALOG = load_catalog("tests.generate.badges")
DATABASE, OWNER, ROLE, SLOT = "badges_least", "badges_owner", "sluice_replication", "least"
OF_SLOT = {"options": f"-c sluice.slot={SLOT}"}


def session(settings: PostgresSettings) -> Any:
    connection = psycopg2.connect(**connection_options(settings))
    connection.autocommit = True
    return connection


def execute(settings: PostgresSettings, statement: str) -> list[Any]:
    connection = session(settings)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.fixture(scope="module")
def superuser(services: Settings) -> PostgresSettings:
    ensure_database(services.postgres, DATABASE)
    return replace(services.postgres, database=DATABASE)


@pytest.fixture(scope="module")
def owner(superuser: PostgresSettings) -> PostgresSettings:
    """The application's own role, with its tables and their publication."""
    execute(superuser, f"CREATE ROLE {OWNER} LOGIN PASSWORD 'owns'")
    execute(superuser, f"ALTER DATABASE {DATABASE} OWNER TO {OWNER}")
    settings = replace(superuser, user=OWNER, password=SecretStr("owns"))
    execute(settings, "CREATE SCHEMA crm")
    engine = make_engine(settings)
    Base.metadata.create_all(engine)
    engine.dispose()
    execute(settings, "CREATE TABLE crm.salaries (id int PRIMARY KEY, amount int)")
    execute(settings, "INSERT INTO crm.guests VALUES ('A', 1, 'Jo')")
    execute(
        replace(settings, options=OF_SLOT),
        generated_files(CATALOG)[Path("sql/generated/publication.sql")],
    )
    return settings


@pytest.fixture(scope="module")
def least(superuser: PostgresSettings, owner: PostgresSettings) -> PostgresSettings:
    text = (PROJECT / "sql/postgres/role.sql").read_text()
    for _ in range(2):  # it can be run again
        execute(replace(superuser, options=OF_SLOT), text)
    execute(superuser, f"ALTER ROLE {ROLE} PASSWORD 'reads'")
    return replace(superuser, user=ROLE, password=SecretStr("reads"))


@pytest.fixture(scope="module")
def relay(services: Settings, least: PostgresSettings) -> Iterator[Settings]:
    settings = replace(services, postgres=least, relay=RelaySettings(slot=SLOT, ack="broker"))
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, CATALOG), kwargs={"stop": stop})
    thread.start()
    yield settings
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    drop_slot(settings)


def until_there_are(settings: Settings, messages: int, topic: str) -> None:
    topics = Topics(settings.kafka)
    until(
        lambda: topics.ends([topic]).get(topic, 0) >= messages, f"{topic} has {messages} messages"
    )


def test_the_relay_takes_its_snapshot_and_streams_with_this_role(
    relay: Settings, owner: PostgresSettings
) -> None:
    until_there_are(relay, 2, "cdc.crm_guests")  # the row, and the snapshot's end
    execute(owner, "INSERT INTO visits (site, guest_number, fee) VALUES ('A', 1, 2.5), ('A', 1, 3)")
    until_there_are(relay, 3, "cdc.visits")
    held = "SELECT usename FROM pg_stat_replication JOIN pg_replication_slots ON pid = active_pid"
    assert execute(owner, f"{held} WHERE slot_name = '{SLOT}'") == [(ROLE,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM crm.salaries",
        "INSERT INTO visits (site, fee) VALUES ('A', 1)",
        "DELETE FROM crm.guests",
        "TRUNCATE visits",
        "CREATE TABLE crm.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "CREATE PUBLICATION mine FOR TABLE crm.salaries",
        f"ALTER PUBLICATION pglog_stream_{SLOT} ADD TABLE crm.salaries",
        "SELECT pg_read_file('PG_VERSION')",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
    ],
)
def test_the_role_reads_no_other_table_and_changes_nothing(
    least: PostgresSettings, statement: str
) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        execute(least, statement)


def test_the_role_has_no_other_attribute_and_a_bounded_number_of_sessions(
    least: PostgresSettings,
) -> None:
    attributes = "rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolinherit, rolconnlimit"
    found = execute(least, f"SELECT {attributes} FROM pg_roles WHERE rolname = current_user")
    assert found == [(False, False, False, False, False, 32)]


def test_a_publication_that_this_role_may_not_make_is_named_with_the_owners_statement(
    least: PostgresSettings,
) -> None:
    other = RelaySettings(slot="other", ack="broker")
    with slots.session(least) as cursor, pytest.raises(PublicationIncomplete) as caught:
        publication.ensure(cursor, other, CATALOG)
    assert "as the tables' owner: CREATE PUBLICATION" in str(caught.value)
