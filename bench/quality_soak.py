"""Soaks the checks: runs an hour's changes and an hour's checks as fast as possible.

Not part of `make bench`. Usage: bench/quality_soak.py [ROWS [CHANGES [CHECKS [DEEP_EVERY
[MINUTES]]]]]. Defaults: 1,000,000 rows, 3,600,000 changes (an hour of 1,000 per second), 60 checks
of which every fifth is deep, 120 minutes at most. Changes are made as fast as relay and drain
follow, up to MOST_PER_SECOND. Before every third deep check, corruptions are planted in ClickHouse;
the check has to find them, and they are repaired. All other checks must have no finding. Exits 1 if
one has, if a corruption is missed, or if the time is over before the last check.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import Engine, text

from sluice import wiring
from sluice.catalog.quality_options import Status
from sluice.clients.postgres import PostgresSource
from sluice.errors import Retryable
from sluice.quality.checks import QualityReport
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import CATALOG, checked
from tests.support.services import initialise, stack_environment, started

T = TypeVar("T")
PER_COMMIT = 20  # changes of a transaction
MOST_BEHIND = 64 << 20  # bytes of WAL that the writer may be ahead of what is drained
MOST_PER_SECOND = 6000  # changes; faster, they would end before the checks
LEFT_ALONE = 1000  # the last rows, which no change touches: corruptions are planted there
FILL = """
INSERT INTO order_items (order_id, product_id, quantity, price)
SELECT o[1 + i % array_length(o, 1)], p[1 + i % array_length(p, 1)], 1 + i % 5, 9.99
FROM generate_series(1, :rows) AS i,
    (SELECT array_agg(id) AS o FROM orders) AS orders,
    (SELECT array_agg(id) AS p FROM products) AS products
