"""A producer with write access to the topics: what it sends costs at most itself.

And a table whose state is wrong already says so, with a command that brings it right.
"""

from __future__ import annotations

import getpass
import json
import queue
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

import hypothesis
import pytest
from confluent_kafka import Producer
from hypothesis import strategies as st
from sqlalchemy import Engine, Text, text
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typer.testing import CliRunner, Result

from sluice import wiring
from sluice.capture import fenced_snapshot as reading
from sluice.capture import slot as slots
from sluice.capture.row_reader import present_rows
from sluice.catalog import load_catalog
from sluice.cli import app
from sluice.clients.topics import EPOCH_TOPIC, Topics
from sluice.drain import kafka_log as kafka
from sluice.drain.dead_letters import parse_condition
from sluice.errors import (
    NeedsPerson,
    RecordUnreadable,
    Retryable,
    RowsRejected,
    SlotBusy,
    WrongUsage,
)
from sluice.events.event import CONTROL_TOPIC, DEAD_LETTER_TOPIC
from sluice.execution.contention import until_done
from sluice.quality.checks import Check, QualityReport
from sluice.settings import Settings
from sluice.wiring.context import opened
from sluice.wiring.drains import make_decoder, make_drain
from store_api.database import make_engine
from store_api.demo import load
from tests.support import messages
from tests.support.messages import transaction
from tests.support.pipeline import checked, relaying
from tests.support.places import PLACES, placed
from tests.support.processes import command_environment
from tests.support.services import own_services
from tests.support.waiting import until

pytestmark = pytest.mark.services

TABLE, TOPIC = "products", "cdc.products"
ROWS = "SELECT id, name, category, price::text FROM products ORDER BY id"
STORED = "SELECT id, name, category, toDecimalString(price, 2) FROM olap.dim_product ORDER BY id"
LAST = "FFFFFFFF/FFFFFFF0"
T = TypeVar("T")
PERSON = getpass.getuser()


# Of its own: tables end in other epochs than they begin.
services = own_services


@pytest.fixture(scope="module")
def relay(services: Settings) -> Iterator[ExitStack]:
    """Holds the relay, which `close` stops."""
    load(services, customers=5, orders=10, seed=19)
    with ExitStack() as running:
        running.enter_context(relaying(services))
        yield running


@pytest.fixture(scope="module")
def engine(services: Settings, relay: ExitStack) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    assert not checked(services).failures
    yield made
    made.dispose()


def event(operation: str, payload: Any, **metadata: Any) -> bytes:
    place = {"lsn": "0/1", "commit_lsn": "0/10", "ordinal": 1, "commit_ts_ms": 1}
    head = {"source": "relay", "table": TABLE, "operation": operation, **place, **metadata}
    return json.dumps({"metadata": head, "payload": payload, "before": None}).encode()


def product(key: int, name: str = "forged") -> dict[str, Any]:
    created = "2026-01-01T00:00:00Z"
    return {"id": key, "name": name, "category": "c", "price": "1.00", "created_at": created}


def send(settings: Settings, *values: bytes | None, **options: Any) -> None:
    producer = Producer(
        {"bootstrap.servers": settings.kafka.bootstrap, **settings.kafka.options, **options}
    )
    for value in values:
        producer.produce(TOPIC, value=value, key=b'{"id":1}')
    assert producer.flush(30) == 0


def in_postgres(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(ROWS))]


def stored(settings: Settings) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in wiring.query(settings, STORED)[1]]


def honest(settings: Settings, engine: Engine, *, equal: bool = True) -> None:
    """Change every product in PostgreSQL, and drain until ClickHouse has it."""
    name = f"name {time.monotonic_ns()}"
    with engine.begin() as connection:
        connection.execute(text("UPDATE products SET name = :name"), {"name": name})

    def arrived() -> bool:
        wiring.drain(settings, TABLE)
        if stored(settings) == in_postgres(engine) if equal else drained(settings, name):
            return True
        raise LookupError(wiring.dead_letters(settings, TABLE, 5))

    until(arrived, "the honest changes are in ClickHouse", retry=LookupError)


