"""A deep check that is killed between any two effects is gone on with, and loses no finding."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from threading import Event

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture.fenced_snapshot import ExactSnapshot, Passed, exact_snapshot
from sluice.errors import SluiceError
from sluice.quality import deep_check as deep
from sluice.quality.checks import Check
from sluice.quality.deep_check import POINTS, DeepCheck
from sluice.settings import Settings
from tests.integration import stock
from tests.integration.stock import ITEMS, ROWS, restock, states
from tests.support import processes
from tests.support.background import repeating
from tests.support.oracle import change

pytestmark = [pytest.mark.services, pytest.mark.clickhouse_may_crash]
engine, forgotten = stock.engine, stock.forgotten

RANGES = 420 // ROWS
SECONDS = 120  # for the drain to pass a fence, beside a store that writes all it can


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring.checks, "DeepCheck", partial(DeepCheck, rows=ROWS))


@contextmanager
def writing(engine: Engine, seed: int) -> Iterator[None]:
    """Inserts, updates, deletes, key changes."""
    with repeating(partial(change, engine, random.Random(seed), 10), 0.3):
        yield


def killed(settings: Settings, point: str, times: int, *tables: str) -> None:
    """A check that is killed where it has reached the point so often."""
    module = "tests.integration.interrupted_check"
    arguments = (ROWS, point, times, *tables)
    processes.killed(settings, module, *arguments, SLUICE_QUALITY_SECONDS=SECONDS)


def checked(settings: Settings, *, restart: bool = False) -> Check:
    patient = replace(settings, quality_seconds=SECONDS)
    report = wiring.quality(patient, [ITEMS.name], deep=True, restart=restart)
    return next(check for check in report.checks if check.check == "rows")


def went_on(caplog: pytest.LogCaptureFixture, table: str = ITEMS.name) -> int | None:
    """Return how many ranges a resumed check skipped; None where it did not resume."""
    start = f"deep: {table}: resuming an interrupted check: "
    for record in caplog.records:
        if record.getMessage().startswith(start):
            return int(record.getMessage().removeprefix(start).split()[0])
    return None


def spoil(settings: Settings, key: int) -> None:
    wiring.query(
        settings,
        "INSERT INTO cdc.src_order_item SELECT * REPLACE (999 AS quantity, _version + 1 AS"
        f" _version) FROM cdc.src_order_item FINAL WHERE id = {key}",
    )


@pytest.mark.parametrize("point", POINTS[1:3])
def test_a_check_that_is_killed_goes_on_at_the_range_beside_writes(
    services: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    point: str,
) -> None:
    with writing(engine, seed=POINTS.index(point)):
        killed(services, point, 3, ITEMS.name)
        done = 3 if point == "range noted" else 2
        assert states(services).get("done", 0) == done
        with caplog.at_level("INFO", logger="sluice.quality.deep_check"):
            assert checked(services).status == "pass"
        assert went_on(caplog) == done


def test_what_a_killed_check_had_found_and_what_it_had_not_are_both_found_by_the_next(
    services: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert checked(services).status == "pass"
    first, last = 5, 415
    spoil(services, first)
    spoil(services, last)
    killed(services, "range compared", 4, ITEMS.name)
    with caplog.at_level("INFO", logger="sluice.quality.deep_check"):
        found = checked(services)
    assert went_on(caplog) == 2  # of the four, the first has a finding and the last was not noted
    assert set(found.keys) == {str(first), str(last)}
    assert (found.postgres, found.clickhouse) == (420, 420)
    wiring.resync(services, ITEMS.name, keys=found.keys)
    caplog.clear()
    with caplog.at_level("INFO", logger="sluice.quality.deep_check"):
        assert checked(services).status == "pass"
    assert went_on(caplog) is None  # the check before came to its end


def test_tables_that_were_compared_are_not_compared_again(
    services: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(services, "planned", 3)  # customers and products are done by then
    with caplog.at_level("INFO", logger="sluice.quality.deep_check"):
        report = wiring.quality(services, deep=True)
    assert not report.failures
    with engine.connect() as connection:
        for table in ("customers", "products"):
            ranges = went_on(caplog, table)
            assert ranges is not None
            assert ranges > 0
            rows = connection.scalar(text(f"SELECT count(*) FROM {table}"))
            (found,) = [c for c in report.checks if (c.table, c.check) == (table, "rows")]
            assert (found.postgres, found.clickhouse) == (rows, rows)
    assert went_on(caplog, "orders") == 0


def test_a_check_leaves_alone_what_another_is_at_and_finds_what_that_one_is_past(
    services: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    noted, spoiled = Event(), Event()

    def reached(point: str) -> None:
        if point == "range noted" and not noted.is_set():
            noted.set()
            assert spoiled.wait(120)

    patient = partial(DeepCheck, rows=ROWS)
    monkeypatch.setattr(wiring.checks, "DeepCheck", partial(patient, reached=reached))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(checked, services)
        try:
            assert noted.wait(120)
            monkeypatch.setattr(wiring.checks, "DeepCheck", patient)
            spoil(services, 5)  # in the range that the first has noted
            with caplog.at_level("INFO", logger="sluice.quality.deep_check"):
                found = checked(services)
        finally:
            spoiled.set()
        assert first.result().status == "pass"
    assert went_on(caplog) is None
    assert set(found.keys) == {"5"}
    wiring.resync(services, ITEMS.name, keys=found.keys)


def test_a_check_of_long_ago_is_not_gone_on_with_nor_one_that_shall_begin_anew(
    services: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(services, "range noted", 2, ITEMS.name)
    with caplog.at_level("INFO", logger="sluice.quality.deep_check"):
        assert checked(services, restart=True).status == "pass"
        killed(services, "range noted", 2, ITEMS.name)
        older = "ALTER TABLE cdc.resync_ranges UPDATE noted_at = noted_at - toIntervalMinute(61)"
        wiring.query(services, f"{older} WHERE 1 SETTINGS mutations_sync = 1")
        assert checked(services).status == "pass"
    assert went_on(caplog) is None


def test_a_long_check_holds_no_snapshot_for_long(
    services: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deep, "_HELD", 0.0)
    monkeypatch.setattr(wiring.checks, "DeepCheck", partial(DeepCheck, rows=150))
    with writing(engine, seed=2):
        assert checked(services).status == "pass"
    fences = "SELECT uniqExact(fence), count() FROM cdc.resync_ranges WHERE state = 'done'"
    ((points, ranges),) = wiring.query(services, fences)[1]
    assert points == ranges > 1


def test_a_table_that_is_truncated_when_its_snapshot_is_open_raises_no_alarm(
    services: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL shows it empty to snapshots of before, too."""
    opened: list[int] = []

    def truncating(settings: Settings, passed: Passed) -> AbstractContextManager[ExactSnapshot]:
        def then(point: int) -> Mapping[str, SluiceError]:
            behind = passed(point)
            opened.append(point)
            if len(opened) == 1:
                restock(engine)
            return behind

        return exact_snapshot(settings, then)

    monkeypatch.setattr(wiring.checks, "exact_snapshot", truncating)
    found = checked(services)
    assert (found.status, found.postgres) == ("pass", 420)
    assert len(opened) == 2


def test_progress_and_time_left_are_told(
    services: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO", logger="sluice.quality.deep_check"):
        assert checked(services).status == "pass"
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("deep_check")]
    assert lines[0].startswith(f"deep: order_items: 1 of {RANGES} ranges, {ROWS} rows compared, ")
    assert lines[0].endswith(" s left")
    assert lines[RANGES - 1] == f"deep: order_items: {RANGES} of {RANGES} ranges, 420 rows compared"
