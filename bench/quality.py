"""Compares checks of equal rows, checks with one wrong row, and a resync.

Usage: bench/quality.py [ROWS [PICTURE.svg]]. Starts its own stack with ROWS (1,000,000)
`order_items` on both sides. Prints the seconds of each way, and the CPU seconds of PostgreSQL and
of this process. The cost of pinpointing a row is that of the check which finds it less that of the
check before. reladiff is included if RELADIFF_PYTHON names the Python of an environment with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import psutil
import psycopg2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import text

from bench.pictures import OTHER, OWN, Bar, bars
from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.postgres import PostgresSource, connection_options
from sluice.execution.outcomes import Outcomes
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import CATALOG, relaying
from tests.support.services import initialise, stack_environment, started

FILL = """
INSERT INTO order_items (order_id, product_id, quantity, price)
SELECT o[1 + i % array_length(o, 1)], p[1 + i % array_length(p, 1)], 1 + i % 5, 9.99 + i % 1000
FROM generate_series(1, :rows) AS i,
    (SELECT array_agg(id) AS o FROM orders) AS orders,
    (SELECT array_agg(id) AS p FROM products) AS products
"""
COLUMNS = "id, order_id, product_id, quantity, price"
DUMP = f"COPY (SELECT {COLUMNS} FROM order_items ORDER BY id) TO STDOUT"
SPOIL = """
INSERT INTO cdc.src_order_item SELECT * REPLACE (quantity + 1 AS quantity, _version + 1 AS _version)
FROM cdc.src_order_item FINAL WHERE id = {key}
"""
INSERT = f"INSERT INTO cdc.src_order_item ({COLUMNS}, _version) FORMAT TSV"
VERSION = 1 << 48  # as of the first byte of the WAL
LIVE = f"""
CREATE VIEW cdc.bench_items AS
SELECT {COLUMNS} FROM cdc.src_order_item FINAL WHERE _is_deleted = 0
"""
RELADIFF = """
import json, os, sys
from reladiff import connect_to_table, diff_tables
postgres, clickhouse = json.loads(os.environ["DATABASES"])
columns = ("order_id", "product_id", "quantity", "price")
one = connect_to_table(postgres, "order_items", "id", extra_columns=columns)
other = connect_to_table(clickhouse, "bench_items", "id", extra_columns=columns)
print(len(list(diff_tables(one, other, extra_columns=columns))), "lines of difference")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The result of one way; `postgres` and `own` are CPU seconds of server and this process."""

    name: str
    seconds: float
    postgres: float
    own: float
    found: object


def postgres_seconds(home: Path) -> float:
    """Return the CPU seconds that the server's processes have used, including ended ones."""
    total = 0.0
    for process in psutil.process_iter():
        try:
            where = " ".join([*process.cmdline(), process.cwd()])
            if "postgres" in process.name() and str(home) in where:
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def measured(home: Path, name: str, call: Callable[[], object]) -> Measure:
    """Measure a call, and print the result."""
    cpu, own, started = postgres_seconds(home), time.process_time(), time.monotonic()
    found = call()
    measure = Measure(
        name=name,
        seconds=time.monotonic() - started,
        postgres=postgres_seconds(home) - cpu,
        own=time.process_time() - own,
        found=found,
    )
    spent = f"{measure.seconds:.1f} | {measure.postgres:.1f} | {measure.own:.1f}"
    print(f"| {name} | {spent} | {found} |", flush=True)
    return measure


def _request(settings: Settings, query: str) -> Request:
    """Return a request of ClickHouse's HTTP port."""
    clickhouse = settings.clickhouse
    return Request(
        f"http://127.0.0.1:{clickhouse.http_port}/?query={quote(query)}",
        headers={
            "X-ClickHouse-User": clickhouse.user,
            "X-ClickHouse-Key": clickhouse.password.get_secret_value(),
        },
    )


