"""A command beside another run of itself, as Airflow's, ends with what it was asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Producer
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.catalog.quality_options import Status
from sluice.drain.drain import Drain
from sluice.errors import StaleCheckpoint
from sluice.execution import contention
from sluice.quality.checks import QualityReport
from sluice.settings import Settings
from sluice.star import create as warehouse
from sluice.star.rebuild import Rebuild
from store_api.database import make_engine
from store_api.demo import load
from tests.support.oracle import facts, joined
from tests.support.pipeline import checked, relaying

pytestmark = pytest.mark.services

FACT = "fact_order_item"
ROUNDS = 4


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=20, orders=60, seed=3)
    with relaying(services):
        checked(services)
        yield made
    made.dispose()


class Rival:
    """Another run of the same step that comes first, so often, at a point of the first one.

    Args:
        after: another point, which is reached before; then `prepare` is run.
    """

    def __init__(
        self,
        point: str,
        times: int,
        run: Callable[[], object],
        after: str = "",
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._point, self._left, self._run = point, times, run
        self._after, self._prepare = after, prepare
        self._within = threading.local()

    def reached(self, point: str) -> None:
        if getattr(self._within, "busy", False):
            return
        if self._after:
            if point == self._after:
                self._after = ""
                self._prepare()
            return
        if point == self._point and self._left:
            self._left -= 1
            self._within.busy = True
            # In a thread of its own, whose drains and rebuilds are those without a rival.
            with ThreadPoolExecutor(1) as threads:
                threads.submit(self._alone).result()
            self._within.busy = False

    def _alone(self) -> None:
        self._within.busy = True
        self._run()

    @property
    def came(self) -> bool:
        return not self._left


def changed(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE order_items SET quantity = quantity % 9 + 1"))


def sent(services: Settings, engine: Engine) -> None:
    """Changes that are on the topic and not drained."""
    changed(engine)
    while not wiring.status(services)["tables"]["order_items"]["pending_events"]:
        threading.Event().wait(0.05)


DRAINS: dict[str, Callable[[Settings], Any]] = {
    "drain": lambda s: wiring.drain_all(s).require(),
    "drain --until-empty": lambda s: list(wiring.drain_until_empty(s, ["order_items"])),
    "resync": lambda s: wiring.resync(s, "order_items", restart=True),
    "resync --diff": lambda s: list(wiring.repair(s, ["order_items"])),
    "quality": wiring.quality,
    "recover": lambda s: list(wiring.recover(s)),
}


@pytest.mark.parametrize("command", DRAINS)
def test_a_command_whose_drain_comes_second_resumes_by_itself(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def overtake() -> None:
        sent(services, engine)
        wiring.drain(services, "order_items")

    rival = Rival("rows written", 2, overtake)
    sent(services, engine)
    monkeypatch.setattr(wiring.drains, "Drain", partial(Drain, reached=rival.reached))
    DRAINS[command](services)
    assert rival.came
    checked(services)
    assert facts(services) == joined(engine)


# The full ones catch up after they have exchanged the fact: that is when they can be overtaken.
REBUILDS: dict[str, tuple[str, Callable[[Settings], Any]]] = {
    "rebuild": ("", lambda s: wiring.rebuild(s, FACT)),
    "rebuild --full": ("exchanged", lambda s: wiring.rebuild(s, FACT, full=True)),
    "rebuild --rollback": ("exchanged", lambda s: wiring.rollback(s, FACT)),
    "quality": ("", lambda s: settled(wiring.quality(s))),
    "resync --diff": ("", lambda s: list(wiring.repair(s, ["order_items"]))),
}


def settled(report: QualityReport) -> None:
    unsettled = [check for check in report.checks if check.status == Status.UNSETTLED]
    assert (report.passed, unsettled, dict(report.troubles)) == (True, [], {})


@pytest.mark.parametrize("command", REBUILDS)
def test_a_command_whose_rebuild_is_overtaken_resumes_by_itself(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """What overtakes it exchanges the fact for another table."""
    after, run = REBUILDS[command]
    wiring.rebuild(services, FACT, full=True)  # there is one to roll back to
    sent(services, engine)
    wiring.drain(services, "order_items")

    def prepare() -> None:
        sent(services, engine)
        wiring.drain(services, "order_items")

    def overtake() -> None:
        prepare()
        wiring.rebuild(services, FACT, full=True)

    rival = Rival("rows written", 1, overtake, after, prepare)
    monkeypatch.setattr(warehouse, "Rebuild", partial(Rebuild, reached=rival.reached))
    run(services)
    assert rival.came
    monkeypatch.undo()
    checked(services)
    assert facts(services) == joined(engine)


def test_two_at_once_both_end_well_round_after_round(services: Settings, engine: Engine) -> None:
    for number in range(ROUNDS):
        sent(services, engine)
        with ThreadPoolExecutor(4) as threads:
            runs: list[Future[Any]] = []
            for one in range(2):
                full = number % 2 == one
                runs.append(threads.submit(DRAINS["drain --until-empty"], services))
                runs.append(threads.submit(wiring.rebuild, services, FACT, full=full))
            for run in runs:
                run.result(120)
    checked(services)
    assert facts(services) == joined(engine)


def test_until_empty_ends_at_what_was_there_though_more_keeps_coming(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event that is drained is followed by another: the end is never reached."""
    producer = Producer({"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options})

    def more(point: str) -> None:
        if point == "checkpoint written":
            producer.produce("cdc.products", value=b"{}", key=b"k", partition=0)
            assert producer.flush(10) == 0

    more("checkpoint written")
    monkeypatch.setattr(wiring.drains, "Drain", partial(Drain, reached=more))
    single = replace(services, drain=replace(services.drain, events=1, chunk=1))
    rounds = wiring.drain_until_empty(single, ["products"])
    assert sum(report.events for done in rounds for report in done.reports) <= 2
    monkeypatch.undo()
    while not wiring.drain(services, "products").caught_up:
        pass
    wiring.query(services, "TRUNCATE TABLE cdc.dead_letters")


def test_a_rival_that_never_ends_is_an_error_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "PATIENCE", 0.2)
    calls: list[int] = []

    def lose() -> None:
        calls.append(1)
        raise StaleCheckpoint

    with pytest.raises(StaleCheckpoint) as caught:
        contention.until_done(lose)
    assert caught.value.exit_code == 3
    assert len(calls) > 1
