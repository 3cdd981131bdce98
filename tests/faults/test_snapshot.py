"""Snapshots beside writes, cut short, and held up."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count

import pytest

from sluice.capture import exported_snapshot, slot
from sluice.embedded.stack import Stack
from sluice.errors import NotReady
from sluice.settings import Settings
from tests.faults.source import Source
from tests.support.waiting import until

pytestmark = pytest.mark.services

ROWS = "INSERT INTO things SELECT i, 'old' FROM generate_series(1, 60000) i"


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
    source.sql(ROWS.replace("60000", "300000"))
    with source.process() as relay:
        until(lambda: source.topic_has("things"), "a batch of the snapshot is on the topic")
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
        until(
            lambda: set(source.rows()) == {1, 3}, "the rows that are not too large are on the topic"
        )
    assert source.too_large() == ["read"]


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
    monkeypatch.setattr(exported_snapshot, "PATIENCE", 1.0)
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; INSERT INTO things VALUES (1, 'late')")

        def end() -> None:
            with suppress(AssertionError):
                until(
                    lambda: "a transaction is open: pid" in caplog.text,
                    "the relay says what is open",
                )
                cursor.execute("COMMIT")

        ender = threading.Thread(target=end)
        ender.start()
        with source.relaying():
            ender.join(60)
            source.arrives()
    assert "a transaction is open: pid" in caplog.text
    assert set(source.rows()) == {1}


@pytest.fixture(scope="module")
def preparing(server: tuple[Settings, Stack]) -> Iterator[None]:
    """A server that prepares transactions, which it has to be started for."""
    made = Source(*server)
    made.sql("ALTER SYSTEM SET max_prepared_transactions = 5")
    with made.server_stopped():
        pass
    yield
    made.sql("ALTER SYSTEM RESET max_prepared_transactions")


@pytest.mark.parametrize("database", ["store", "postgres"])
@pytest.mark.parametrize("prepared", [False, True], ids=["of a session", "prepared"])
def test_the_transaction_that_holds_a_slot_up_is_named_and_ends_as_is_said(
    source: Source, preparing: None, monkeypatch: pytest.MonkeyPatch, prepared: bool, database: str
) -> None:
    monkeypatch.setattr(exported_snapshot, "PATIENCE", 1.0)
    settings = source.settings.postgres
    elsewhere = Source(
        replace(source.settings, postgres=replace(settings, database=database)), source.stack
    )

    def export() -> None:
        with slot.replication(settings) as holder, slot.session(settings) as cursor:
            exported_snapshot.export_snapshot(holder, cursor, source.settings.relay)

    with closing(elsewhere.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_current_xact_id()")
        if prepared:
            cursor.execute("PREPARE TRANSACTION 'it''s two-phase'")
        with pytest.raises(NotReady) as caught:
            export()
        what, remedy = str(caught.value).splitlines()
        assert f"in database {database}" in what
        if prepared:
            assert "transaction 'it''s two-phase', prepared by postgres" in what
            statement = re.search(r"or (ROLLBACK PREPARED '.*'); then", remedy)
        else:
            assert re.search(r"pid \d+ of postgres .*, open for .*pg_current_xact_id", what)
            statement = re.search(r"run (SELECT pg_terminate_backend\(\d+\)); then", remedy)
        assert statement is not None, remedy
        elsewhere.sql(statement[1])
        export()
