"""Servers whose WAL is not the one that the relay knew; what a server became, it stays."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sluice.clients.topics import Topics
from sluice.errors import SourceChanged
from tests.faults.source import Source
from tests.support.waiting import until

pytestmark = pytest.mark.services


def test_a_server_that_was_restored_from_a_copy_is_refused(source: Source) -> None:
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a')")
        source.arrives()
    with source.server_stopped() as data:
        copied = data.with_name("yesterday")
        copy(data, copied)
    with source.relaying():
        source.sql("INSERT INTO things SELECT i, 'after' FROM generate_series(2, 2000) i")
        source.arrives()
        end = source.lsn()
        until(
            lambda: Topics(source.settings.kafka).mark(source.slot).wal > end,
            "the position of the slot is noted on the broker",
        )
    with source.server_stopped() as data:
        shutil.rmtree(data)
        copied.rename(data)
    with source.relaying() as relaying:
        assert isinstance(relaying.ends(), SourceChanged)


def copy(data: Path, to: Path) -> None:
    """A copy of the server's files, with their owner."""
    subprocess.run(["cp", "-a", str(data), str(to)], check=True)


def test_a_server_that_was_promoted_is_refused(source: Source) -> None:
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a')")
        source.arrives()
    with source.server_stopped() as data:
        (data / "standby.signal").touch()
    source.sql("SELECT pg_promote()")
    until(
        lambda: source.sql("SELECT NOT pg_is_in_recovery()") == [(True,)], "PostgreSQL is promoted"
    )
    source.sql("CHECKPOINT")
    with source.relaying() as relaying:
        error = relaying.ends()
    assert isinstance(error, SourceChanged)
    assert "timeline" in str(error)
