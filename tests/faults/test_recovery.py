"""After changes were lost for good, one command brings both sides to equality; no table is dropped.

Each test loses changes on a stack of its own kind of fault, recovers, lets a relay go on, and
compares every column. The failover is the last: what its server became, it stays.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from sluice import wiring
from sluice.clients.postgres import PostgresSource
from sluice.errors import SlotLost, SlotMissing, SluiceError, SourceChanged
from sluice.repair.resync import Resync
from sluice.settings import PROJECT, Settings
from tests.faults.pipeline import Pipeline, standby
from tests.support.damage import make_again
from tests.support.pipeline import CATALOG, checked, relaying
from tests.support.services import drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services

TABLES = len(CATALOG.tables)


def lose_wal(pipeline: Pipeline) -> None:
    """Let PostgreSQL remove WAL that the slot needs."""
    pipeline.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
    try:
        for _ in range(6):
            pipeline.sql("CREATE TABLE filler (id int)", "DROP TABLE filler")
            pipeline.sql("SELECT pg_switch_wal()", "CHECKPOINT")
        until(
            lambda: (
                PostgresSource(pipeline.settings.postgres)
                .slot(pipeline.settings.relay.slot)
                .wal_status
                == "lost"
            ),
            "the slot is lost",
        )
    finally:
        pipeline.sql("ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


def drop(pipeline: Pipeline) -> None:
    drop_slot(pipeline.settings)


@pytest.mark.parametrize(("lose", "kind"), [(lose_wal, SlotLost), (drop, SlotMissing)])
def test_after_a_slot_was_lost_what_differs_is_read_again_and_nothing_else(
    pipeline: Pipeline, lose: Any, kind: type[SluiceError]
) -> None:
    pipeline.change()
    lose(pipeline)
    pipeline.change()
    error = pipeline.refused()
    assert isinstance(error, kind)
    assert error.remedy is not None
    assert "sluice recover" in error.remedy
    told = pipeline.recover()
    assert any(" keys), " in line for line in told), told
    assert not any("(all rows)" in line for line in told), told
    pipeline.equal()


def killed(pipeline: Pipeline, *where: str) -> None:
    """A recovery in a process of its own that is killed; see interrupted_recovery.py."""
    paths = f"{PROJECT}{os.pathsep}{PROJECT / 'plugins'}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.interrupted_recovery", *where],
        env={**pipeline.environment, "PYTHONPATH": paths},
        cwd=PROJECT,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert pipeline.sql("SELECT count(*) FROM pg_replication_slots WHERE NOT temporary") == 0


@pytest.mark.clickhouse_may_crash
@pytest.mark.parametrize("lines", [1, 3, 1 + TABLES])
def test_a_recovery_that_is_killed_is_finished_by_the_next(pipeline: Pipeline, lines: int) -> None:
    drop(pipeline)
    pipeline.change()
    killed(pipeline, str(lines))
    pipeline.change()
    pipeline.recover()
    pipeline.equal()


@pytest.mark.clickhouse_may_crash
def test_a_recovery_of_a_whole_table_goes_on_at_the_range_where_it_was_killed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(pipeline)
    pipeline.sql(
        "INSERT INTO order_items (id, order_id, product_id, quantity, price)"
        " SELECT 5000000 + n, (SELECT min(id) FROM orders), (SELECT min(id) FROM products), 1, n"
        " FROM generate_series(1, 2000) n"
    )
    killed(pipeline, "0", "range noted", "6")
    monkeypatch.setattr(wiring.resyncs, "Resync", partial(Resync, rows=200))
    (line,) = [line for line in pipeline.recover() if line.startswith("order_items: ")]
    found = re.search(r"; (\d+) of (\d+) ranges were equal", line)
    assert found, line
    assert int(found[1]) >= 6
    assert int(found[2]) > 10
    pipeline.equal()
    pipeline.sql("DELETE FROM order_items WHERE id > 5000000")


def test_after_slot_and_broker_were_lost_together_both_sides_are_equal_again(
    pipeline: Pipeline,
) -> None:
    drop(pipeline)
    pipeline.change()
    pipeline.broker_loss()
    pipeline.recover()
    pipeline.equal()


def test_after_a_broker_forgot_what_it_had_acknowledged_both_sides_are_equal_again(
    pipeline: Pipeline,
) -> None:
    settings = pipeline.settings
    durable = replace(settings, relay=replace(settings.relay, ack="broker"))
    with relaying(durable):
        checked(durable)
        pipeline.change()
        end = pipeline.sql("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        source = PostgresSource(settings.postgres)
        until(
            lambda: source.slot(settings.relay.slot).confirmed_lsn >= end,
            "the slot has confirmed the end",
        )
    pipeline.broker_loss()
    with relaying(settings):
        checked(settings)
        assert not wiring.quality(settings, deep=True).passed
        pipeline.recover()
    pipeline.equal()


def test_after_a_gap_in_a_topic_both_sides_are_equal_again(pipeline: Pipeline) -> None:
    with relaying(pipeline.settings):
        checked(pipeline.settings)
    make_again(pipeline.settings, "cdc.order_items")
    with relaying(pipeline.settings):
        pipeline.change()
        pipeline.recover()
    pipeline.equal()


def test_after_a_failover_that_lost_commits_both_sides_are_equal_again(
    pipeline: Pipeline,
) -> None:
    """ClickHouse has commits that the promoted standby never saw, and the other way round."""
    primary = pipeline.settings
    with relaying(primary):
        checked(primary)
        with standby(pipeline) as second:
            replica = replace(pipeline, settings=second)
            end = pipeline.sql("SELECT pg_current_wal_lsn()::text")
            until(
                lambda: replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn") is True,
                "the standby has replayed the end",
            )
            replica.sql("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
            until(
                lambda: replica.sql("SELECT count(*) FROM pg_stat_wal_receiver") == 0,
                "the standby receives no WAL",
            )
            pipeline.change()
            checked(primary)
            fail_over(pipeline, replica)


def fail_over(pipeline: Pipeline, replica: Pipeline) -> None:
    """The primary is gone, the standby takes its place and goes its own way."""
    pipeline.stack.halt(("postgres",))
    replica.sql("SELECT pg_promote()")
    until(lambda: replica.sql("SELECT NOT pg_is_in_recovery()") is True, "the standby is promoted")
    replica.change()
    assert isinstance(replica.refused(), SourceChanged)
    before = epochs(replica.settings)
    told = replica.recover()
    assert any(" keys), " in line for line in told), told
    assert epochs(replica.settings) == {name: epoch + 1 for name, epoch in before.items()}
    replica.equal()


def epochs(settings: Settings) -> dict[str, int]:
    query = "SELECT source_table, max(epoch) FROM cdc.checkpoints GROUP BY source_table"
    return dict(wiring.query(settings, query)[1])
