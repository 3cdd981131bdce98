"""Measures rows in bulk from PostgreSQL into ClickHouse; run by `make bench`.

    .venv/bin/python bench/bulk.py [ROWS [REPEATS [PICTURE.svg]]]

Starts its own PostgreSQL, broker and ClickHouse. ROWS (1,000,000) order items, and a tenth as many
customers of 1 kB with hostile text, are copied in each way, alternating, REPEATS (3) times; medians
are printed. The ways: `COPY ... TO STDOUT` to nothing; the limit of the shape, psql's COPY piped
into curl and the same insert, with nothing of Sluice's; the relay's first copy, from its start
until its slot exists, with `SLUICE_RELAY_ACK=broker`, because drains run once a minute; `sluice
resync`, by one reader; the same with `SLUICE_COPY_VERIFY=on`; in four ranges, by two readers; and a
resync of a tenth of the rows through the topic, as where ClickHouse's HTTP port does not answer.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.pictures import OTHER, OWN, Bar, bars
from sluice import wiring
from sluice.capture import slot as slots
from sluice.capture.relay import run as relay
from sluice.catalog import Table, load_catalog
from sluice.catalog.key_selection import Selection
from sluice.embedded.stack import Stack
from sluice.events.event import RELAY
from sluice.generate.bulk import Place, bulk_rows
from sluice.settings import Settings
from sluice.wiring.bulk import first_loads
from tests.support.pipeline import confirmed
from tests.support.services import initialise, stack_environment, started, temporary_home

CATALOG = load_catalog("models")
COPY, LIMIT, FIRST = "COPY to nothing", "psql and curl", "first copy"
RESYNC, VERIFIED, READERS = "resync", "resync, verified", "resync, two readers"
TOPIC = "through the topic"
HOSTILE = r"E'\\N \t \n \\ é 😀 '"
FILL = (
    "ALTER TABLE customers ALTER name TYPE text",
    "INSERT INTO customers (email, name, country, city) SELECT i || '@example.com',"
    f" {HOSTILE} || repeat(md5(i::text), 30), 'DE', 'Ulm' FROM generate_series(1, {{tenth}}) i",
    "INSERT INTO products (name, category, price)"
    " SELECT 'p' || i, 'c', i FROM generate_series(1, 100) i",
    "INSERT INTO orders (customer_id, status, total)"
    " SELECT 1 + i % {tenth}, 'paid', 10 FROM generate_series(1, {tenth}) i",
    "INSERT INTO order_items (order_id, product_id, quantity, price)"
    " SELECT 1 + i % {tenth}, 1 + i % 100, 1 + i % 9, (i % 100000) / 100.0"
    " FROM generate_series(1, {rows}) i",
    "VACUUM ANALYZE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The result of one run; CPU seconds a million rows, of the process with its children."""

    rate: float
    own: float
    postgres: float
    clickhouse: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Services with rows to copy."""

    settings: Settings
    stack: Stack
    environment: dict[str, str]

    def ways(self, table: Table, rows: int) -> dict[str, tuple[int, Callable[[], object]]]:
        """Return way -> rows, and a call that copies them."""
        part = rows // 10
        alone = replace(self.settings, copy_readers=1)
        verifying = replace(alone, copy_verify=True)
        closed = replace(self.settings.clickhouse, http_port=1, account=None)
        by_topic = replace(self.settings, clickhouse=closed)
        return {
            COPY: (rows, lambda: self._shell(f"{self._psql(table)} > /dev/null")),
            LIMIT: (rows, lambda: self._shell(f"{self._psql(table)} | {self._curl(table)}")),
            FIRST: (rows, lambda: self._first_copy(table)),
            RESYNC: (rows, lambda: wiring.resync(alone, table.name, restart=True)),
            VERIFIED: (rows, lambda: wiring.resync(verifying, table.name, restart=True)),
            READERS: (rows, lambda: self._read_by_two(table, rows)),
            TOPIC: (part, lambda: wiring.resync(by_topic, table.name, upper=str(part))),
        }

    def measure(self, rows: int, run: Callable[[], object]) -> Measure:
        """Run once."""
        wiring.drain_all(self.settings).require()  # what the run before has left
        before, begun = self._used(), time.monotonic()
        run()
        seconds = time.monotonic() - begun
        used = [(b - a) / rows * 1e6 for a, b in zip(before, self._used(), strict=True)]
        return Measure(rate=rows / seconds, own=used[0], postgres=used[1], clickhouse=used[2])

    def _first_copy(self, table: Table) -> None:
        stop, before = threading.Event(), confirmed(self.settings)
        settings = replace(self.settings, relay=replace(self.settings.relay, ack="broker"))
        options = {"snapshot": True, "stop": stop, "loads": partial(first_loads, settings)}
        alone = replace(CATALOG, tables=(table,), facts=())
        copying = threading.Thread(target=relay, args=(settings, alone), kwargs=options)
        copying.start()
        while confirmed(self.settings) <= before and copying.is_alive():
            time.sleep(0.05)
        stop.set()
        copying.join()

    def _read_by_two(self, table: Table, rows: int) -> None:
        with wiring.resyncing(self.settings, table) as step:
            quarters = replace(step, rows=-(-rows // 4), readers=2)
            quarters.run(table, Selection(), restart=True)

    def _psql(self, table: Table) -> str:
        columns = ", ".join(column.name for column in table.columns)
        return f'psql -qc "COPY (SELECT {columns} FROM {table.relation}) TO STDOUT"'

    def _curl(self, table: Table) -> str:
        clickhouse = self.settings.clickhouse
        place = Place(version=1, seq=1, committed_at=0)
        query = bulk_rows(table, place).insert.replace("\n", " ").replace("'", "'\\''")
        return (
            f"curl -fsST - -X POST -u {clickhouse.user}:{clickhouse.password.get_secret_value()}"
            f" 'http://127.0.0.1:{clickhouse.http_port}/?async_insert=0&query='"
            f"$(python3 -c 'import sys, urllib.parse as u; print(u.quote(sys.argv[1]))' '{query}')"
        )

    def _shell(self, command: str) -> None:
        postgres = self.settings.postgres
        variables = {
            "PGHOST": postgres.host,
            "PGPORT": str(postgres.port),
            "PGUSER": postgres.user,
            "PGPASSWORD": postgres.password.get_secret_value(),
            "PGDATABASE": postgres.database,
            "PGTZ": "UTC",
        }
        script = ["bash", "-o", "pipefail", "-c", command]
        subprocess.run(script, check=True, env={**os.environ, **variables})

    def _used(self) -> tuple[float, float, float]:
        """Return the CPU seconds used so far: of this process, PostgreSQL and ClickHouse."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        mine = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
        states = self.stack.states()
        server = psutil.Process(states["postgres"].pid)
        times = server.cpu_times()  # those of children that ended are counted in it
        live = sum(sum(process.cpu_times()[:2]) for process in server.children(recursive=True))
        postgres = sum(times[:4]) + live
        clickhouse = sum(psutil.Process(states["clickhouse"].pid).cpu_times()[:2])
        return mine, postgres, clickhouse


