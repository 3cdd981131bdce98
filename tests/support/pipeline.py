"""The pipeline of the example: its relay, its checks, and the join that its fact must equal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.postgres import PostgresSource
from sluice.errors import Retryable
from sluice.settings import Settings
from tests.support.oracle import facts, joined

CATALOG = load_catalog("models")


@contextmanager
def relaying(services: Settings, *, snapshot: bool = False) -> Iterator[threading.Event]:
    """A relay in a thread; with `snapshot`, when this begins its slot is the new one."""
    stop = threading.Event()
    wanted = {"stop": stop, "snapshot": snapshot}
    thread = threading.Thread(target=run, args=(services, CATALOG), kwargs=wanted)
    old = confirmed(services)
    thread.start()
    try:
        deadline = time.monotonic() + 120
        while snapshot and confirmed(services) <= old:
            assert time.monotonic() < deadline, "no new slot in time"
            for table in CATALOG.tables:  # which the snapshot waits for
                wiring.drain(services, table.name)
        yield stop
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def confirmed(services: Settings) -> int:
    """What the slot has confirmed; 0 where there is none."""
    state = PostgresSource(services.postgres).find_slot(services.relay.slot)
    return state.confirmed_lsn if state else 0


def checked(settings: Settings, *, deep: bool = False) -> Any:
    """The first report that could be made: the relay may still be in its snapshot."""
    deadline = time.monotonic() + 60
    while True:
        try:
            for table in CATALOG.tables:
                wiring.drain(settings, table.name)
            return wiring.quality(settings, deep=deep)
        except Retryable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def assert_fact_equals_join(settings: Settings, engine: Engine) -> None:
    report = checked(settings)
    assert not report.failures
    assert facts(settings) == joined(engine)
