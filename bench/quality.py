"""Measures checks of rows that are equal, of one row that is not, and a resync, side by side.

Usage: bench/quality.py [ROWS [PICTURE.svg]]. A stack of its own, `order_items` filled with ROWS
(1,000,000) on both sides. Each way is timed, with the CPU seconds that PostgreSQL and this process
spend on it. What it takes to pinpoint one wrong row is the check that finds it less the one before.
reladiff takes part where RELADIFF_PYTHON names the Python of an environment that has it.
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

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.postgres import PostgresSource, connection_options
from sluice.embedded.postgres import ensure_database
from sluice.embedded.programs import STORES
from sluice.embedded.stack import Stack
from sluice.execution.outcomes import Outcomes
from sluice.settings import Settings, read_settings
from store_api.database import create_tables, make_engine
from store_api.demo import load
from tests.support.pipeline import CATALOG, relaying
from tests.support.services import stack_environment

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
    """One way, how long it took, and what PostgreSQL and this process spent on it, CPU seconds."""

    name: str
    seconds: float
    postgres: float
    own: float
    found: object


def postgres_seconds(home: Path) -> float:
    """CPU seconds that the server's processes have used, those that have ended included."""
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
    """Time a call and print it."""
    cpu, own, started = postgres_seconds(home), time.process_time(), time.monotonic()
    found = call()
    made = Measure(
        name=name,
        seconds=time.monotonic() - started,
        postgres=postgres_seconds(home) - cpu,
        own=time.process_time() - own,
        found=found,
    )
    spent = f"{made.seconds:.1f} | {made.postgres:.1f} | {made.own:.1f}"
    print(f"| {name} | {spent} | {found} |", flush=True)
    return made


def _asking(settings: Settings, query: str) -> Request:
    """A request of ClickHouse's HTTP port."""
    clickhouse = settings.clickhouse
    return Request(
        f"http://127.0.0.1:{clickhouse.http_port}/?query={quote(query)}",
        headers={
            "X-ClickHouse-User": clickhouse.user,
            "X-ClickHouse-Key": clickhouse.password.get_secret_value(),
        },
    )