@contextmanager
def subject(rows: int) -> Iterator[Subject]:
    """Start services with this number of order items."""
    with temporary_home() as home:
        environment = stack_environment(home)
        with started(environment) as (settings, stack):
            initialise(settings)
            with slots.session(settings.postgres) as cursor:
                for statement in FILL:
                    cursor.execute(statement.format(rows=rows, tenth=rows // 10))
            wiring.change_source(settings, RELAY)
            yield Subject(settings=settings, stack=stack, environment=environment)


def picture(results: dict[str, dict[str, Measure]]) -> str:
    """Return an SVG of rows per second."""
    rows: list[Bar | str] = []
    for table, measures in results.items():
        rows.append(table)
        for way, m in measures.items():
            colour = OTHER if way in {COPY, LIMIT, TOPIC} else OWN
            rows.append(Bar(way, [(m.rate, colour)], f"{m.rate:,.0f}"))
    return bars("rows per second", rows)


def median(measures: list[Measure]) -> Measure:
    """Return the medians of runs."""
    names = ("rate", "own", "postgres", "clickhouse")
    return Measure(**{n: statistics.median(getattr(m, n) for m in measures) for n in names})


def main() -> None:
    """Print the table, and write the picture if it is named."""
    given = dict(enumerate(sys.argv))
    rows, repeats = int(given.get(1, 1_000_000)), int(given.get(2, 3))
    results: dict[str, dict[str, Measure]] = {}
    with subject(rows) as services:
        for name, count in (("order_items", rows), ("customers", rows // 10)):
            ways = services.ways(CATALOG.table(name), count)
            runs: dict[str, list[Measure]] = {way: [] for way in ways}
            for number in range(repeats):
                for way, (size, run) in ways.items():
                    runs[way].append(services.measure(size, run))
                    print(
                        f"{number + 1}: {name}, {way}, {runs[way][-1].rate:,.0f}", file=sys.stderr
                    )
            results[name] = {way: median(measures) for way, measures in runs.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print("| rows | way | rows/s | of COPY | CPU s a million: own | PostgreSQL | ClickHouse |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, measures in results.items():
        for way, m in measures.items():
            print(
                f"| {name} | {way} | {m.rate:,.0f} | {m.rate / measures[COPY].rate:.2f} |"
                f" {m.own:.2f} | {m.postgres:.2f} | {m.clickhouse:.2f} |"
            )
    print(f"\nHighest memory of the process: {memory} MB.")
    if path := given.get(3):
        Path(path).write_text(picture(results))


if __name__ == "__main__":
    main()
