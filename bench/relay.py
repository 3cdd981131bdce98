"""Measures the relay beside its limits, on servers of its own; by `make bench`, and alone:

    .venv/bin/python bench/relay.py [REPEATS] [ROWS]

Stream: from WAL that is already written to the last change acknowledged by the broker and confirmed
to Postgres; its limit is pg_recvlogical, which writes the same slot plugin's output to /dev/null.
Snapshot: to the last row acknowledged; its limit is `COPY ... TO STDOUT` to /dev/null.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sluice.embedded.postgres import BINARIES, ensure_database
from sluice.embedded.stack import Stack
from sluice.settings import read_settings
from tests.conftest import stack_environment, temporary_home
from tests.faults.source import Source, until

# Name -> SQL that changes {rows} rows, in transactions of 100 where it commits.
LOOP = "DO $$ BEGIN FOR i IN 1..{rows}/100 LOOP {body}; COMMIT; END LOOP; END $$"
INSERT = "INSERT INTO things SELECT i * 100 + j, {name} FROM generate_series(1, 100) j"
KILOBYTE = "(SELECT string_agg(md5((i * k)::text), '') FROM generate_series(1, 32) k)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Changes to write, and how many of `rows` they are."""

    name: str
    statement: str
    share: float = 1.0


WORKLOADS = (
    Workload(
        name="small rows, a thousand pending",
        statement=LOOP.replace("{body}", INSERT.format(name="'row ' || j")),
        share=0.001,
    ),
    Workload(
        name="small rows, all pending",
        statement=LOOP.replace("{body}", INSERT.format(name="'row ' || j")),
    ),
    Workload(
        name="rows of 1 kB",
        statement=LOOP.replace("{body}", INSERT.format(name=KILOBYTE)),
        share=0.2,
    ),
    Workload(
        name="one huge transaction",
        statement="INSERT INTO things SELECT i, 'row ' || i FROM generate_series(1, {rows}) i",
        share=5,
    ),
)


@contextmanager
def own_source() -> Iterator[Source]:
    """PostgreSQL and broker, set for a benchmark."""
    with temporary_home() as home:
        environment = stack_environment(home)
        Stack(read_settings(environment)).launch()
        settings = read_settings(environment)
        stack = Stack(settings)
        try:
            stack.start(("postgres", "broker"), lambda _: None)
            ensure_database(settings.postgres, settings.postgres.database)
            source = Source(settings, stack)
            source.sql(
                "ALTER SYSTEM SET wal_sender_timeout = 0",  # processes are held while WAL is made
                "ALTER SYSTEM SET max_wal_size = '20GB'",
                "SELECT pg_reload_conf()",
            )
            yield source
        finally:
            stack.stop()


def fresh(source: Source) -> Source:
    """A slot of its own, empty tables, and a broker without memory of what was before."""
    source.stack.restart(("broker",), lambda _: None)
    source.sql(
        "DROP TABLE IF EXISTS parts, things",
        "CREATE TABLE things (id int PRIMARY KEY, name text)",
        "CREATE TABLE parts (id int PRIMARY KEY, thing_id int)",
    )
    return Source(source.settings, source.stack)


def forget(source: Source) -> None:
    """Drop what `fresh` will make anew."""
    until(lambda: not source.active())
    source.sql(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        " WHERE slot_name LIKE 'faults%' OR slot_name = 'limit'",
        f"DROP PUBLICATION IF EXISTS {source.settings.relay.publication}",
    )


def stream(source: Source, workload: Workload, rows: int) -> tuple[float, float, int]:
    """Changes a second of the limit and of the relay, and the relay's most memory in bytes."""
    count = max(100, int(rows * workload.share))
    source = fresh(source)
    with source.process() as relay:
        until(lambda: source.confirmed() > 0 and source.active())
        relay.send_signal(signal.SIGSTOP)
        source.sql("SELECT pg_create_logical_replication_slot('limit', 'pgoutput')")
        source.sql(workload.statement.format(rows=count))
        end = source.lsn()
        source.sql("SELECT pg_logical_emit_message(true, 'bench', '')", "CHECKPOINT")
        limit = seconds(source, end)
        most, started = 0, time.monotonic()
        relay.send_signal(signal.SIGCONT)
        while source.confirmed() < end:
            most = max(most, relay.memory_info().rss)
            time.sleep(0.02)
        taken = time.monotonic() - started
    forget(source)
    return count / limit, count / taken, most


def seconds(source: Source, end: int) -> float:
    """How long pg_recvlogical takes to the end."""
    postgres = source.settings.postgres
    options = {
        "--slot": "limit",
        "--host": postgres.host,
        "--port": str(postgres.port),
        "--username": postgres.user,
        "--dbname": postgres.database,
        "--file": "/dev/null",
        "--endpos": f"{end >> 32:X}/{end & 0xFFFFFFFF:X}",
    }
    plugin = ["proto_version=1", f"publication_names={source.settings.relay.publication}"]
    command = [str(BINARIES / "pg_recvlogical"), "--start", "--no-loop"]
    command += [part for pair in options.items() for part in pair]
    command += [part for option in plugin for part in ("-o", option)]
    return timed(command, source)


def timed(command: list[str], source: Source) -> float:
    """Seconds that a client of PostgreSQL takes, its output thrown away."""
    password = source.settings.postgres.password.get_secret_value()
    started = time.monotonic()
    subprocess.run(
        command,
        check=True,
        env={**os.environ, "PGPASSWORD": password},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - started


def snapshot(source: Source, rows: int) -> tuple[float, float, int]:
    """Rows a second of the limit and of the relay, from its start, and its most memory."""
    source = fresh(source)
    source.sql(f"INSERT INTO things SELECT i, 'row ' || i FROM generate_series(1, {rows}) i")
    postgres = source.settings.postgres
    address = f"host={postgres.host} port={postgres.port} user={postgres.user}"
    copy = "COPY (SELECT * FROM things ORDER BY id) TO STDOUT"
    limit = timed(
        [str(BINARIES / "psql"), f"{address} dbname={postgres.database}", "-c", copy], source
    )
    most = 0
    with source.process() as relay:
        connected = "SELECT 1 FROM pg_replication_slots WHERE slot_name LIKE '%snapshot%'"
        until(lambda: bool(source.sql(connected)))
        started = time.monotonic()
        while not source.confirmed():
            most = max(most, relay.memory_info().rss)
            time.sleep(0.02)
        taken = time.monotonic() - started
    forget(source)
    return rows / limit, rows / taken, most


def report(name: str, runs: list[tuple[float, float, int]]) -> None:
    """A line of the table: medians, and the most memory of all runs."""
    limit = statistics.median(run[0] for run in runs)
    ours = statistics.median(run[1] for run in runs)
    ratio = statistics.median(run[1] / run[0] for run in runs)
    most = max(run[2] for run in runs)
    print(
        f"| {name} | {limit:,.0f} | {ours:,.0f} | {ratio:.2f} | {most / 1e6:.0f} MB |", flush=True
    )


def main() -> None:
    """Measure and print the table."""
    given = [int(text) for text in sys.argv[1:]]
    repeats, rows = [*given, *(3, 1_000_000)[len(given) :]]
    print("| | limit, rows/s | relay, rows/s | relay / limit | most memory |")
    print("|---|---|---|---|---|")
    with own_source() as source:
        for workload in WORKLOADS:
            report(workload.name, [stream(source, workload, rows) for _ in range(repeats)])
        report("snapshot", [snapshot(source, rows) for _ in range(repeats)])


if __name__ == "__main__":
    main()
