"""Slots, servers and publications that are not what the relay left."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2.extras import LogicalReplicationConnection

from sluice.capture import initial_copy as snapshot
from sluice.capture import relay as run
from sluice.capture.initial_copy import replacing
from sluice.clients.postgres import PostgresSource, connection_options
from sluice.clients.topics import Topics
from sluice.drain.kafka_log import KafkaLog
from sluice.errors import (
    NeedsPerson,
    PublicationIncomplete,
    SlotBusy,
    SlotLost,
    SlotMissing,
    SlotRecreated,
    SourceChanged,
)
from sluice.operate.doctor import postgres as doctor
from sluice.operate.health import slot_concerns
from sluice.operate.overview import Slot
from sluice.quality.measures import slot_checks
from tests.faults.source import CATALOG, Relaying, Source, version
from tests.support.waiting import until

pytestmark = pytest.mark.services


def test_of_two_commits_side_by_side_the_one_that_is_not_drained_is_sent_again(
    source: Source,
) -> None:
    with source.relaying():
        source.arrives()
    source.ack("drained")
    with source.relaying(), closing(KafkaLog(source.settings.kafka)) as changes:
        source.sql("INSERT INTO things VALUES (1, 'a')")
        until(
            lambda: len(source.events()) == 2, "there are 2 events"
        )  # read by itself, so it is confirmed by itself
        source.sql("INSERT INTO things VALUES (2, 'b')")
        until(lambda: len(source.events()) == 3, "there are 3 events")
        one, two = (version(event)[0] for event in source.events()[1:])
        changes.commit({"cdc.things": 2})  # the snapshot's end and the first
        until(lambda: source.confirmed() > one, "the slot has confirmed the first change")
        assert source.confirmed() <= two
    with source.relaying():
        until(lambda: len(source.events()) == 4, "there are 4 events")
    assert [event["payload"]["id"] for event in source.events()[1:]] == [1, 2, 2]


def test_confirming_a_row_that_is_shorter_in_the_wal_loses_nothing(source: Source) -> None:
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, repeat('a', 2000000))")
        source.arrives()
        end = source.lsn()
        until(lambda: source.confirmed() >= end, "the slot has confirmed the end")
        assert source.confirmed() <= source.lsn()
    source.sql("INSERT INTO things VALUES (2, 'b')", "INSERT INTO things VALUES (3, 'c')")
    with source.relaying():
        source.arrives()


SETTINGS = {"max_slot_wal_keep_size": "1MB", "idle_replication_slot_timeout": "1s"}


@pytest.mark.parametrize(("setting", "least"), SETTINGS.items())
def test_a_slot_that_is_lost_stops_the_relay_until_a_new_snapshot_and_the_setting_is_named(
    source: Source, setting: str, least: str
) -> None:
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a')")
        source.arrives()
    source.sql(f"ALTER SYSTEM SET {setting} = '{least}'", "SELECT pg_reload_conf()")
    try:
        until(lambda: invalidated(source), "the slot is invalidated")
        source.sql("INSERT INTO things VALUES (2, 'b')", "DELETE FROM things WHERE id = 1")
        with source.relaying() as relaying:
            error = relaying.ends()
        assert isinstance(error, SlotLost)
        remedies = told_of_the_slot(source)
        remedies["relay"] = error.remedy or ""
    finally:
        source.sql(f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")
    for remedy in remedies.values():
        assert setting in remedy, remedies
        assert "sluice recover" in remedy
        assert not (SETTINGS.keys() - {setting}) & set(re.findall(r"\w+", remedy)), remedies
    with source.relaying(snapshot=True):
        source.arrives()


def invalidated(source: Source) -> bool:
    """Write more WAL than a slot may hold, let time pass, and look whether the slot is lost."""
    source.sql("INSERT INTO parts VALUES (1, NULL)", "DELETE FROM parts")
    source.sql("SELECT pg_switch_wal()", "CHECKPOINT")
    state = PostgresSource(source.settings.postgres).find_slot(source.slot)
    return state is not None and state.wal_status == "lost"


def told_of_the_slot(source: Source) -> dict[str, str]:
    """Where a lost slot is told -> what it says is to be done."""
    settings = source.settings
    state = PostgresSource(settings.postgres).find_slot(source.slot)
    checks = {check.check: check for check in slot_checks(source.slot, state)}
    found = {one.check: one for one in doctor.checks(settings, CATALOG)}
    assert state is not None
    shown = Slot(
        name=source.slot,
        wal_status=state.wal_status,
        active=state.active,
        lag_bytes=0,
        invalidation=state.invalidation,
    )
    (concern,) = slot_concerns(shown)
    return {
        "wal_status": checks["wal_status"].repair,
        "doctor": found["slot"].remedy,
        "page": concern.remedy,
    }


def test_a_slot_that_is_gone_is_not_made_again_in_silence(source: Source) -> None:
    with source.relaying():
        source.arrives()
    source.drop_slot()
    with source.relaying() as relaying:
        assert isinstance(relaying.ends(), SlotMissing)
    assert source.confirmed() == 0


def test_a_slot_that_was_made_again_is_refused_until_a_new_snapshot(source: Source) -> None:
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a')")
        source.arrives()
        until(
            lambda: Topics(source.settings.kafka).mark(source.slot).transactions > 0,
            "the position of the slot is noted on the broker",
        )
    with source.relaying():  # the same slot is no other
        source.sql("INSERT INTO things VALUES (2, 'b')")
        source.arrives()
    source.drop_slot()
    source.sql("DELETE FROM things WHERE id = 1")
    source.sql(f"SELECT pg_create_logical_replication_slot('{source.slot}', 'pgoutput')")
    with source.relaying() as relaying:
        assert isinstance(relaying.ends(), SlotRecreated)
    with source.relaying(snapshot=True):
        source.arrives()
    with source.relaying():
        source.arrives()


def test_a_new_snapshot_that_is_killed_leaves_the_slot_as_it_is(source: Source) -> None:
    source.sql("INSERT INTO things SELECT i, 'old' FROM generate_series(1, 100000) i")
    with source.relaying():
        source.arrives()
        until(
            lambda: Topics(source.settings.kafka).mark(source.slot).transactions > 0,
            "the position of the slot is noted on the broker",
        )
    until(lambda: not source.active(), "no session reads from the slot")
    before, batches = source.confirmed(), source.batches("things")
    with source.process("--snapshot") as relay:
        until(
            lambda: source.topic_has("things", batches + 1),
            "a batch of the snapshot is on the topic",
        )
        relay.kill()
    assert source.confirmed() == before
    source.sql("DELETE FROM things WHERE id % 2 = 0", "UPDATE things SET name = 'b' WHERE id < 9")
    with source.relaying():
        source.arrives()


def test_a_relay_killed_after_it_dropped_its_slot_takes_the_snapshot_again(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a'), (2, 'b')")
        source.arrives()
        until(
            lambda: Topics(source.settings.kafka).mark(source.slot).transactions > 0,
            "the position of the slot is noted on the broker",
        )
    until(lambda: not source.active(), "no session reads from the slot")

    def dies(*_: Any) -> None:
        raise NeedsPerson("killed")

    with monkeypatch.context() as killing:
        killing.setattr(snapshot, "_make_slot", dies)
        relaying = Relaying(source.settings, True)
        assert str(relaying.ends()) == "killed"
    assert source.confirmed() == 0
    source.sql("DELETE FROM things WHERE id = 1")
    with source.relaying():
        source.arrives()


def test_what_the_server_counts_of_a_replaced_slot_is_not_noted_for_the_new_one(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.DUTIES, run.HEARTBEAT, 0.01)
    with source.relaying():
        for number in range(20):
            source.sql(f"INSERT INTO things VALUES ({number}, 'a')")
        source.arrives()
        until(
            lambda: Topics(source.settings.kafka).mark(source.slot).transactions > 9,
            "the position of the slot is noted on the broker",
        )
    until(lambda: not source.active(), "no session reads from the slot")
    with source.relaying(snapshot=True):
        source.arrives()
    with source.relaying() as relaying:
        source.arrives()
        assert relaying.error is None


def test_a_slot_that_was_made_again_is_refused_although_the_server_crashed_since(
    source: Source,
) -> None:
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a')")
        source.arrives()
        source.crash_server()  # the same slot is no other
        source.sql("INSERT INTO things VALUES (2, 'b')")
        source.arrives()
        end = source.lsn()
        until(
            lambda: Topics(source.settings.kafka).mark(source.slot).wal >= end,
            "the position of the slot is noted on the broker",
        )
    source.drop_slot()
    source.sql("DELETE FROM things WHERE id = 1")
    source.sql(f"SELECT pg_create_logical_replication_slot('{source.slot}', 'pgoutput')")
    source.crash_server()
    with source.relaying() as relaying:
        assert isinstance(relaying.ends(), SlotRecreated)


def test_a_second_relay_waits_for_the_first_to_end(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    with source.relaying(), source.relaying() as second:
        until(
            lambda: "in use by another relay" in caplog.text, "the second relay notices the first"
        )
        assert second.error is None
        source.sql("INSERT INTO things VALUES (1, 'a')")
        source.arrives()
    with source.relaying():
        source.sql("INSERT INTO things VALUES (2, 'b')")
        source.arrives()


def test_a_slot_ahead_of_the_servers_wal_is_refused(source: Source) -> None:
    with source.relaying():
        source.arrives()
    until(lambda: not source.active(), "no session reads from the slot")
    options = connection_options(source.settings.postgres)
    session = psycopg2.connect(**options, connection_factory=LogicalReplicationConnection)
    with closing(session), session.cursor() as cursor:
        arguments = {"proto_version": "1", "publication_names": source.settings.relay.publication}
        cursor.start_replication(slot_name=source.slot, decode=False, options=arguments)
        ahead = source.lsn() + (1 << 40)
        until(
            lambda: fed_back(cursor, ahead) and source.confirmed() == ahead,
            "the slot has confirmed a position ahead",
        )
    until(lambda: not source.active(), "no session reads from the slot")
    with source.relaying() as relaying:
        assert isinstance(relaying.ends(), SourceChanged)


def fed_back(cursor: Any, lsn: int) -> bool:
    cursor.read_message()
    cursor.send_feedback(flush_lsn=lsn, force=True)
    return True


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("DROP PUBLICATION {0}", "changes of all tables since then are not sent"),
        (
            "DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE things, parts",
            "which changes of which tables it did not send then is unknown",
        ),
        (
            "ALTER PUBLICATION {0} SET (publish = 'insert')",
            "leaves out operations of every table, so none can be sent without the others",
        ),
    ],
)
def test_a_publication_that_serves_no_table_is_refused_with_the_reason(
    source: Source, change: str, why: str
) -> None:
    with source.relaying():
        source.arrives()
    source.sql(change.format(source.settings.relay.publication))
    with source.relaying() as relaying:
        error = relaying.ends()
    assert isinstance(error, PublicationIncomplete)
    assert why in error.what
    assert "sluice recover" in str(error.remedy)


def test_a_table_that_cannot_be_parked_is_waited_for_and_named(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    """ClickHouse does not answer, so what would be left out cannot be noted."""
    with source.relaying():
        source.arrives()
    confirmed = source.confirmed()
    source.sql(f"ALTER PUBLICATION {source.settings.relay.publication} DROP TABLE things")
    with source.relaying() as relaying:
        until(
            lambda: "cannot be left out alone, as ClickHouse does not accept" in caplog.text,
            "the relay says why the table cannot be left out alone",
        )
        assert relaying.error is None
    assert 'lacks "public"."things"' in caplog.text
    assert source.confirmed() == confirmed


def test_tables_without_the_models_key_are_refused_before_they_are_published(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    source.sql("ALTER TABLE parts DROP CONSTRAINT parts_pkey", "INSERT INTO parts VALUES (1, NULL)")
    with source.relaying() as relaying:
        assert isinstance(relaying.ends(), NeedsPerson)
    assert source.sql("SELECT 1 FROM pg_publication WHERE pubname LIKE '%faults%'") == []
    source.sql("UPDATE parts SET id = 2")
    source.sql("ALTER TABLE parts ADD PRIMARY KEY (id) DEFERRABLE")
    with source.relaying() as relaying:
        assert "deferrable" in str(relaying.ends())
    source.sql("ALTER TABLE parts DROP CONSTRAINT parts_pkey, ADD PRIMARY KEY (id)")
    with source.relaying():
        source.sql("ALTER TABLE parts RENAME id TO number", "INSERT INTO parts VALUES (3, NULL)")
    with source.relaying() as relaying:  # it waits for a ClickHouse that takes the note
        until(
            lambda: "its changes cannot be left out alone" in caplog.text,
            "the relay says that changes cannot be left out alone",
        )
        assert relaying.error is None


def test_the_slot_of_an_idle_table_moves_on_when_others_are_written(source: Source) -> None:
    source.sql("CREATE TABLE IF NOT EXISTS busy (id int)")
    with source.relaying():
        source.sql("INSERT INTO busy SELECT i FROM generate_series(1, 100000) i")
        end = source.lsn()
        until(lambda: source.confirmed() > end, "the slot has confirmed the end")
    source.sql("DROP TABLE busy")


def test_a_replacement_that_fails_leaves_the_slot_as_it_is(source: Source) -> None:
    slot = (
        "SELECT confirmed_flush_lsn::text, restart_lsn::text, wal_status FROM pg_replication_slots"
        f" WHERE slot_name = '{source.slot}'"
    )
    topics = Topics(source.settings.kafka)
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a')")
        source.arrives()
        with (
            pytest.raises(SlotBusy, match="in use by another relay"),
            replacing(source.settings, CATALOG, topics),
        ):
            pass
    source.sql("INSERT INTO things VALUES (2, 'b')")
    until(lambda: not source.active(), "no session reads from the slot")
    before = source.sql(slot)
    with (
        pytest.raises(NeedsPerson, match="a query failed"),
        replacing(source.settings, CATALOG, topics),
    ):
        raise NeedsPerson("a query failed")
    assert source.sql(slot) == before
    with source.relaying():  # which has a snapshot no second time
        source.arrives()
        events = [event["metadata"]["operation"] for event in source.events()]
        assert events == ["truncate", "insert", "insert"]
