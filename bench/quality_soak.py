"""Measures the deep check on a stack of its own, then soaks it under writes.

Not part of `make bench`. Usage: bench/quality_soak.py [ROWS [MINUTES [CHANGES_PER_SECOND]]].
Prints the deep check of so many rows (seconds, CPU seconds of PostgreSQL, growth of this process),
then deep checks one after the other while rows change, and every finding: there must be none.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import Engine, text

from sluice import wiring
from sluice.embedded.postgres import ensure_database
from sluice.embedded.programs import STORES
from sluice.embedded.stack import Stack
from sluice.settings import Settings, read_settings
from store_api.database import create_tables, make_engine
from store_api.demo import load
from tests.conftest import stack_environment
from tests.integration.test_loop import checked, relaying

AT_ONCE = 20
FILL = """
INSERT INTO order_items (order_id, product_id, quantity, price)
SELECT o[1 + i % array_length(o, 1)], p[1 + i % array_length(p, 1)], 1 + i % 5, 9.99
FROM generate_series(1, :rows) AS i,
    (SELECT array_agg(id) AS o FROM orders) AS orders,
    (SELECT array_agg(id) AS p FROM products) AS products
"""
CHANGES = (
    "UPDATE order_items SET quantity = 1 + (quantity + 1) % 9 WHERE id = :id",
    "UPDATE order_items SET price = price + 0.01 WHERE id = :id",
    "INSERT INTO order_items (order_id, product_id, quantity, price)"
    " SELECT order_id, product_id, 1, 1 FROM order_items WHERE id = :id",
    "DELETE FROM order_items WHERE id = :id",
)


def postgres_seconds(home: Path) -> float:
    """CPU seconds that the server processes that are there now have used."""
    total = 0.0
    for process in psutil.process_iter():
        try:
            own = "postgres" in process.name() and str(home) in " ".join(
                [*process.cmdline(), process.cwd()]
            )
            if own:
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def deep(settings: Settings, home: Path) -> None:
    """One deep check of everything at rest."""
    for again in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cpu, started = postgres_seconds(home), time.monotonic()
        report = wiring.quality(settings, deep=True)
        seconds = time.monotonic() - started
        rows = sum(check.postgres for check in report.checks if check.check == "rows")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"deep check {again + 1}: {rows} rows and the fact in {seconds:.1f} s,"
            f" {rows / seconds:.0f} rows/s; PostgreSQL {postgres_seconds(home) - cpu:.1f} CPU s;"
            f" the checking process grew by {grown:.0f} MB; passed: {report.passed}",
            flush=True,
        )


def write(engine: Engine, rate: float, most: int, stop: threading.Event, done: list[int]) -> None:
    """So many changes a second, in transactions of some."""
    chance, started = random.Random(1), time.monotonic()
    with engine.connect() as connection:
        while not stop.wait(max(0.0, started + done[0] / rate - time.monotonic())):
            for _ in range(AT_ONCE):
                change = chance.choices(CHANGES, (4, 3, 2, 1))[0]
                connection.execute(text(change), {"id": chance.randrange(1, most)})
            connection.commit()
            done[0] += AT_ONCE


def soak(settings: Settings, engine: Engine, rows: int, minutes: float, rate: float) -> int:
    """Deep checks under writes; how many findings."""
    stop, done, findings, runs = threading.Event(), [0], 0, []
    writer = threading.Thread(target=write, args=(engine, rate, rows, stop, done))
    writer.start()
    started = time.monotonic()
    try:
        while time.monotonic() < started + minutes * 60:
            begun = time.monotonic()
            report = wiring.quality(settings, deep=True)
            runs.append(time.monotonic() - begun)
            for check in report.checks:
                if check.status != "pass":
                    findings += check.status in {"warn", "fail"}
                    print(f"{time.monotonic() - started:.0f} s: {check.sentence()}", flush=True)
    finally:
        stop.set()
        writer.join()
    seconds = time.monotonic() - started
    print(
        f"soak: {seconds:.0f} s, {done[0]} changes ({done[0] / seconds:.0f}/s),"
        f" {len(runs)} deep checks, the longest {max(runs):.1f} s; {findings} findings",
        flush=True,
    )
    return findings


def main(rows: int = 1_000_000, minutes: float = 10, rate: float = 1000) -> int:
    """Set up, measure, soak, take down."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        environment = stack_environment(home)
        Stack(read_settings(environment)).launch()
        settings = read_settings(environment)
        stack = Stack(settings)
        try:
            stack.start(STORES, lambda _: None)
            ensure_database(settings.postgres, settings.postgres.database)
            create_tables(settings.postgres)
            wiring.initialise(settings)
            load(settings, customers=500, orders=5000, seed=1)
            engine = make_engine(settings.postgres)
            with engine.begin() as connection:
                connection.execute(text(FILL), {"rows": rows})
                connection.execute(text("ANALYZE order_items"))
            with relaying(settings):
                checked(settings)
                deep(settings, home)
                return min(1, soak(settings, engine, rows, minutes, rate))
        finally:
            stack.stop()


if __name__ == "__main__":
    given = [float(argument) for argument in sys.argv[1:]]
    sys.exit(main(*[int(number) for number in given[:1]], *given[1:]))