class Bench:
    """The ways, on one stack."""

    def __init__(self, settings: Settings, rows: int) -> None:
        self.settings, self.rows = settings, rows

    def copied(self, sink: Any) -> int:
        """COPY the table in its key's order."""
        with self.postgres() as cursor:
            cursor.copy_expert(DUMP, sink)
            return int(cursor.rowcount)

    @contextmanager
    def postgres(self) -> Iterator[Any]:
        """A cursor on PostgreSQL."""
        options = connection_options(self.settings.postgres)
        with closing(psycopg2.connect(**options)) as connection, connection.cursor() as cursor:
            yield cursor

    def copied_away(self) -> int:
        """COPY to nowhere."""
        with Path(os.devnull).open("wb") as sink:
            return self.copied(sink)

    def counted(self) -> str:
        """The rows of both sides."""
        with self.postgres() as cursor:
            cursor.execute("SELECT count(*) FROM order_items")
            (one,) = cursor.fetchone()
        ((other,),) = wiring.query(self.settings, "SELECT count() FROM cdc.bench_items")[1]
        return f"{one}, {other}"

    def checked(self) -> str:
        """What the deep check finds in the table."""
        outcomes, table = Outcomes(), load_catalog(self.settings.models).table("order_items")
        found = wiring.differences(self.settings, [table], outcomes)
        outcomes.require()
        ((_, findings),) = found
        return "; ".join(found.sentence() for found in findings.differences) or "equal"

    def dumped(self) -> str:
        """Dump both sides as text and compare the files."""
        query = (
            f"SELECT {COLUMNS.replace('price', 'toDecimalString(price, 2)')}"
            " FROM cdc.bench_items ORDER BY id FORMAT TSV"
        )
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
            one, other = Path(folder, "postgres"), Path(folder, "clickhouse")
            with one.open("wb") as sink:
                self.copied(sink)
            with other.open("wb") as file, urlopen(_asking(self.settings, query)) as answer:
                shutil.copyfileobj(answer, file, 1 << 20)
            command = ["diff", "--speed-large-files", str(one), str(other)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.replace("\n", " ").replace("\t", " ") or "equal"

    def reladiff(self, python: str) -> str:
        """The same tables by reladiff, its own defaults."""
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
        """Read the table again."""
        return wiring.resync(self.settings, "order_items").rows


def compare(bench: Bench, home: Path) -> list[Measure]:
    """Every way on equal rows, and those that look at values on one wrong row."""
    reladiff = os.environ.get("RELADIFF_PYTHON", "")
    ways: list[tuple[str, Callable[[], object]]] = [
        ("sluice, every column", bench.checked),
        ("dump and diff", bench.dumped),
    ]
    if reladiff:
        ways.append(("reladiff", lambda: bench.reladiff(reladiff)))
    head = "| way | seconds | PostgreSQL, CPU s | the process, CPU s | found |"
    print(f"{head}\n|---|---|---|---|---|", flush=True)
    bench.checked()  # what the first drain left to be merged is merged by now
    found = [measured(home, "count(*) on both sides", bench.counted)]
    found += [measured(home, f"{name}, equal rows", call) for name, call in ways]
    wiring.query(bench.settings, SPOIL.format(key=bench.rows // 3))
    found += [measured(home, f"{name}, one wrong row", call) for name, call in ways]
    clean, wrong = found[1], found[1 + len(ways)]
    print(f"to pinpoint one wrong row: {wrong.seconds - clean.seconds:.1f} s more", flush=True)
    found.append(measured(home, "COPY TO STDOUT alone", bench.copied_away))
    found.append(measured(home, "resync of the table", bench.resynced))
    for one in found[-2:]:
        print(f"{one.name}: {int(str(one.found)) / one.seconds:,.0f} rows/s", flush=True)
    print(f"after the resync: {bench.checked()}", flush=True)
    return found


def picture(measures: list[Measure], path: Path) -> None:
    """Horizontal bars of the seconds, as SVG."""
    longest, height = max(one.seconds for one in measures), 26
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height * len(measures) + 8}"'
        ' font-family="system-ui, sans-serif" font-size="13" role="img"'
        ' aria-label="Seconds of each way">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for at, one in enumerate(measures):
        top, width = 4 + at * height, max(1, round(440 * one.seconds / longest))
        ours = one.name.startswith(("sluice", "resync"))
        lines += [
            f'<text x="230" y="{top + 17}" text-anchor="end" fill="#222">{one.name}</text>',
            f'<rect x="238" y="{top + 4}" width="{width}" height="18" rx="2"'
            f' fill="{"#2563eb" if ours else "#94a3b8"}"/>',
            f'<text x="{244 + width}" y="{top + 17}" fill="#222">{one.seconds:.1f} s</text>',
        ]
    path.write_text("\n".join([*lines, "</svg>", ""]))


@contextmanager
def filled(rows: int) -> Iterator[tuple[Settings, Path]]:
    """A stack whose `order_items` has so many rows on both sides, and its home."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", ignore_cleanup_errors=True) as folder:
        patient = {"SLUICE_QUALITY_SECONDS": "600"}  # the relay goes past what `fill` wrote
        environment = stack_environment(Path(folder)) | patient
        Stack(read_settings(environment)).launch()
        settings = read_settings(environment)
        stack = Stack(settings)
        try:
            stack.start(STORES, lambda _: None)
            ensure_database(settings.postgres, settings.postgres.database)
            create_tables(settings.postgres)
            wiring.initialise(settings)
            load(settings, customers=100, orders=500, seed=1)
            with relaying(settings):
                drained(settings)
            fill(settings, rows)
            with relaying(settings):
                yield settings, Path(folder)
        finally:
            stack.stop()


def fill(settings: Settings, rows: int) -> None:
    """Put so many rows into both sides, past the relay and the drain, which are not measured."""
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
        request = _asking(settings, INSERT)
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
    """Set up, measure, take down."""
    with filled(rows) as (settings, home):
        measures = compare(Bench(settings, rows), home)
    if path:
        picture(measures, Path(path))


if __name__ == "__main__":
    main(int([*sys.argv, "1000000"][1]), "".join(sys.argv[2:3]))
