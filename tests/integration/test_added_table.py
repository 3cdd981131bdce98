"""A table that comes to the models later: its rows, without a new snapshot of the others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sluice.capture import publication, slot
from sluice.capture.relay import run
from sluice.catalog import Catalog, Table
from sluice.catalog.models import describe
from sluice.clients.topics import Topics
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import Chunk
from sluice.errors import Unreachable
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests.support.services import drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))


BEFORE = describe("tests", [Author.__mapper__])
AFTER = describe("tests", [Author.__mapper__, Book.__mapper__])
ROWS = 20_000


@pytest.fixture
def settings(services: Settings) -> Iterator[Settings]:
    relay = RelaySettings(slot=f"shelf_{uuid4().hex[:8]}", ack="broker")
    yield replace(services, relay=relay)
    admin = AdminClient({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})
    made = {"cdc.authors", "cdc.books"} & set(admin.list_topics(timeout=10).topics)
    for future in admin.delete_topics(list(made)).values():
        future.result()
    drop_slot(replace(services, relay=relay))
    with slot.session(services.postgres) as cursor:
        cursor.execute(f"DROP PUBLICATION IF EXISTS {relay.publication}")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_engine(settings.postgres)
    Base.metadata.create_all(made)
    with made.begin() as connection:
        connection.execute(text("INSERT INTO authors VALUES (1, 'Lem')"))
        connection.execute(
            text("INSERT INTO books SELECT i, 'old ' || i FROM generate_series(1, :rows) i"),
            {"rows": ROWS},
        )
    yield made
    Base.metadata.drop_all(made)
    made.dispose()


@contextmanager
def relaying(settings: Settings, catalog: Catalog) -> Iterator[threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, catalog), kwargs={"stop": stop})
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def events(settings: Settings, topic: str) -> list[Any]:
    with closing(KafkaLog(settings.kafka)) as log:
        chunks = log.read(topic, 0, Chunk(100_000), 30)
        return [json.loads(record.value or b"{}") for chunk in chunks for record in chunk]


def state(found: list[Any]) -> dict[int, str]:
    """Key -> title, by the highest position, as the drain would have it."""
    newest: dict[int, tuple[tuple[int, int], str | None]] = {}
    truncated = (0, 0)
    for event in found:
        high, low = event["metadata"]["commit_lsn"].split("/")
        position = (int(high, 16) << 32 | int(low, 16), event["metadata"]["ordinal"])
        if event["metadata"]["operation"] == "truncate":
            truncated = max(truncated, position)
            continue
        title = event["payload"].get("title")
        key = event["payload"]["id"]
        newest[key] = max(newest.get(key, ((0, 0), None)), (position, title))
    return {
        key: title
        for key, (position, title) in newest.items()
        if title is not None and position > truncated
    }


def has_slot(settings: Settings, name: str = "") -> bool:
    with slot.session(settings.postgres) as cursor:
        wanted = [name or settings.relay.slot]
        cursor.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", wanted)
        return cursor.fetchone() is not None


def add_books(settings: Settings) -> None:
    with slot.session(settings.postgres) as cursor:
        publication.ensure(cursor, settings.relay, AFTER)


def stream_goes_on(settings: Settings, engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE authors SET name = :name"), {"name": name})
    until(
        lambda: any(
            event["payload"] and event["payload"]["name"] == name
            for event in events(settings, "cdc.authors")
        ),
        "the change is on the topic",
    )


def test_a_table_added_later_gets_its_own_snapshot_while_the_stream_goes_on(
    settings: Settings, engine: Engine
) -> None:
    with relaying(settings, BEFORE):
        until(lambda: has_slot(settings), "the relay has its slot")
        stream_goes_on(settings, engine, "Dick")
        add_books(settings)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM books WHERE id = 7"))
    with relaying(settings, AFTER):
        with engine.begin() as connection:
            connection.execute(text("UPDATE books SET title = 'new' WHERE id = 8"))
        stream_goes_on(settings, engine, "Le Guin")
        until(
            lambda: len(state(events(settings, "cdc.books"))) == ROWS - 1,
            "the rows of the new table are on its topic",
        )
        until(
            lambda: not has_slot(settings, slot.addition(settings.relay)),
            "the slot of the new table's snapshot is gone",
        )
    found = state(events(settings, "cdc.books"))
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, title FROM books"))
        assert found == {row.id: row.title for row in rows}
    reads = [e for e in events(settings, "cdc.authors") if e["metadata"]["operation"] == "read"]
    assert len(reads) == 1
    with relaying(settings, AFTER):
        stream_goes_on(settings, engine, "Butler")
    again = [e for e in events(settings, "cdc.books") if e["metadata"]["operation"] == "truncate"]
    assert len(again) == 1


def test_an_addition_that_was_cut_short_starts_again(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relaying(settings, BEFORE):
        until(lambda: has_slot(settings), "the relay has its slot")
        add_books(settings)
    note, cut = slot.note, threading.Event()

    def cut_once(*arguments: Any) -> None:
        if not cut.is_set():
            cut.set()
            raise Unreachable("cut before it was noted")
        note(*arguments)

    monkeypatch.setattr(slot, "note", cut_once)
    with relaying(settings, AFTER):
        assert cut.wait(60)
        stream_goes_on(settings, engine, "Dick")
        until(
            lambda: len(state(events(settings, "cdc.books"))) == ROWS,
            "the rows of the new table are on its topic",
        )
        until(
            lambda: not has_slot(settings, slot.addition(settings.relay)),
            "the slot of the new table's snapshot is gone",
        )
    operations = [event["metadata"]["operation"] for event in events(settings, "cdc.books")]
    assert operations.count("truncate") == 2


def test_an_unfinished_addition_that_the_broker_forgot_reads_every_table_again(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relaying(settings, BEFORE):
        until(lambda: has_slot(settings), "the relay has its slot")
        add_books(settings)
    topics = Topics(settings.kafka)

    def prepared() -> tuple[Table, ...]:
        return slot.prepare(settings.postgres, settings.relay, AFTER, topics, snapshot=False).added

    assert prepared() == (AFTER.table("books"),)
    with slot.session(settings.postgres) as cursor:
        create = "SELECT pg_create_physical_replication_slot(%s)"
        cursor.execute(create, [slot.addition(settings.relay)])
    monkeypatch.setattr(Topics, "slot_note", lambda *_: None)
    assert prepared() == AFTER.tables
