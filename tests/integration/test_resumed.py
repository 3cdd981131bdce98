"""A resync that is killed between any two effects, beside a store that writes, is gone on with."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture import slot as slots
from sluice.catalog.key_selection import Selection
from sluice.errors import NeedsPerson, Unreachable
from sluice.repair import resync
from sluice.repair.resync import POINTS, Resync
from sluice.settings import Settings
from tests.integration import stock
from tests.integration.stock import ITEMS, ROWS, STOCK, restock, states
from tests.support import processes
from tests.support.background import repeating
from tests.support.damage import corrupt, make_again
from tests.support.oracle import change
from tests.support.pipeline import assert_fact_equals_join, checked
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.clickhouse_may_crash]
engine, forgotten = stock.engine, stock.forgotten


@contextmanager
def writing(engine: Engine, seed: int) -> Iterator[None]:
    """Inserts, updates, deletes, key changes, and now and then a truncation."""
    chance = random.Random(seed)

    def write() -> None:
        change(engine, chance, 60)
        restock(engine)

    with repeating(write, 0.6):
        yield


def killed(
    settings: Settings, point: str, times: int, what: str = "resync", rows: int = ROWS
) -> None:
    """A resync, or a repair, that is killed where it has reached the point so often."""
    module = "tests.integration.interrupted_resync"
    processes.killed(settings, module, what, ITEMS.name, rows, point, times)


def test_every_point_is_reached_and_each_range_has_a_fence_of_its_own(
    services: Settings, engine: Engine
) -> None:
    passed: list[str] = []
    with wiring.resyncing(services, ITEMS) as step:
        report = replace(step, rows=ROWS, reached=passed.append).run(ITEMS, Selection())
    assert set(passed) == set(POINTS)
    ranges = passed.count("range noted")
    assert ranges >= 5
    assert report.before == (0, ranges)
    fences = "SELECT uniqExact(fence) FROM cdc.resync_ranges WHERE state = 'done'"
    assert wiring.query(services, fences)[1] == [(ranges,)]
    assert states(services) == {"done": ranges}


@pytest.mark.parametrize(
    ("point", "times"), [*((point, 3) for point in POINTS[1:-1]), (POINTS[2], 1)]
)
def test_a_resync_that_is_killed_goes_on_at_the_range_beside_writes(
    services: Settings, engine: Engine, point: str, times: int
) -> None:
    corrupt(services)
    with writing(engine, seed=POINTS.index(point)):
        killed(services, point, times)
        done = times if point == "range noted" else times - 1
        assert states(services).get("done", 0) == done
        report = wiring.resync(services, "order_items")
    assert report.before[0] == done
    assert states(services) == {"done": report.before[1]}
    assert_fact_equals_join(services, engine)


def write_everywhere(engine: Engine, number: int) -> None:
    """An update, a delete, a key change and an insert in every range."""
    with engine.begin() as connection:
        for statement in (
            "UPDATE order_items SET quantity = 70 + :n WHERE id % 7 = :n % 7",
            "DELETE FROM order_items WHERE id % 29 = :n % 29",
            "UPDATE order_items SET id = id + 1000000 * (:n + 1) WHERE id % 31 = :n % 31",
            "INSERT INTO order_items (id, order_id, product_id, quantity, price)"
            " SELECT -:n - 1, order_id, product_id, 1, 1 FROM order_items LIMIT 1",
        ):
            connection.execute(text(statement), {"n": number})


@pytest.mark.parametrize("point", POINTS)
def test_updates_deletes_key_changes_and_a_truncate_win_at_whatever_point_they_come(
    services: Settings, engine: Engine, point: str
) -> None:
    corrupt(services)
    passed: list[str] = []
    with ThreadPoolExecutor(1) as beside, wiring.resyncing(services, ITEMS) as step:
        emptied: list[Future[None]] = []

        def reached(at: str) -> None:
            passed.append(at)
            if at == point and passed.count(at) == 4:  # it waits where the range's rows are read
                emptied.append(beside.submit(restock, engine))
            elif at == point:
                write_everywhere(engine, passed.count(at))

        replace(step, rows=ROWS, reached=reached).run(ITEMS, Selection())
        for truncation in emptied:
            truncation.result()
    assert passed.count(point) in {1, passed.count("range noted")}
    assert_fact_equals_join(services, engine)


@pytest.mark.parametrize("point", ["planned", "run recorded"])
def test_a_resync_that_is_killed_before_or_after_all_ranges_is_done_whole_by_the_next(
    services: Settings, engine: Engine, point: str
) -> None:
    corrupt(services)
    with writing(engine, seed=11):
        killed(services, point, 1)
        assert wiring.resync(services, "order_items").before[0] == 0
    assert_fact_equals_join(services, engine)


READERS = 3


@pytest.fixture
def several(services: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Several readers, and ranges that are small enough for each of them to have some."""
    monkeypatch.setattr(wiring.resyncs, "Resync", partial(Resync, rows=ROWS))
    return replace(services, copy_readers=READERS)


