"""Excluded columns: neither PostgreSQL nor the relay sends them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sluice.capture import publication as publications
from sluice.capture import slot as slots
from sluice.capture.relay import run
from sluice.catalog import Catalog
from sluice.catalog.models import describe
from sluice.clients.topics import Topics
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import Chunk
from sluice.generate.publication import publication
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests.support.services import delete_topics, drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services

SECRET = "a-number-that-nobody-sees"
TABLES = {"club_members", "club_visitors", "club_tables"}


class Before(DeclarativeBase):
    """The models at first."""


class Member(Before):
    __tablename__ = "club_members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    ssn: Mapped[str | None] = mapped_column(String(50), info={"exclude": True})


class Visitor(Before):
    """Its replica identity is the whole row."""

    __tablename__ = "club_visitors"
    id: Mapped[int] = mapped_column(primary_key=True)
    ssn: Mapped[str | None] = mapped_column(String(50), info={"exclude": True})


class Plain(Before):
    __tablename__ = "club_tables"
    id: Mapped[int] = mapped_column(primary_key=True)


class After(DeclarativeBase):
    """The models with one more column."""


class LaterMember(After):
    __tablename__ = "club_members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    nick: Mapped[str | None] = mapped_column(String(50))
    ssn: Mapped[str | None] = mapped_column(String(50), info={"exclude": True})


CATALOG = describe("tests", [model.__mapper__ for model in (Member, Visitor, Plain)])
LATER = describe("tests", [model.__mapper__ for model in (LaterMember, Visitor, Plain)])
EVERY = {"club_members": ["id", "name"], "club_visitors": ["id", "ssn"], "club_tables": ["id"]}


@pytest.fixture
def settings(services: Settings) -> Iterator[Settings]:
    relay = RelaySettings(slot=f"club_{uuid4().hex[:8]}", ack="broker")
    own = replace(services, relay=relay)
    yield own
    drop_slot(own)
    delete_topics(own, {f"cdc.{name}" for name in TABLES})
    with slots.session(services.postgres) as cursor:
        cursor.execute(f"DROP PUBLICATION IF EXISTS {relay.publication}")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_engine(settings.postgres)
    Before.metadata.create_all(made)
    with made.begin() as connection:
        connection.execute(text("ALTER TABLE club_visitors REPLICA IDENTITY FULL"))
    yield made
    Before.metadata.drop_all(made)
    made.dispose()


def sent(settings: Settings) -> dict[str, list[str]]:
    with slots.session(settings.postgres) as cursor:
        cursor.execute(
            "SELECT tablename::text, attnames::text[] FROM pg_publication_tables"
            " WHERE pubname = %s",
            [settings.relay.publication],
        )
        return dict(cursor.fetchall())


def ensure(settings: Settings, catalog: Catalog) -> dict[str, Any]:
    with slots.session(settings.postgres) as cursor:
        return dict(publications.ensure(cursor, settings.relay, catalog))


def test_the_publication_leaves_out_excluded_columns(settings: Settings, engine: Engine) -> None:
    """But for the whole row as replica identity: PostgreSQL would refuse the table's updates."""
    assert ensure(settings, CATALOG) == {}
    assert sent(settings) == EVERY
    assert ensure(settings, CATALOG) == {}
    with engine.begin() as connection:
        for name in ("club_members", "club_visitors"):
            connection.execute(text(f"UPDATE {name} SET ssn = '1'"))


def test_the_publication_by_hand_is_the_same(settings: Settings, engine: Engine) -> None:
    with slots.session(settings.postgres) as cursor:
        cursor.execute("SELECT set_config('sluice.slot', %s, false)", [settings.relay.slot])
        cursor.execute(publication(CATALOG))
    assert sent(settings) == EVERY
    assert ensure(settings, CATALOG) == {}


def test_a_column_that_comes_to_the_model_comes_to_the_list(
    settings: Settings, engine: Engine
) -> None:
    ensure(settings, CATALOG)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE club_members ADD nick text"))
    with slots.session(settings.postgres) as cursor:
        found = publications.find(cursor, settings.relay, LATER)
        assert found is not None
        fault = found.faults["club_members"]
    assert "without its columns nick" in fault.what
    assert fault.remedy is not None
    assert 'ADD TABLE ONLY "public"."club_members" ("id", "name", "nick")' in fault.remedy
    assert ensure(settings, LATER) == {}
    assert sent(settings)["club_members"] == ["id", "name", "nick"]
    assert sent(settings)["club_visitors"] == EVERY["club_visitors"]


def test_no_event_has_an_excluded_column(settings: Settings, engine: Engine) -> None:
    with engine.begin() as connection:
        for at, name in enumerate(("club_members (id, name, ssn)", "club_visitors (id, ssn)")):
            values = "1, 'Lem', :ssn" if at == 0 else "1, :ssn"
            connection.execute(text(f"INSERT INTO {name} VALUES ({values})"), {"ssn": SECRET})
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, CATALOG), kwargs={"stop": stop})
    thread.start()
    topics = Topics(settings.kafka)
    names = ["cdc.club_members", "cdc.club_visitors"]
    try:
        until(
            lambda: [end >= 2 for end in topics.ends(names).values()] == [True, True],
            "the snapshot and its end are on the topics",
            retry=Exception,
        )
        with engine.begin() as connection:
            for name in ("club_members", "club_visitors"):
                connection.execute(text(f"UPDATE {name} SET ssn = ssn || '!'"))
                connection.execute(text(f"DELETE FROM {name}"))
        until(
            lambda: [end >= 4 for end in topics.ends(names).values()] == [True, True],
            "the changes are on the topics",
        )
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    for topic in names:
        messages = until(partial(every_message, settings, topic), f"{topic} is read to its end")
        assert not any(SECRET.encode() in message for message in messages)
        rows = [json.loads(message)["payload"] for message in messages]
        assert not any("ssn" in row for row in rows if row)


def every_message(settings: Settings, topic: str) -> list[bytes]:
    """Snapshot, update and delete; none while the broker returns fewer."""
    with closing(KafkaLog(settings.kafka)) as log:
        chunks = log.read(topic, 0, Chunk(100), 30)
        values = [record.value or b"" for chunk in chunks for record in chunk]
    return values if len(values) >= 4 else []
