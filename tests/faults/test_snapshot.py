"""Snapshots beside writes, cut short, and held up."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from itertools import count

import pytest

from sluice.relay import slot
from tests.faults.source import Source, until

pytestmark = pytest.mark.services

ROWS = "INSERT INTO things SELECT i, 'old' FROM generate_series(1, 150000) i"


def test_what_is_written_and_deleted_during_a_snapshot_is_neither_lost_nor_overwritten(
    source: Source,
) -> None:
    source.sql(ROWS)
    done = threading.Event()

    def write() -> None:
        for number in count():
            if done.is_set():
                return
            source.transaction(
                f"UPDATE things SET name = 'new {number}' WHERE id % 1000 = {number % 1000}",
                f"DELETE FROM things WHERE id % 1000 = {(number + 500) % 1000}",
                f"INSERT INTO things VALUES ({200_000 + number}, 'added')",
            )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with source.relaying():
            done.set()
            writer.join(30)
            source.arrives()
    finally:
        done.set()
    assert any(row["name"].startswith("new") for row in source.rows().values())


def test_a_snapshot_that_is_killed_starts_again_and_leaves_nothing_stale(source: Source) -> None:
    source.sql(ROWS.replace("150000", "800000"))
    with source.process() as relay:
        until(lambda: source.topic_has("things"))
        relay.kill()
    assert source.confirmed() == 0
    source.sql("DELETE FROM things WHERE id % 2 = 0", "UPDATE things SET name = 'b' WHERE id < 9")
    with source.relaying():
        source.arrives()


def test_a_row_over_postgresqls_own_limit_is_a_dead_letter_and_the_snapshot_goes_on(
    source: Source,
) -> None:
    # In JSON each of these characters is six: 1.2 GB, and PostgreSQL makes no text of 1 GB.
    source.sql(
        "INSERT INTO things VALUES (1, 'a'), (2, repeat(E'\\x01', 200000000)), (3, 'c')",
    )
    with source.relaying():
        until(lambda: set(source.rows()) == {1, 3})
    assert b'{"id":2}' in source.dead_letters()


def test_a_snapshot_of_many_ranges_has_every_row_once(source: Source) -> None:
    source.sql(
        "INSERT INTO things SELECT i, repeat(md5(i::text), 60) FROM generate_series(1, 25000) i",
        "DELETE FROM things WHERE id % 3 = 0",
        "UPDATE things SET name = 'moved' WHERE id % 5 = 0",
    )
    with source.relaying():
        source.arrives()
    keys = [event["payload"]["id"] for event in source.events() if event["payload"]]
    assert len(keys) == len(set(keys)) == len(source.expected())


def test_a_transaction_that_stays_open_holds_a_snapshot_up_with_a_word(
    source: Source, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "PATIENCE", 1.0)
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; INSERT INTO things VALUES (1, 'late')")

        def end() -> None:
            deadline = time.monotonic() + 60
            while "a transaction has been open" not in caplog.text:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.1)
            cursor.execute("COMMIT")

        ender = threading.Thread(target=end)
        ender.start()
        with source.relaying():
            ender.join(60)
            source.arrives()
    assert "a transaction has been open" in caplog.text
    assert set(source.rows()) == {1}