@pytest.mark.parametrize(("lower", "upper"), [("", ""), ("1", "300")])
def test_ranges_are_read_by_several_readers_beside_writes(
    several: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    lower: str,
    upper: str,
) -> None:
    """Those of the first ranges meet, which takes that many at once."""
    meeting, fences, writes = threading.Barrier(READERS, timeout=60), count(), count()

    def reached(point: str) -> None:
        if point == "fence taken" and next(fences) < READERS:
            meeting.wait()

    def write() -> None:
        write_everywhere(engine, next(writes))

    read_by = partial(Resync, rows=ROWS, reached=reached)
    monkeypatch.setattr(wiring.resyncs, "Resync", read_by)
    checked(several)
    wiring.query(several, "DELETE FROM cdc.src_order_item WHERE id <= 300 AND id % 30 = 1")
    with repeating(write, 0.3), caplog.at_level("INFO", logger="sluice.repair.resync"):
        report = wiring.resync(several, ITEMS.name, lower=lower, upper=upper)
    ranges = report.before[1]
    assert states(several) == {"done": ranges}
    told = [r.getMessage() for r in caplog.records if " ranges, " in r.getMessage()]
    counted = [f"resync: order_items: {n} of {ranges} ranges, " for n in range(1, ranges + 1)]
    assert [line[: len(start)] for line, start in zip(told, counted, strict=True)] == counted
    assert f", {report.rows} rows read again" in told[-1]
    assert_fact_equals_join(several, engine)


@pytest.mark.parametrize("point", ["rows sent", "rows stored", "rows drained", "range noted"])
def test_several_readers_that_are_killed_leave_the_other_ranges_to_the_next_run(
    several: Settings, engine: Engine, point: str
) -> None:
    def resumed() -> tuple[int, resync.ResyncReport]:
        return states(several).get("done", 0), wiring.resync(several, ITEMS.name)

    corrupt(several)
    with writing(engine, seed=POINTS.index(point)):
        killed(several, point, 4)
        # The embedded ClickHouse ends beside so many killed clients, and starts again.
        done, report = until(resumed, "the next run ends", retry=(Unreachable,))
    assert report.before[0] == done >= 4 - READERS
    assert states(several) == {"done": report.before[1]}
    assert_fact_equals_join(several, engine)


def test_a_reader_that_fails_ends_the_others_and_leaves_nothing_behind(
    several: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works: list[resync._Work] = []
    meeting = threading.Barrier(READERS, timeout=60)

    class Work(resync._Work):
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)  # type: ignore[arg-type]
            works.append(self)

    def reached(point: str) -> None:
        if point == "fence taken":
            if meeting.wait() == 0:
                raise Unreachable("a reader fails")
            assert works[0].stop.wait(60)

    monkeypatch.setattr(resync, "_Work", Work)
    corrupt(several)
    caplog.set_level("INFO")
    with wiring.resyncing(several, ITEMS) as step, pytest.raises(Unreachable, match="reader fails"):
        replace(step, reached=reached).run(ITEMS, Selection())
    assert set(states(several)) == {"open"}
    assert caplog.text.count("is left to the next run") == READERS - 1
    with slots.session(several.postgres) as cursor:
        cursor.execute("SELECT count(*) FROM pg_replication_slots WHERE temporary")
        assert cursor.fetchone() == (0,)
    assert wiring.resync(several, ITEMS.name).before[0] == 0
    assert_fact_equals_join(several, engine)