"""
# Changes random rows: half of the inserted rows are deleted again.
CHANGE = """
CREATE FUNCTION soak_change(changes int, most int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    chosen int;
    kind float;
BEGIN
    FOR _ IN 1..changes LOOP
        chosen := 1 + floor(random() * most);
        kind := random();
        IF kind < 0.4 THEN
            UPDATE order_items SET quantity = 1 + (quantity + 1) % 9 WHERE id = chosen;
        ELSIF kind < 0.7 THEN
            UPDATE order_items SET price = price + 0.01 WHERE id = chosen;
        ELSIF kind < 0.85 THEN
            INSERT INTO order_items (order_id, product_id, quantity, price)
            SELECT order_id, product_id, 1, 1 FROM order_items WHERE id > chosen LIMIT 1;
        ELSE
            DELETE FROM order_items
            WHERE id = (SELECT id FROM order_items WHERE id BETWEEN chosen AND most LIMIT 1);
        END IF;
    END LOOP;
END $$
"""
SAME = "INSERT INTO cdc.src_order_item SELECT * REPLACE ({}) FROM cdc.src_order_item FINAL"
# Corruptions of the rows k to k + 4, which PREPARE has changed, and of which it deleted k + 3.
PLANT = (
    "DELETE FROM cdc.src_order_item WHERE id = {k}",  # missing
    SAME.format("quantity + 1 AS quantity, _version + 1 AS _version") + " WHERE id = {k} + 1",
    # stale: the version before the newest
    "DELETE FROM cdc.src_order_item WHERE id = {k} + 2",
    "INSERT INTO cdc.src_order_item SELECT * FROM cdc.history_order_items"
    " WHERE id = {k} + 2 ORDER BY _version LIMIT 1",
    "DELETE FROM cdc.history_order_items WHERE id = {k} + 2 AND _version ="
    " (SELECT max(_version) FROM cdc.history_order_items WHERE id = {k} + 2)",
    # a lost delete, and an extra row, which compensates for the missing one
    "INSERT INTO cdc.src_order_item SELECT * REPLACE (0 AS _is_deleted, _version + 1 AS _version)"
    " FROM cdc.history_order_items WHERE id = {k} + 3 ORDER BY _version DESC LIMIT 1",
    "INSERT INTO cdc.src_order_item SELECT * REPLACE (1000000000 + id AS id, {k} AS _version)"
    " FROM (SELECT * FROM cdc.src_order_item FINAL WHERE id = {k} + 4)",
)
PREPARE = (
    "UPDATE order_items SET quantity = quantity + 1 WHERE id BETWEEN {k} AND {k} + 4",
    "DELETE FROM order_items WHERE id = {k} + 3",
)


@dataclass(slots=True, kw_only=True)
class Tally:
    """The results of the soak; `seconds` are the durations of each kind of check."""

    checks: int = 0
    alarms: int = 0
    unsettled: int = 0
    again: int = 0
    planted: int = 0
    found: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"minute": [], "deep": []})


class Writer(threading.Thread):
    """Changes rows until stopped, as fast as the pipeline follows, up to MOST_PER_SECOND."""

    def __init__(self, settings: Settings, engine: Engine, most: int) -> None:
        super().__init__()
        self.changes, self.stop = 0, threading.Event()
        self._settings, self._engine, self._most = settings, engine, most

    def run(self) -> None:
        """See the class."""
        source, slot = PostgresSource(self._settings.postgres), self._settings.relay.slot
        change = text("SELECT soak_change(:changes, :most)")
        begun = time.monotonic()
        with self._engine.connect() as connection:
            while not self.stop.wait(begun + self.changes / MOST_PER_SECOND - time.monotonic()):
                for _ in range(50):
                    connection.execute(change, {"changes": PER_COMMIT, "most": self._most})
                    connection.commit()
                    self.changes += PER_COMMIT
                while source.slot(slot).lag_bytes > MOST_BEHIND and not self.stop.wait(0.2):
                    pass


class Soak:
    """Checks one stack under writes."""

    def __init__(self, settings: Settings, engine: Engine, rows: int) -> None:
        self.settings, self.engine, self.tally = settings, engine, Tally()
        self.changes, self._quiet = 0, rows - LEFT_ALONE

    def run(self, changes: int, checks: int, deep_every: int, minutes: int) -> Tally:
        """Run checks, distributed over the changes, up to the time limit."""
        with self.engine.begin() as connection:
            connection.execute(text(CHANGE))
        writer = Writer(self.settings, self.engine, self._quiet - 1)
        writer.start()
        started = time.monotonic()
        try:
            for number in range(1, checks + 1):
                while writer.changes < changes * number / checks:
                    self._drain()
                    time.sleep(0.1)
                    if time.monotonic() > started + minutes * 60:
                        return self.tally
                deep = number % deep_every == 0
                if deep and number % (3 * deep_every) == 0:
                    self._find(self._quiet + number * 5)
                else:
                    self._alarms(number, self._checked(deep=deep))
                self.tally.checks = number
                seconds = time.monotonic() - started
                rate = f"{writer.changes} changes, {writer.changes / seconds:.0f}/s"
                print(f"{seconds:.0f} s: {number} of {checks} checks, {rate}", flush=True)
        finally:
            writer.stop.set()
            writer.join()
            self.changes = writer.changes
        return self.tally

    def _drain(self) -> None:
        for table in CATALOG.tables:
            self._patiently(partial(wiring.drain, self.settings, table.name))

    def _patiently(self, call: Callable[[], T]) -> T:
        """Retry a call when a service does not answer in time, as Airflow would retry a task."""
        while True:
            try:
                return call()
            except Retryable as error:
                self.tally.again += 1
                print(f"again: {error}", flush=True)
                time.sleep(1)

    def _checked(self, *, deep: bool) -> QualityReport:
        begun = time.monotonic()
        report = self._patiently(partial(wiring.quality, self.settings, deep=deep))
        self.tally.seconds["deep" if deep else "minute"].append(time.monotonic() - begun)
        return report

    def _alarms(self, number: int, report: QualityReport) -> None:
        for check in report.checks:
            if check.status != Status.PASS:
                self.tally.unsettled += check.status == Status.UNSETTLED
                self.tally.alarms += check.status != Status.UNSETTLED
                print(f"check {number}: {check.sentence()}", flush=True)

    def _find(self, first: int) -> None:
        """Plant corruptions from this row on, require that exactly those are found, and repair."""
        with self.engine.begin() as connection:
            for statement in PREPARE:
                connection.execute(text(statement.format(k=first)))
        self._alarms(0, self._checked(deep=False))
        for statement in PLANT:
            wiring.query(self.settings, statement.format(k=first))
        planted = {str(first + at) for at in (0, 1, 2, 3, 1_000_000_004)}
        report = self._checked(deep=True)
        while not report.settled:
            self.tally.again += 1
            report = self._checked(deep=True)
        keys = [set(c.keys) for c in report.checks if (c.table, c.check) == ("order_items", "rows")]
        (found,) = keys or [set[str]()]
        self.tally.planted += len(planted)
        self.tally.found += len(planted & found)
        self.tally.alarms += len(found - planted)
        print(f"planted {sorted(planted)}, found {sorted(found)}", flush=True)
        repair = partial(wiring.resync, self.settings, "order_items", keys=sorted(planted))
        self._patiently(repair)


def report(tally: Tally, changes: int, seconds: float) -> None:
    """Print the results."""
    each = ", ".join(
        f"{len(spent)} {kind} checks, {sorted(spent)[len(spent) // 2]:.1f} s in the middle,"
        f" {max(spent):.1f} s at most"
        for kind, spent in tally.seconds.items()
        if spent
    )
    print(
        f"soak: {seconds:.0f} s, {tally.checks} checks, {changes} changes in transactions of"
        f" {PER_COMMIT} ({changes / seconds:.0f}/s); {each}; {tally.alarms} alarms,"
        f" {tally.unsettled} unsettled, {tally.again} retried because a service did not answer;"
        f" {tally.found} of {tally.planted} planted corruptions found",
        flush=True,
    )


def main(
    rows: int = 1_000_000,
    changes: int = 3_600_000,
    checks: int = 60,
    deep_every: int = 5,
    minutes: int = 120,
) -> int:
    """Start a stack, soak it, and stop it."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", ignore_cleanup_errors=True) as folder:
        os.environ.update(stack_environment(Path(folder)))  # the relay is a program of the stack
        os.environ["SLUICE_QUALITY_SECONDS"] = "600"  # the machine may be busy
        with started(os.environ) as (settings, stack):
            initialise(settings)
            load(settings, customers=100, orders=500, seed=1)
            engine = make_engine(settings.postgres)
            with engine.begin() as connection:
                last = connection.scalar(text("SELECT max(id) FROM order_items"))
                connection.execute(text(FILL), {"rows": rows})
            with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.execute(text("VACUUM ANALYZE order_items"))
            stack.start(["relay"], lambda _: None)
            while PostgresSource(settings.postgres).find_slot(settings.relay.slot) is None:
                for table in CATALOG.tables:
                    wiring.drain(settings, table.name)
            checked(settings)
            soak = Soak(settings, engine, rows + last)
            begun = time.monotonic()
            tally = soak.run(changes, checks, deep_every, minutes)
            report(tally, soak.changes, time.monotonic() - begun)
            missed = tally.found < tally.planted or tally.checks < checks
            return int(tally.alarms > 0 or missed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