def drained(settings: Settings, name: str) -> bool:
    """Whether a change has come to the history, whatever hides it in the current state."""
    query = f"SELECT count() FROM cdc.history_products WHERE name = '{name}' OR _is_deleted"
    found = wiring.query(settings, f"{query} AND _seq > 0")[1]
    return bool(found[0][0])


def check(settings: Settings, name: str) -> Check:
    """A check of the minute."""
    report = until(
        lambda: wiring.quality(settings, [TABLE]), "the checks can be made", retry=Retryable
    )
    (found,) = [one for one in report.checks if (one.table, one.check) == (TABLE, name)]
    return found


def run(settings: Settings, *arguments: str) -> Result:
    """A command of `sluice`."""
    return CliRunner().invoke(app, list(arguments), env=command_environment(settings))


def advised(settings: Settings, found: Check) -> Result:
    """Run the command that a check names."""
    command = found.repair.removeprefix("run: ")
    assert command.startswith("sluice "), found
    done = run(settings, *shlex.split(command)[1:])
    assert done.exit_code == 0, (done.output, done.exception)
    return done


FORGED = {
    "a truncate at the last position": event("truncate", None, commit_lsn=LAST),
    "an update at the last position": event("update", product(1), commit_lsn=LAST),
    "a delete at the last position": event("delete", {"id": 1}, commit_lsn=LAST),
    "a position with a sign": event("truncate", None, commit_lsn="-1/0"),
    "a position with an underscore": event("update", product(1), commit_lsn="1_0/0"),
    "a position with blanks": event("truncate", None, commit_lsn="+1/ 2"),
    "digits of another script": event("truncate", None, commit_lsn="٣/٣"),
    "a position of small letters": event("truncate", None, commit_lsn="f/f"),
    "an ordinal above all": event("update", product(1), ordinal=1 << 48),
    "an ordinal of 500 bits": event("truncate", None, ordinal=1 << 500),
    "another source": event("update", product(1), source="connect"),
    "a fence of another source": event("truncate", None, source="connect", fence=1 << 60),
    "no value": None,
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_event_costs_itself(
    services: Settings, engine: Engine, forged: bytes | None
) -> None:
    before = len(letters(services))
    send(services, forged)
    honest(services, engine)
    assert len(letters(services)) == before + 1
    assert wiring.quality(services, [TABLE]).passed


@pytest.mark.parametrize("ending", ["commit", "abort", ""], ids=["committed", "aborted", "open"])
def test_a_transaction_hides_no_event_behind_it_and_lets_the_table_be_drained_to_its_end(
    services: Settings, engine: Engine, ending: str
) -> None:
    """The marker that ends a transaction has an offset, and no message to wait for."""
    before = len(letters(services))
    with transaction(services.kafka, TOPIC, b"bad") as producer:
        honest(services, engine)
        if ending:
            getattr(producer, f"{ending}_transaction")(30)
        assert len(letters(services)) == before + 1
        done = in_time(lambda: run(services, "resync", TABLE))
        assert done.exit_code == 0, (done.output, done.exception)
        done = in_time(lambda: run(services, "drain", "--until-empty"))
        assert done.exit_code == 0, (done.output, done.exception)
        until(lambda: drained_to_the_end(services), "nothing is left on the topic")
    honest(services, engine)


def drained_to_the_end(settings: Settings) -> bool:
    """Drain; the broker writes a marker a little after the transaction ended."""
    wiring.drain_all(settings, [TABLE]).require()
    return standing(settings) == Topics(settings.kafka).ends([TOPIC])[TOPIC]


def bomb(settings: Settings, *sizes: int) -> None:
    """Messages of zeros, of a few kilobytes each on their way."""
    options = {"compression.type": "zstd", "message.max.bytes": 400_000_000}
    send(
        settings, *map(bytes, sizes), **options, **{"batch.size": 400_000_000, "linger.ms": 30_000}
    )


def test_a_message_that_unpacks_to_72_megabytes_is_one_small_dead_letter(
    services: Settings, engine: Engine
) -> None:
    before = len(letters(services))
    bomb(services, 72_000_000)
    honest(services, engine)
    assert wiring.drain(services, TABLE).rejected == 0
    newest, *others = letters(services)
    assert len(others) == before
    assert (newest.size, len(newest.value)) == (72_000_000, 2 * 4096 + 5)
    assert newest.sha256 == sha256(bytes(72_000_000)).hexdigest()
    report = wiring.replay_dead_letters(
        services, TABLE, [parse_condition(f"offset={newest.offset}")]
    )
    assert report.replayed == 0
    ((_, reason),) = report.rejected
    assert "bytes are kept; run: sluice resync products" in reason
    (shown,) = json.loads(
        run(services, "dead-letters", "show", "--json", "--where", f"offset={newest.offset}").stdout
    )["dead_letters"]
    assert (shown["size"], shown["sha256"]) == (newest.size, newest.sha256)


def test_a_large_row_that_was_cut_is_resolved_when_it_comes_right(
    services: Settings, engine: Engine
) -> None:
    """Its place is in the head, which is kept; its key is the message's."""
    large = {**product(1, "x" * 2_000_000), "price": "NaN"}
    send(services, event("update", large), **{"message.max.bytes": 4_000_000})
    honest(services, engine)
    newest = letters(services)[0]
    assert newest.size > 2_000_000 > len(newest.value)
    assert newest.state == "resolved"


def test_dead_letters_that_the_broker_does_not_take_keep_nothing_back(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "DEAD_LETTER_TOPIC", "cdc.nowhere")
    monkeypatch.setattr(kafka, "_PATIENCE", 1.0)
    before = len(letters(services))
    send(services, b"bad")
    honest(services, engine)
    assert len(letters(services)) == before + 1


def test_what_cannot_be_unpacked_is_passed_by_the_named_command_and_told_until_a_resync(
    services: Settings, engine: Engine
) -> None:
    """Fifteen messages in one batch, more than librdkafka unpacks; other tables are drained."""
    honest(services, engine)
    at = standing(services)
    bomb(services, *[10_000_000] * 15)
    done = run(services, "drain", "customers")
    assert done.exit_code == 0, done.output
    done = run(services, "drain", TABLE)
    assert isinstance(done.exception, RecordUnreadable), (done.output, done.exception)
    remedy = str(done.exception).splitlines()[-1]
    first, then = re.findall("sluice ([^,]*)", remedy)
    assert first == f"drain products --skip {at}"
    for wrong in (at - 1, at + 1, at + 15, 1 << 40):
        refused = run(services, "drain", TABLE, "--skip", str(wrong))
        assert isinstance(refused.exception, WrongUsage)
        assert f"the drain is at offset {at}" in str(refused.exception)
    assert standing(services) == at
    assert check(services, "caught_up").repair == remedy
    done = run(services, *first.split())
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"offsets {at} to {at + 14} were skipped by {getpass.getuser()}: " in done.output
    assert standing(services) == at + 15
    honest(services, engine)
    found = check(services, "parked")
    assert (found.status, found.repair) == ("fail", "run: sluice resync products")
    assert f"skipped by {getpass.getuser()}" in found.difference
    done = run(services, *then.split())
    assert done.exit_code == 0, (done.output, done.exception)
    assert check(services, "parked").status == "pass"


def test_one_readable_record_is_skipped_with_who_and_what_it_was(
    services: Settings, engine: Engine
) -> None:
    honest(services, engine)
    at = standing(services)
    for arguments in ([TABLE], [TABLE, "orders"], [TABLE, "--until-empty"], []):
        refused = run(services, "drain", *arguments, "--skip", str(at))
        assert isinstance(refused.exception, WrongUsage), refused.output
    forged = event("update", product(1), commit_lsn="0/11")
    send(services, forged, forged)
    done = run(services, "drain", TABLE, "--skip", str(at))
    assert done.exit_code == 0, (done.output, done.exception)
    assert standing(services) == at + 1
    digest = sha256(forged).hexdigest()
    told = f"skipped by {PERSON}: {len(forged)} bytes, sha256 {digest}"
    assert told in done.output
    assert told in letters(services)[0].reason
    assert told in check(services, "parked").difference
    noted = "SELECT DISTINCT state, done_by FROM cdc.parked WHERE source_table = 'products'"
    who = f"{noted} AND position(reason, '{digest}') > 0 ORDER BY state"
    assert wiring.query(services, who)[1] == [("parked", PERSON), ("sent", PERSON)]
    advised(services, check(services, "parked"))
    assert check(services, "parked").status == "pass"
    assert wiring.query(services, who)[1][-1] == ("whole", PERSON)
    honest(services, engine)


def standing(settings: Settings) -> int:
    """The offset that the drain stands at."""
    query = "SELECT argMax(next_offset, generation) FROM cdc.checkpoints WHERE source_table"
    return int(wiring.query(settings, f"{query} = '{TABLE}'")[1][0][0])


def letters(settings: Settings) -> list[Any]:
    return wiring.dead_letters(settings, TABLE, 1000, every=True)


def unbounded(settings: Settings) -> None:
    """Drain as it was before positions had a bound."""
    with opened(settings) as run:
        decoder, free = make_decoder(run, TABLE), replace(make_drain(run), wal_end=None)
        until_done(lambda: free.run(decoder))


def planted_truncate(settings: Settings) -> None:
    send(settings, event("truncate", None, commit_lsn=LAST))
    unbounded(settings)


def planted_rows(settings: Settings) -> None:
    """Of a key that PostgreSQL has, of one that it has not, and the delete of another."""
    forged = [event("update", product(key), commit_lsn=LAST) for key in (1, 990_001)]
    send(settings, *forged, event("delete", {"id": 2}, commit_lsn=LAST))
    unbounded(settings)


def planted_near(settings: Settings) -> None:
    """Ahead by a megabyte, which is no position that anything else takes for impossible."""
    ((end,),) = wiring.query(settings, "SELECT max(_version) FROM cdc.dim_product")[1]
    lsn = (int(end) >> 48 & (1 << 64) - 1) + (1 << 28)
    place = f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
    send(settings, event("update", product(1), commit_lsn=place))
    unbounded(settings)


def planted_markers(settings: Settings) -> None:
    """Straight into ClickHouse: delete markers of an epoch that never began."""
    wiring.query(
        settings,
        "INSERT INTO cdc.dim_product SELECT * REPLACE (1 AS _is_deleted,"
        " bitShiftLeft(toUInt128(65535), 112) AS _version) FROM cdc.dim_product FINAL",
    )


def planted_checkpoint(settings: Settings) -> None:
    wiring.query(
        settings,
        "INSERT INTO cdc.checkpoints SELECT * REPLACE (generation + 1 AS generation,"
        " bitShiftLeft(toUInt128(65535), 112) AS truncated) FROM cdc.checkpoints"
        f" WHERE source_table = '{TABLE}' ORDER BY generation DESC LIMIT 1",
    )


PLANTED = [planted_truncate, planted_rows, planted_near, planted_markers, planted_checkpoint]
REMEDIES: list[Sequence[str]] = [(), ("resync", TABLE), ("resync", "--diff", TABLE), ("recover",)]


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_ahead_already_is_found_and_the_named_command_sets_it_right(
    services: Settings, engine: Engine, plant: Any
) -> None:
    plant(services)
    found = check(services, "ahead")
    assert found.status == "fail"
    assert "ahead of PostgreSQL's WAL" in found.difference
    advised(services, found)
    assert stored(services) == in_postgres(engine)
    assert check(services, "ahead").status == "pass"
    honest(services, engine)


@pytest.mark.parametrize("remedy", REMEDIES[1:], ids=" ".join)
def test_each_command_that_repairs_sets_it_right(
    services: Settings, engine: Engine, remedy: Sequence[str]
) -> None:
    for plant in (planted_rows, planted_truncate, planted_markers):
        plant(services)
    done = run(services, *remedy)
    assert done.exit_code == 0, (done.output, done.exception)
    assert stored(services) == in_postgres(engine)
    honest(services, engine)
    assert wiring.quality(services).passed


def test_a_resync_fails_while_rows_that_it_wrote_are_hidden(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reading.FencedReading.read

    def late(self: Any, *given: Any) -> int:
        planted_markers(services)  # after everything that was there before was put below
        return read(self, *given)

    monkeypatch.setattr(reading.FencedReading, "read", late)
    done = run(services, "resync", TABLE)
    assert isinstance(done.exception, RowsRejected), (done.output, done.exception)
    assert done.exception.exit_code == 1
    assert "ahead of the source hides the row" in str(done.exception)
    monkeypatch.undo()
    assert run(services, "resync", TABLE).exit_code == 0
    assert stored(services) == in_postgres(engine)


def test_garbage_among_the_notes_of_the_broker_is_no_note(
    services: Settings, engine: Engine
) -> None:
    producer = Producer({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})
    named = json.dumps({"epoch": "another", "slot": services.relay.slot})
    for value in (b"bad", b"[]", b"{}", b"\xff", b"[" * 100_000, b"1" * 5000, named, None):
        producer.produce(EPOCH_TOPIC, value=value)
    assert producer.flush(10) == 0
    honest(services, engine)
    assert wiring.quality(services, [TABLE]).passed
    assert slots.snapshot_taken(Topics(services.kafka), services.relay)


GARBAGE: Sequence[dict[str, Any]] = (
    {"value": b"bad", "key": b"\xff\x00"},
    {"value": None, "key": None},
    {"value": b"[" * 100_000},
    {"value": event("truncate", None, commit_lsn=LAST), "key": b'{"id":1}'},
    {
        "value": bytes(900_000),
        "headers": [("table", b"products"), ("offset", b"\xff"), ("n", None)],
    },
)


def test_no_step_reads_what_others_write_to_the_topics_of_control_and_of_dead_letters(
    services: Settings, engine: Engine, relay: ExitStack
) -> None:
    before = len(letters(services))
    for topic in (CONTROL_TOPIC, DEAD_LETTER_TOPIC):
        messages.send(services, topic, *GARBAGE)
        messages.send(services, topic, {"value": b"bad"}, ending="commit")
    relay.close()
    relay.enter_context(relaying(services))
    honest(services, engine)
    assert len(letters(services)) == before
    assert wiring.quality(services).passed
    done = run(services, "doctor")
    assert done.exit_code == 0, (done.output, done.exception)


def note(settings: Settings, *values: bytes, **options: Any) -> None:
    """Send to the topic of the broker's epoch."""
    producer = Producer(
        {"bootstrap.servers": settings.kafka.bootstrap, **settings.kafka.options, **options}
    )
    for value in values:
        producer.produce(EPOCH_TOPIC, value=value)
    assert producer.flush(30) == 0


def in_time(call: Callable[[], T]) -> T:
    """The result of a call that might never end."""
    results: queue.SimpleQueue[T] = queue.SimpleQueue()
    threading.Thread(target=lambda: results.put(call()), daemon=True).start()
    return results.get(timeout=240)


TEXTS = ("", "x", "0/0/0")
WRONG: list[Any] = [7, -1.5, True, *TEXTS, [], ["a"], {}, {"oid": 1}, {"tables": []}, None]


def test_notes_of_another_shape_are_none(services: Settings, engine: Engine) -> None:
    """Each field of a true note with each of these values, and without it."""
    topics = Topics(services.kafka)
    true = topics.slot_note(services.relay.slot)
    assert true is not None
    kinds: dict[str, type] = {"epoch": str, "slot": str, "system_identifier": str}
    kinds |= {"consistent_point": str, "timeline": int, "publication": dict}
    forged = [
        {**true, name: value}
        for name, kind in kinds.items()
        for value in WRONG
        if type(value) is not kind or (value in TEXTS and name in {"epoch", "consistent_point"})
        if value is not None or name not in {"timeline", "consistent_point"}
    ]
    parts: list[Any] = [{"oid": 1}, {"tables": []}, {"oid": []}]
    forged += [{**true, "publication": one} for one in parts]
    forged += [
        {**true, "publication": {"oid": 1, "tables": one}}
        for one in WRONG
        if one not in ({}, {"oid": 1})
    ]
    note(services, *(json.dumps(one).encode() for one in forged))
    assert topics.slot_note() == true
    assert topics.slot_note(services.relay.slot) == true
    honest(services, engine)


@pytest.mark.parametrize("sizes", [[72_000_000], [10_000_000] * 15], ids=["large", "unreadable"])
def test_what_unpacks_to_very_much_hides_no_note(
    services: Settings, engine: Engine, sizes: list[int]
) -> None:
    topics = Topics(services.kafka)
    epoch, noted = topics.epoch(), topics.slot_note()
    options = {"compression.type": "zstd", "message.max.bytes": 400_000_000}
    options |= {"batch.size": 400_000_000, "linger.ms": 30_000}
    note(services, *map(bytes, sizes), **options)
    assert in_time(topics.epoch) == epoch
    assert in_time(topics.slot_note) == noted
    with slots.session(services.postgres) as cursor:
        slots.note(cursor, services.relay, load_catalog("models"), topics, "0/1")
    assert (in_time(topics.slot_note) or {})["consistent_point"] == "0/1"
    honest(services, engine)


def test_very_many_messages_cost_no_more_than_the_last_of_them(
    services: Settings, engine: Engine
) -> None:
    """Then nothing is noted, as if the broker had lost it: the relay notes it when it starts."""
    topics = Topics(services.kafka)
    epoch = topics.epoch()
    note(services, *[b"{}"] * 25_000)
    assert topics.epoch() == epoch
    assert topics.slot_note() is None
    honest(services, engine)
    with slots.session(services.postgres) as cursor:
        slots.note(cursor, services.relay, load_catalog("models"), topics, "0/1")
    assert slots.snapshot_taken(topics, services.relay)
    assert wiring.quality(services, [TABLE]).passed


def slot_note(settings: Settings, **changed: Any) -> None:
    """Note another snapshot than the slot's, as a principal can who reads the topic."""
    topics = Topics(settings.kafka)
    true = topics.slot_note(settings.relay.slot)
    assert true is not None
    note(settings, json.dumps({**true, **changed}).encode())


def slot_mark(settings: Settings, **changed: int) -> None:
    topics = Topics(settings.kafka)
    true = topics.mark(settings.relay.slot)
    topics.note_mark(settings.relay.slot, true._replace(**changed))


Forgery = Callable[[Settings], None]
STOPPING: Sequence[Forgery] = (
    partial(slot_note, system_identifier="7"),
    partial(slot_note, timeline=99),
    partial(slot_note, publication={"oid": 7, "tables": {}}),
    partial(slot_mark, wal=1 << 60),
    partial(slot_mark, transactions=1 << 60),
    partial(slot_mark, counted_since=1, wal=1),
)
PASSING: Sequence[Forgery] = (
    partial(slot_note, consistent_point=None),
    partial(slot_note, consistent_point=LAST),
)


def test_forged_notes_stop_the_relay_until_the_command_that_it_names(
    services: Settings, engine: Engine, relay: ExitStack
) -> None:
    relay.close()
    topics = Topics(services.kafka)
    noted, mark = topics.slot_note(services.relay.slot), topics.mark(services.relay.slot)
    for forge in STOPPING:
        note(services, json.dumps(noted).encode())
        topics.note_mark(services.relay.slot, mark)
        assert prepared(services).confirmed_lsn
        forge(services)
        with pytest.raises(NeedsPerson) as stopped:
            prepared(services)
        assert (stopped.value.remedy or "").endswith(": sluice recover")
    done = run(services, "recover")
    assert done.exit_code == 0, (done.output, done.exception)
    relay.enter_context(relaying(services))
    honest(services, engine)


def test_forged_notes_that_do_not_stop_the_relay_change_nothing_that_checks_do_not_name(
    services: Settings, engine: Engine, relay: ExitStack
) -> None:
    relay.close()
    for forge in PASSING:
        forge(services)
        assert prepared(services).confirmed_lsn
    relay.enter_context(relaying(services))
    brought_right(services)
    honest(services, engine)


def prepared(settings: Settings) -> slots.Ready:
    """What the relay concludes when it starts; the session of a former one may still end."""
    catalog, topics = load_catalog("models"), Topics(settings.kafka)
    prepare = partial(slots.prepare, settings.postgres, settings.relay, catalog, topics)
    return until(partial(prepare, snapshot=False), "the slot is free", retry=SlotBusy)


class Base(DeclarativeBase):
    """The declarative base."""


class Host(Base):
    """A table whose key is stored as text and read by PostgreSQL as something else."""

    __tablename__ = "hosts"
    address: Mapped[str] = mapped_column(INET, primary_key=True)
    name: Mapped[str] = mapped_column(Text)


@pytest.mark.parametrize("garbage", ["no address", "10.0.0.1\0", "'; SELECT 1"])
def test_a_key_that_postgresql_cannot_read_ends_no_drain_that_reads_rows_again(
    services: Settings, engine: Engine, garbage: str
) -> None:
    """Rows are read again where their event has not the whole row."""
    table = load_catalog(__name__).table("hosts")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE hosts (address inet PRIMARY KEY, name text)"))
        connection.execute(text("INSERT INTO hosts VALUES ('10.0.0.1', 'one')"))
    try:
        with slots.session(services.postgres) as cursor:
            rows = present_rows(cursor, table, [(garbage,), ("10.0.0.1",)])
            assert [json.loads(row.value or b"")["payload"]["name"] for row in rows] == ["one"]
            assert present_rows(cursor, table, [(garbage,)]) == []
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE hosts"))


NOW = object()  # a position that is PostgreSQL's at the moment
LARGE = {"deep": b"[" * 100_000, "deeper": b'{"metadata":' * 20_000, "zeros": bytes(900_000)}
FORGED_NOW = st.tuples(
    st.sampled_from(["update", "insert", "delete", "truncate", "read"]),
    st.integers(1, 3) | st.integers(990_000, 990_003),
    st.integers(0, 3),
).map(lambda drawn: (NOW, *drawn))
ENCODINGS: Mapping[str, Callable[[str], bytes]] = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "Latin-1": lambda text: text.replace("forged", "é").encode("latin-1"),
    "half a character": lambda text: text.replace("forged", "\\ud800").encode(),
    "escapes": lambda text: text.replace("products", "\\u0070roducts").encode(),
    "a field twice": lambda text: text.replace('"payload"', '"payload": null, "payload"').encode(),
    "no number": lambda text: text.replace('"1.00"', "NaN").encode(),
    "a long number": lambda text: text.replace('"1.00"', "9" * 5000).encode(),
    "NUL": lambda text: text.replace("forged", "\\u0000unchanged").encode(),
    "white space": lambda text: text.replace(",", " , \n").encode(),
}


def damaged(drawn: tuple[int, int, int]) -> bytes:
    """An event of which some bytes are gone, or are others."""
    value = event("update", product(1))
    at, length, byte = drawn[0] % len(value), drawn[1], drawn[2]
    return value[:at] + bytes([byte]) * (length % 3) + value[at + length :]


VALUES = st.one_of(
    FORGED_NOW,
    st.tuples(st.sampled_from(["update", "delete", "truncate", "read"]), PLACES).map(
        lambda drawn: placed(*drawn)
    ),
    st.tuples(st.integers(0, 400), st.integers(0, 5), st.integers(0, 255)).map(damaged),
    st.binary(max_size=40),
    st.none(),
    st.sampled_from(sorted(LARGE)),
    st.sampled_from(sorted(ENCODINGS)),
)
KEYS = st.one_of(
    st.sampled_from([b'{"id":1}', b'{"id":990000}', b'{"id":"1"}', b"[1]", b"{}", b"x" * 70_000]),
    st.none(),
    st.binary(max_size=20),
)
HEADERS = st.lists(st.tuples(st.text(max_size=9), st.none() | st.binary(max_size=9)), max_size=3)
TIMES = st.sampled_from([0, 1, 1_000_000_000_000])
MESSAGES = st.fixed_dictionaries(
    {"value": VALUES, "key": KEYS}, optional={"headers": HEADERS, "timestamp": TIMES}
)
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
ENDINGS = ("", "commit", "abort")  # of a transaction; or there is none
EACH_ENCODING = [{"value": name, "key": b'{"id":1}'} for name in ENCODINGS]
EACH_KEY = [
    {"value": (NOW, "update", 1, 0), "key": key, "headers": [("\u202e", b"\xff"), ("", None)]}
    for key in (None, b"", b"\xff", b'{"id":990000}', b"[" * 20_000)
]


def sent(
    settings: Settings, engine: Engine, prefix: Sequence[Any], compression: str, ending: str
) -> None:
    with engine.connect() as connection:
        now = connection.scalar(text("SELECT pg_current_wal_insert_lsn()::text"))
    whole = [{**message, "value": as_of(now, message["value"])} for message in prefix]
    messages.send(settings, TOPIC, *whole, ending=ending, **{"compression.type": compression})


def as_of(position: Any, value: Any) -> bytes | None:
    if isinstance(value, str) and value in ENCODINGS:
        return ENCODINGS[value](event("update", product(1), commit_lsn=position).decode())
    if not isinstance(value, tuple):
        whole: bytes | None = LARGE.get(value, value)
        return whole
    _, operation, key, ordinal = value
    payload = {"truncate": None, "delete": {"id": key}}.get(operation, product(key))
    return event(operation, payload, commit_lsn=position, ordinal=ordinal)


@hypothesis.settings(
    max_examples=1, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate], deadline=None
)
@hypothesis.given(
    prefix=st.lists(MESSAGES, min_size=1, max_size=8),
    compression=st.sampled_from(COMPRESSIONS),
    ending=st.sampled_from(ENDINGS),
)
@hypothesis.example(
    prefix=[{"value": (NOW, "truncate", 1, 0), "key": None}, *EACH_ENCODING, *EACH_KEY],
    compression="gzip",
    ending="",
)
@hypothesis.example(
    prefix=[{"value": (NOW, "insert", 990_000, 3), "key": None}], compression="lz4", ending="abort"
)
def test_after_any_messages_tables_are_equal_or_a_check_names_what_makes_them_so(
    services: Settings, engine: Engine, prefix: list[Any], compression: str, ending: str
) -> None:
    sent(services, engine, prefix, compression, ending)
    with engine.begin() as connection:
        connection.execute(text("UPDATE products SET price = price + 1 WHERE id % 2 = 1"))
    brought_right(services)
    assert stored(services) == in_postgres(engine)
    honest(services, engine)


def brought_right(settings: Settings) -> None:
    """Run the commands that checks name, until a deep check passes."""
    for _ in range(3):
        report = deeply(settings)
        if report.passed:
            return
        for failed in report.checks:
            if failed.status == "fail":
                advised(settings, failed)
    raise AssertionError([failed.sentence() for failed in report.checks])


def deeply(settings: Settings) -> QualityReport:
    """A deep check that could be made."""

    def settled() -> QualityReport | None:
        report = wiring.quality(settings, [TABLE], deep=True)
        return report if report.settled else None

    report = until(settled, "the deep check can be made", retry=Retryable)
    assert report is not None
    return report