class Bench:
    """The ways to compare, on one stack."""

    def __init__(self, settings: Settings, rows: int) -> None:
        self.settings, self.rows = settings, rows

    def copied(self, sink: Any) -> int:
        """COPY the table in key order; return the number of rows."""
        with self.postgres() as cursor:
            cursor.copy_expert(DUMP, sink)
            return int(cursor.rowcount)

    @contextmanager
    def postgres(self) -> Iterator[Any]:
        """Open a cursor on PostgreSQL."""
        options = connection_options(self.settings.postgres)
        with closing(psycopg2.connect(**options)) as connection, connection.cursor() as cursor:
            yield cursor

    def copied_away(self) -> int:
        """COPY the table to /dev/null."""
        with Path(os.devnull).open("wb") as sink:
            return self.copied(sink)

    def counted(self) -> str:
        """Return the row counts of both sides."""
        with self.postgres() as cursor:
            cursor.execute("SELECT count(*) FROM order_items")
            (source,) = cursor.fetchone()
        ((stored,),) = wiring.query(self.settings, "SELECT count() FROM cdc.bench_items")[1]
        return f"{source}, {stored}"

    def checked(self) -> str:
        """Return the findings of the deep check of the table."""
        outcomes, table = Outcomes(), load_catalog(self.settings.models).table("order_items")
        results = wiring.differences(self.settings, [table], outcomes)
        outcomes.require()
        ((_, findings),) = results
        return "; ".join(difference.sentence() for difference in findings.differences) or "equal"

    def dumped(self) -> str:
        """Dump both sides as text and diff the files."""
        query = (
            f"SELECT {COLUMNS.replace('price', 'toDecimalString(price, 2)')}"
            " FROM cdc.bench_items ORDER BY id FORMAT TSV"
        )
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
            source, stored = Path(folder, "postgres"), Path(folder, "clickhouse")
            with source.open("wb") as sink:
                self.copied(sink)
            with stored.open("wb") as file, urlopen(_request(self.settings, query)) as answer:
                shutil.copyfileobj(answer, file, 1 << 20)
            command = ["diff", "--speed-large-files", str(source), str(stored)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.replace("\n", " ").replace("\t", " ") or "equal"

    def reladiff(self, python: str) -> str:
        """Compare the same tables by reladiff with its defaults."""
        postgres, clickhouse = self.settings.postgres, self.settings.clickhouse
        databases = [
            f"postgresql://{postgres.user}:{quote(postgres.password.get_secret_value())}"
            f"@{postgres.host}:{postgres.port}/{postgres.database}",
            f"clickhouse://{clickhouse.user}@{clickhouse.host}:{clickhouse.port}/cdc",
        ]
        done = subprocess.run(
            [python, "-c", RELADIFF],
            env={**os.environ, "DATABASES": json.dumps(databases)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    def resynced(self) -> int:
        """Resync the table; return the number of rows."""
        return wiring.resync(self.settings, "order_items").rows


def compare(bench: Bench, home: Path) -> list[Measure]:
    """Measure every way on equal rows, and those that compare values on one wrong row."""
    reladiff = os.environ.get("RELADIFF_PYTHON", "")
    ways: list[tuple[str, Callable[[], object]]] = [
        ("sluice, every column", bench.checked),
        ("dump and diff", bench.dumped),
    ]
    if reladiff:
        ways.append(("reladiff", lambda: bench.reladiff(reladiff)))
    head = "| way | seconds | PostgreSQL, CPU s | the process, CPU s | found |"
    print(f"{head}\n|---|---|---|---|---|", flush=True)
    bench.checked()  # gives ClickHouse time to merge the first drain's parts
    results = [measured(home, "count(*) on both sides", bench.counted)]
    results += [measured(home, f"{name}, equal rows", call) for name, call in ways]
    wiring.query(bench.settings, SPOIL.format(key=bench.rows // 3))
    results += [measured(home, f"{name}, one wrong row", call) for name, call in ways]
    clean, wrong = results[1], results[1 + len(ways)]
    print(f"to pinpoint one wrong row: {wrong.seconds - clean.seconds:.1f} s more", flush=True)
    results.append(measured(home, "COPY TO STDOUT alone", bench.copied_away))
    results.append(measured(home, "resync of the table", bench.resynced))
    for result in results[-2:]:
        print(f"{result.name}: {int(str(result.found)) / result.seconds:,.0f} rows/s", flush=True)
    print(f"after the resync: {bench.checked()}", flush=True)
    return results


def picture(measures: list[Measure]) -> str:
    """Return an SVG of the seconds of each way."""

    def colour(name: str) -> str:
        return OWN if name.startswith(("sluice", "resync")) else OTHER

    return bars(
        "seconds",
        [Bar(m.name, [(m.seconds, colour(m.name))], f"{m.seconds:.1f} s") for m in measures],
    )


@contextmanager
def filled(rows: int) -> Iterator[tuple[Settings, Path]]:
    """Run a stack whose `order_items` has `rows` more rows on both sides; yield it and its home."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", ignore_cleanup_errors=True) as folder:
        patient = {"SLUICE_QUALITY_SECONDS": "600"}  # the relay has to pass what `fill` wrote
        with started(stack_environment(Path(folder)) | patient) as (settings, _):
            initialise(settings)
            load(settings, customers=100, orders=500, seed=1)
            with relaying(settings):
                drained(settings)
            fill(settings, rows)
            with relaying(settings):
                yield settings, Path(folder)


def fill(settings: Settings, rows: int) -> None:
    """Insert rows on both sides without relay and drain, which are not measured."""
    bench = Bench(settings, rows)
    with make_engine(settings.postgres).begin() as connection:
        last = connection.scalar(text("SELECT coalesce(max(id), 0) FROM order_items"))
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # no foreign keys
        connection.execute(text(FILL), {"rows": rows})
        connection.execute(text("ANALYZE order_items"))
    with bench.postgres() as cursor, tempfile.TemporaryFile() as file:
        advance = "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())"
        cursor.connection.autocommit = True
        cursor.execute(advance, [settings.relay.slot])
        new = f"SELECT {COLUMNS}, {VERSION} FROM order_items WHERE id > {last}"
        cursor.copy_expert(f"COPY ({new}) TO STDOUT", file)
        file.seek(0)
        request = _request(settings, INSERT)
        request.data = file
        request.add_header("Content-Length", str(os.fstat(file.fileno()).st_size))
        urlopen(request).close()
    wiring.query(settings, LIVE)


def drained(settings: Settings) -> None:
    """Wait until the relay's snapshot is in ClickHouse."""
    while PostgresSource(settings.postgres).find_slot(settings.relay.slot) is None:
        for table in CATALOG.tables:
            wiring.drain(settings, table.name)


def main(rows: int, path: str) -> None:
    """Start a stack, measure, and stop it."""
    with filled(rows) as (settings, home):
        measures = compare(Bench(settings, rows), home)
    if path:
        Path(path).write_text(picture(measures))


if __name__ == "__main__":
    main(int([*sys.argv, "1000000"][1]), "".join(sys.argv[2:3]))
