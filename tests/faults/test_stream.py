"""What transactions, values and schema changes the stream has to get right."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing
from dataclasses import replace

import psutil
import pytest

from sluice.events.event import UNCHANGED
from tests.faults.source import Source
from tests.support.waiting import until

pytestmark = pytest.mark.services

LARGE = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i)"


def test_rows_of_one_wal_record_are_all_kept_in_order(source: Source) -> None:
    with source.relaying(), closing(source.connect()) as connection:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO things SELECT i, 'n' FROM generate_series(1, 5000) i")
        source.arrives()
    places = [(e["metadata"]["commit_lsn"], e["metadata"]["ordinal"]) for e in source.events()[1:]]
    assert len(set(places)) == 5000


def test_a_long_value_and_then_a_short_one_leave_the_short_one(source: Source) -> None:
    with source.relaying():
        source.transaction(
            "INSERT INTO things VALUES (1, repeat('a', 2000000)), (2, repeat('a', 2000000))",
            "UPDATE things SET name = 'short'",
            "DELETE FROM things WHERE id = 1",
        )
        source.arrives()
        assert source.rows() == {2: {"id": 2, "name": "short"}}


def test_what_a_savepoint_took_back_is_not_there(source: Source) -> None:
    with source.relaying():
        source.sql(
            "DO $$ BEGIN FOR i IN 1..300 LOOP BEGIN INSERT INTO things VALUES (i, 'x');"
            " IF i % 3 = 0 THEN RAISE division_by_zero; END IF;"
            " EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$"
        )
        source.arrives()
        assert len(source.rows()) == 200


def test_keys_that_change_leave_no_ghost_and_lose_nothing(source: Source) -> None:
    source.sql("INSERT INTO things SELECT i, 'n' || i FROM generate_series(1, 20) i")
    with source.relaying():
        source.transaction(
            "UPDATE things SET id = 100 WHERE id = 1",
            "UPDATE things SET id = 101 WHERE id = 100",
            "UPDATE things SET id = 1 WHERE id = 2",
        )
        source.sql("UPDATE things SET id = id + 1000")
        source.sql("DELETE FROM things WHERE id = 1003", "INSERT INTO things VALUES (1003, 'b')")
        source.arrives()


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_a_large_value_that_was_not_changed_is_kept(source: Source, identity: str) -> None:
    source.sql(
        "ALTER TABLE things ADD large text",
        "ALTER TABLE things ALTER large SET STORAGE EXTERNAL",
        f"ALTER TABLE things REPLICA IDENTITY {identity}",
        f"INSERT INTO things VALUES (1, 'a', {LARGE}), (2, 'b', {LARGE})",
    )
    with source.relaying():
        source.sql(
            "UPDATE things SET name = 'c' WHERE id = 1", "UPDATE things SET id = 3 WHERE id = 2"
        )
        source.arrives()
    sent = {event["payload"]["large"] for event in source.events()[-2:]}
    assert (sent == {UNCHANGED}) == (identity == "DEFAULT")


def test_truncate_empties_the_table_and_those_that_refer_to_it(source: Source) -> None:
    source.sql("INSERT INTO things VALUES (1, 'a')", "INSERT INTO parts VALUES (7, 1)")
    with source.relaying():
        source.transaction("TRUNCATE things CASCADE", "INSERT INTO things VALUES (2, 'b')")
        source.arrives()
        source.arrives("parts")
        assert source.rows("parts") == {}


def test_partitions_are_followed_through_their_root(source: Source) -> None:
    source.sql(
        "DROP TABLE parts, things",
        "CREATE TABLE things (id int PRIMARY KEY, name text) PARTITION BY RANGE (id)",
        "CREATE TABLE things_low PARTITION OF things FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE things_high PARTITION OF things FOR VALUES FROM (100) TO (200)",
        "CREATE TABLE parts (id int PRIMARY KEY, thing_id int)",
        "INSERT INTO things VALUES (1, 'a'), (2, 'b'), (150, 'c')",
    )
    with source.relaying():
        source.sql(
            "UPDATE things SET id = 101 WHERE id = 1",  # moves to the other partition
            "UPDATE things SET name = 'B' WHERE id = 2",
            "CREATE TABLE things_top PARTITION OF things FOR VALUES FROM (200) TO (300)",
            "INSERT INTO things VALUES (250, 'd')",
            "DELETE FROM things WHERE id = 150",
        )
        source.arrives()
        source.transaction("TRUNCATE things", "INSERT INTO things VALUES (3, 'e')")
        source.arrives()


def test_a_truncate_of_one_partition_is_not_sent_and_a_snapshot_repairs_it(source: Source) -> None:
    source.sql(
        "DROP TABLE parts, things",
        "CREATE TABLE things (id int PRIMARY KEY, name text) PARTITION BY RANGE (id)",
        "CREATE TABLE things_low PARTITION OF things FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE things_high PARTITION OF things FOR VALUES FROM (100) TO (200)",
        "CREATE TABLE parts (id int PRIMARY KEY, thing_id int)",
        "INSERT INTO things VALUES (1, 'a'), (150, 'b')",
    )
    with source.relaying():
        source.transaction("TRUNCATE things_low", "INSERT INTO things VALUES (2, 'c')")
        until(lambda: 2 in source.rows(), "row 2 is on the topic")
        assert set(source.rows()) - set(source.expected()) == {1}
    with source.relaying(snapshot=True):
        source.arrives()
        assert set(source.rows()) == {2, 150}


def test_a_relay_killed_between_a_schema_change_and_its_first_row_knows_the_new_columns(
    source: Source,
) -> None:
    source.sql("INSERT INTO things VALUES (1, 'a')")
    with source.process() as relay:
        until(lambda: source.confirmed() > 0 and source.active(), "the relay reads from its slot")
        source.sql("INSERT INTO things VALUES (2, 'b')")
        until(lambda: 2 in source.rows(), "row 2 is on the topic")  # it knows the columns of before
        source.sql("ALTER TABLE things DROP name, ADD size int, ADD colour text DEFAULT 'red'")
        changed = source.lsn()
        until(lambda: source.confirmed() >= changed, "the slot has confirmed the new columns")
        relay.kill()
    until(lambda: not source.active(), "no session reads from the slot")
    source.sql("INSERT INTO things VALUES (3, 7, 'blue')")
    with source.relaying():
        source.sql("UPDATE things SET size = 1 WHERE id = 1", "INSERT INTO things VALUES (4, 8)")
        until(lambda: 4 in source.rows(), "row 4 is on the topic")
        changed_rows = {key: row for key, row in source.expected().items() if key != 2}
        assert {key: source.rows()[key] for key in (1, 3, 4)} == changed_rows


def test_columns_that_come_go_and_change_their_name_are_told_apart(source: Source) -> None:
    with source.relaying():
        source.transaction(
            "INSERT INTO things VALUES (1, 'a')",
            "ALTER TABLE things ADD colour text DEFAULT 'red', ADD size int",
            "INSERT INTO things VALUES (2, 'b', 'blue', 5)",
        )
        source.sql(
            "ALTER TABLE things DROP colour",
            "INSERT INTO things VALUES (3, 'c', 6)",
            "ALTER TABLE things ADD colour text",
            "ALTER TABLE things RENAME size TO width",
            "INSERT INTO things VALUES (4, 'd', 7, 'green')",
            "ALTER TABLE things ALTER width TYPE text",
            "INSERT INTO things VALUES (5, 'e', 'wide', NULL)",
        )
        until(lambda: len(source.rows()) == 5, "5 rows are on the topic")
    assert [event["payload"] for event in source.events()[1:]] == [
        {"id": 1, "name": "a"},
        {"id": 2, "name": "b", "colour": "blue", "size": 5},
        {"id": 3, "name": "c", "size": 6},
        {"id": 4, "name": "d", "width": 7, "colour": "green"},
        {"id": 5, "name": "e", "width": "wide", "colour": None},
    ]


def test_a_value_that_was_added_to_an_enum_arrives(source: Source) -> None:
    source.sql(
        "DROP TYPE IF EXISTS mood CASCADE",
        "CREATE TYPE mood AS ENUM ('calm')",
        "ALTER TABLE things ADD mood mood",
    )
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a', 'calm')")
        source.sql("ALTER TYPE mood ADD VALUE 'wild'", "INSERT INTO things VALUES (2, 'b', 'wild')")
        source.arrives()


def test_a_role_with_settings_of_its_own_gives_the_same_text(source: Source) -> None:
    source.sql(
        "ALTER TABLE things ADD made timestamptz, ADD day date, ADD bits bytea, ADD span interval",
        "ALTER ROLE postgres SET datestyle = 'German'",
        "ALTER ROLE postgres SET intervalstyle = 'iso_8601'",
        "ALTER ROLE postgres SET bytea_output = 'escape'",
        "ALTER ROLE postgres SET timezone = 'Asia/Tokyo'",
    )
    values = "'2026-02-03 04:05:06.7Z', '2026-02-03', '\\x00ff', '1 day 02:00'"
    try:
        source.sql(f"INSERT INTO things VALUES (1, 'a', {values})")
        with source.relaying():
            source.sql(f"INSERT INTO things VALUES (2, 'a', {values})")
            until(lambda: len(source.rows()) == 2, "2 rows are on the topic")
    finally:
        source.sql("ALTER ROLE postgres RESET ALL")
    (one, two) = ({**row, "id": 0} for row in source.rows().values())
    assert one == two
    assert one["made"] == "2026-02-03T04:05:06.7Z"
    assert (one["day"], one["bits"], one["span"]) == ("2026-02-03", "AP8=", "1 day 02:00:00")


def test_a_row_over_the_brokers_limit_is_a_dead_letter_and_the_slot_goes_on(
    source: Source,
) -> None:
    kafka = source.settings.kafka
    source.limit(replace(kafka, options={**kafka.options, "message.max.bytes": "2000000"}))
    with source.relaying():
        source.sql(
            "INSERT INTO things VALUES (1, repeat('ab', 3000000))",
            "INSERT INTO things VALUES (2, 'small')",
        )
        end = source.lsn()
        until(
            lambda: source.rows() == {2: {"id": 2, "name": "small"}},
            "the small row alone is on the topic",
        )
        until(lambda: source.confirmed() >= end, "the slot has confirmed the end")
    assert source.too_large() == ["insert"]


def test_a_transaction_of_a_million_rows_is_read_in_little_memory(source: Source) -> None:
    with source.process() as relay:
        until(lambda: source.confirmed() > 0, "the relay has its slot")
        source.sql("INSERT INTO things SELECT i, 'row ' || i FROM generate_series(1, 1000000) i")
        end, used = source.lsn(), [0]

        def read() -> bool:
            used.append(relay.memory_info().rss)
            return source.confirmed() >= end

        until(read, "the slot has confirmed the end", 600, pause=0.2)
    assert max(used) < 400_000_000
    assert len(source.keys()) == 1_000_000


def test_a_relay_killed_in_a_large_transaction_sends_it_again_from_its_beginning(
    source: Source,
) -> None:
    with source.process() as relay:
        until(lambda: source.confirmed() > 0 and source.active(), "the relay reads from its slot")
        source.sql("INSERT INTO things SELECT i, 'row ' || i FROM generate_series(1, 120000) i")
        end = source.lsn()
        until(
            lambda: source.topic_has("things", 2), "a batch of the transaction is on the topic"
        )  # the first is the snapshot's
        relay.kill()
    assert source.confirmed() < end
    with source.relaying():
        source.arrives()


def test_a_broker_that_stands_still_costs_neither_rows_nor_the_slot(source: Source) -> None:
    source.sql("ALTER SYSTEM SET wal_sender_timeout = '3s'", "SELECT pg_reload_conf()")
    try:
        with source.relaying():
            broker = source.broker()
            broker.send_signal(signal.SIGSTOP)
            try:
                source.sql("INSERT INTO things SELECT i, 'n' FROM generate_series(1, 1000) i")
                time.sleep(8)  # longer than wal_sender_timeout, that is the fault
            finally:
                broker.send_signal(signal.SIGCONT)
            source.arrives()
    finally:
        source.sql("ALTER SYSTEM RESET wal_sender_timeout", "SELECT pg_reload_conf()")


def test_a_commit_that_waits_for_a_standby_is_not_lost(source: Source) -> None:
    with source.relaying():
        waiting = threading.Thread(target=source.sql, args=["INSERT INTO things VALUES (1, 'a')"])
        source.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        source.sql("SELECT pg_reload_conf()")
        try:
            waiting.start()
            until(
                lambda: 1 in source.rows(), "row 1 is on the topic"
            )  # decoded before anybody can see it
            assert source.expected() == {}
        finally:
            source.sql("SET synchronous_commit = local", "SELECT 1")
            source.sql("ALTER SYSTEM RESET synchronous_standby_names")
            source.sql("SELECT pg_reload_conf()")
        waiting.join(30)
        source.arrives()


def test_relays_that_are_killed_again_and_again_lose_and_invent_nothing(source: Source) -> None:
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            source.transaction(
                f"INSERT INTO things SELECT {number} * 100 + i, 'n' FROM generate_series(1, 50) i",
                f"UPDATE things SET name = 'm{number}' WHERE id % 7 = {number % 7}",
                f"DELETE FROM things WHERE id < {number} * 100 - 1000",
            )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for seconds in (0.5, 2.0, 3.1, 2.3, 2.7):
            with source.process() as relay:
                time.sleep(seconds)
                with_children = [relay, *relay.children(recursive=True)]
                for process in with_children:
                    process.kill()
                psutil.wait_procs(with_children, 10)
    finally:
        done.set()
        writer.join(30)
    with source.relaying():
        source.arrives()