def test_shares_of_the_ranges_are_read_side_by_side_and_are_all_of_them(
    services: Settings, engine: Engine
) -> None:
    corrupt(services)
    with wiring.resyncing(services, ITEMS) as step:
        plan = replace(step, rows=ROWS).plan(ITEMS, Selection())
    with writing(engine, seed=5), ThreadPoolExecutor(3) as pool:
        shares = pool.map(
            lambda share: wiring.resync_share(services, ITEMS.name, plan.run, share, 3), range(3)
        )
        done = list(shares)
    assert states(services) == {"done": len(plan.ranges)}
    assert "(all rows, share 3 of 3)" in done[2].sentence()
    again = wiring.resync_share(services, ITEMS.name, plan.run, 0, 3).sentence()
    assert again == "order_items: nothing is left to read (all rows, share 1 of 3)"
    assert_fact_equals_join(services, engine)


def test_shares_whose_ranges_a_gap_took_back_are_refused(
    services: Settings, engine: Engine
) -> None:
    plan = wiring.plan_resync(services, ITEMS.name)
    make_again(services, ITEMS.topic)
    with pytest.raises(NeedsPerson, match="changes were lost"):
        wiring.resync_share(services, ITEMS.name, plan.run, 0, 1)
    wiring.resync(services, ITEMS.name)
    assert_fact_equals_join(services, engine)


def test_what_was_asked_for_otherwise_is_not_gone_on_with(
    services: Settings, engine: Engine
) -> None:
    with engine.begin() as connection:
        last = connection.scalar(text("SELECT max(id) FROM order_items"))
    killed(services, "range noted", 2)
    assert wiring.resync(services, "order_items", upper=str(last)).before[0] == 0
    assert wiring.resync(services, "order_items", restart=True).before[0] == 0
    assert_fact_equals_join(services, engine)


def test_a_gap_in_the_topic_takes_back_the_ranges_that_were_done(
    services: Settings, engine: Engine
) -> None:
    killed(services, "range noted", 3)
    make_again(services, ITEMS.topic)
    with engine.begin() as connection:
        connection.execute(text("UPDATE order_items SET quantity = quantity + 1"))
    assert wiring.resync(services, "order_items").before[0] == 0
    assert_fact_equals_join(services, engine)


def test_an_unfinished_run_of_long_ago_is_not_gone_on_with(
    services: Settings, engine: Engine
) -> None:
    killed(services, "range noted", 2)
    older = "ALTER TABLE cdc.resync_ranges UPDATE noted_at = noted_at - toIntervalHour(7)"
    wiring.query(services, f"{older} WHERE 1 SETTINGS mutations_sync = 1")
    assert wiring.resync(services, "order_items").before[0] == 0


@pytest.mark.parametrize("point", POINTS[1:-1])
def test_a_repair_of_more_rows_than_are_named_leaves_out_what_a_killed_one_had_read(
    services: Settings, engine: Engine, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE order_items"))
        connection.execute(text(STOCK.replace("420", "1500")))
    assert_fact_equals_join(services, engine)
    wiring.query(services, "TRUNCATE TABLE cdc.src_order_item")
    killed(services, point, 3, what="repair", rows=150)
    monkeypatch.setattr(wiring.resyncs, "Resync", partial(Resync, rows=150))
    (line,) = [line for line in wiring.repair(services) if line.startswith("order_items: ")]
    found = re.search(r": (\d+) rows read .*, 0 deleted, .*; (\d) of 10 ranges were equal", line)
    assert found, line
    read, equal = int(found[1]), int(found[2])
    # What was sent may be lost, and what was stored is there.
    assert equal == (2 if point in {"fence taken", "rows sent"} else 3)
    assert read == 1500 - equal * 150
    assert_fact_equals_join(services, engine)


def test_progress_and_time_left_are_told(
    services: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    killed(services, "range noted", 2)
    with caplog.at_level("INFO", logger="sluice.repair.resync"):
        report = wiring.resync(services, "order_items")
    told = [record.getMessage() for record in caplog.records if record.name.endswith(".resync")]
    ranges = report.before[1]
    assert told[0] == (
        f"resync: order_items: resuming an interrupted run: 2 of {ranges} ranges are done"
    )
    assert told[1].startswith(f"resync: order_items: 3 of {ranges} ranges, {ROWS} rows read again")
    assert told[1].endswith(" s left")
    assert told[-1].startswith(f"resync: order_items: {ranges} of {ranges} ranges, ")
    assert f"; 2 of {ranges} ranges were done before" in report.sentence()
