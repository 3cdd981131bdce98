"""A deep check that reads a hot standby: a second server that follows the first by streaming."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from sluice import wiring
from sluice.capture.fenced_snapshot import exact_snapshot
from sluice.errors import NeedsPerson, NotReady, SluiceError
from sluice.quality.checks import Check, QualityReport
from sluice.settings import Settings
from store_api.database import make_engine
from tests.faults.pipeline import Pipeline, standby
from tests.support.background import repeating
from tests.support.oracle import change
from tests.support.pipeline import CATALOG, checked, relaying
from tests.support.waiting import until

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def replica(pipeline: Pipeline) -> Iterator[Pipeline]:
    """The standby, beside a relay that reads from the primary."""
    with relaying(pipeline.settings), standby(pipeline) as settings:
        checked(pipeline.settings)
        yield replace(pipeline, settings=settings)


@pytest.fixture
def reading(pipeline: Pipeline, replica: Pipeline) -> Settings:
    place = (replica.settings.postgres.host, replica.settings.postgres.port)
    return replace(pipeline.settings, replica=place, quality_seconds=120)


@contextmanager
def writing(of: Settings) -> Iterator[list[int]]:
    """Inserts, updates, deletes and key changes on the primary; a number for each ten of them."""
    written, chance, engine = [0], random.Random(8), make_engine(of.postgres)

    def write() -> None:
        change(engine, chance, 10)
        written[0] += 1

    try:
        with repeating(write, 0.02):
            yield written
    finally:
        engine.dispose()


def rows_checks(report: QualityReport) -> dict[str, Check]:
    return {check.table: check for check in report.checks if check.check == "rows"}


def test_corruption_is_found_by_the_standbys_rows_and_writes_on_the_primary_raise_no_alarm(
    pipeline: Pipeline,
    replica: Pipeline,
    reading: Settings,
) -> None:
    with writing(reading) as written:
        for _ in range(2):
            before = written[0]
            report = wiring.quality(reading, deep=True)
            assert not report.failures
            assert written[0] > before
        key = pipeline.sql("SELECT min(id) FROM customers")
        for _ in range(5):  # a change of the row itself, meanwhile, makes it right again
            wiring.query(
                reading,
                "INSERT INTO cdc.dim_customer SELECT * REPLACE ('odd' AS city,"
                " _version + 1 AS _version)"
                f" FROM cdc.dim_customer FINAL WHERE id = {key}",
            )
            found = rows_checks(wiring.quality(reading, deep=True))
            if found["customers"].status != "pass":
                break
    assert found["customers"].difference == f"{key} differs in city"
    assert {table for table, check in found.items() if check.status != "pass"} == {"customers"}
    read = "SELECT sum(seq_tup_read + idx_tup_fetch) > 0 FROM pg_stat_user_tables WHERE relname = "
    until(
        lambda: replica.sql(f"{read} 'order_items'") is True,
        "the check has read order_items from the standby",
    )
    wiring.resync(reading, "customers", keys=[str(key)])
    assert rows_checks(wiring.quality(reading, ["customers"], deep=True))["customers"].keys == ()


def test_a_standby_that_does_not_follow_is_said_to_be_behind(
    pipeline: Pipeline,
    replica: Pipeline,
    reading: Settings,
) -> None:
    replica.sql("SELECT pg_wal_replay_pause()")
    try:
        pipeline.change(10)
        behind = "SLUICE_QUALITY_REPLICA .* replayed the WAL up to .*, not to .*, in 1 s"
        with (
            pytest.raises(NotReady, match=behind),
            exact_snapshot(replace(reading, quality_seconds=1), lambda _: {}),
        ):
            pass
    finally:
        replica.sql("SELECT pg_wal_replay_resume()")
    with exact_snapshot(reading, lambda _: {}) as snapshot:
        assert snapshot.count(CATALOG.table("orders")) == pipeline.sql(
            "SELECT count(*) FROM orders"
        )


def test_a_server_that_is_no_standby_is_refused(
    pipeline: Pipeline,
) -> None:
    first = pipeline.settings.postgres
    itself = replace(pipeline.settings, replica=(first.host, first.port))
    with (
        pytest.raises(NeedsPerson, match="is not a standby of PostgreSQL"),
        exact_snapshot(itself, lambda _: {}),
    ):
        pass


def test_a_query_that_stands_in_the_way_of_replay_ends_and_the_check_says_so(
    pipeline: Pipeline,
    replica: Pipeline,
    reading: Settings,
) -> None:
    replica.sql("ALTER SYSTEM SET max_standby_streaming_delay = 0", "SELECT pg_reload_conf()")
    pipeline.sql("CREATE TABLE passing (id int)", "INSERT INTO passing VALUES (1)")
    dropping = threading.Timer(1, pipeline.sql, ["DROP TABLE passing"])
    try:
        with pytest.raises(NotReady, match=r"ended a query: .*conflict with recovery"):
            read_for_long(reading, "passing", dropping.start)
    finally:
        replica.sql("ALTER SYSTEM RESET max_standby_streaming_delay", "SELECT pg_reload_conf()")
        dropping.join()


def read_for_long(settings: Settings, table: str, meanwhile: Callable[[], None]) -> None:
    def passed(_: int) -> dict[str, SluiceError]:
        meanwhile()
        return {}

    with exact_snapshot(settings, passed) as snapshot:
        snapshot.rows(f"SELECT pg_sleep(60) FROM {table}")
