"""The pipeline of the example: its relay, its checks, and the join that its fact must equal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Engine

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.postgres import PostgresSource
from sluice.errors import Retryable
from sluice.quality.checks import QualityReport
from sluice.settings import Settings
from sluice.wiring.bulk import first_loads
from tests.support.oracle import facts, joined
from tests.support.waiting import until

CATALOG = load_catalog("models")


@contextmanager
def relaying(services: Settings, *, snapshot: bool = False) -> Iterator[threading.Event]:
    """A relay in a thread; with `snapshot`, when this begins its slot is the new one."""
    stop = threading.Event()
    wanted = {"stop": stop, "snapshot": snapshot, "loads": partial(first_loads, services)}
    thread = threading.Thread(target=run, args=(services, CATALOG), kwargs=wanted)
    old = confirmed(services)
    thread.start()
    try:
        if snapshot:
            until(
                lambda: _drained_to_a_new_slot(services, old),
                "the slot is the new one",
                120,
                retry=Retryable,
            )
        yield stop
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def _drained_to_a_new_slot(services: Settings, old: int) -> bool:
    wiring.drain_all(services).require()  # which the snapshot waits for
    return confirmed(services) > old


def confirmed(services: Settings) -> int:
    """What the slot has confirmed; 0 where there is none."""
    state = PostgresSource(services.postgres).find_slot(services.relay.slot)
    return state.confirmed_lsn if state else 0


def checked(settings: Settings, *, deep: bool = False) -> QualityReport:
    """The first report that could be made: the relay may still be in its snapshot."""

    def report() -> QualityReport:
        wiring.drain_all(settings).require()
        return wiring.quality(settings, deep=deep)

    return until(report, "the checks can be made", retry=Retryable)


def assert_fact_equals_join(settings: Settings, engine: Engine) -> None:
    report = checked(settings)
    assert not report.failures
    assert facts(settings) == joined(engine)
