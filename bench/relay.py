"""Measures the relay and its limits on its own servers; run by `make bench`, and alone:

    .venv/bin/python bench/relay.py [REPEATS [ROWS [PICTURE.svg]]]

Stream: from WAL that is already written to the last change acknowledged by the broker and confirmed
to PostgreSQL. Its limit is pg_recvlogical, which writes the output of the same plugin to /dev/null.
Snapshot: to the last acknowledged row. Its limit is `COPY ... TO STDOUT` to /dev/null.

The broker's limit is measured as well: prepared messages, sent by the relay's producer, to the last
acknowledgement. For a snapshot, so is reading rows as JSON messages without producing them.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.pictures import OTHER, OWN, Bar, bars
from sluice.capture import slot as slots
from sluice.capture.publisher import Batch, Publisher
from sluice.capture.row_reader import RowReader
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import Chunk
from sluice.embedded.postgres import BINARIES
from tests.faults.source import CATALOG, Source
from tests.support.services import stack_environment, started, temporary_home
from tests.support.waiting import until

# SQL that changes {rows} rows in transactions of 100.
LOOP = "DO $$ BEGIN FOR i IN 1..{rows}/100 LOOP {body}; COMMIT; END LOOP; END $$"
INSERT = "INSERT INTO things SELECT i * 100 + j, {name} FROM generate_series(1, 100) j"
KILOBYTE = "(SELECT string_agg(md5((i * k)::text), '') FROM generate_series(1, 32) k)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Changes to write; `share` is their number relative to `rows`."""

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
# Name, SQL of a row's text, and the number of rows relative to `rows`.
SNAPSHOTS = (
    ("snapshot of small rows", "'row ' || i", 1.0),
    ("snapshot of rows of 1 kB", KILOBYTE.replace("i * k", "i::int8 * k"), 0.2),
)


@contextmanager
def own_source() -> Iterator[Source]:
    """Run PostgreSQL and broker with settings for a benchmark."""
    with (
        temporary_home() as home,
        started(stack_environment(home), ("postgres", "broker")) as (settings, stack),
    ):
        source = Source(settings, stack)
        source.sql(
            "ALTER SYSTEM SET wal_sender_timeout = 0",  # the relay is stopped meanwhile
            "ALTER SYSTEM SET max_wal_size = '20GB'",
            "SELECT pg_reload_conf()",
        )
        yield source


def fresh(source: Source) -> Source:
    """Return a source with a new slot, empty tables and an empty broker."""
    source.stack.halt(["broker"])
    shutil.rmtree(source.settings.home / "broker")
    source.stack.start(["broker"], lambda _: None)
    source.sql(
        "DROP TABLE IF EXISTS parts, things",
        "CREATE TABLE things (id int PRIMARY KEY, name text)",
        "CREATE TABLE parts (id int PRIMARY KEY, thing_id int)",
    )
    return Source(source.settings, source.stack)


def forget(source: Source) -> None:
    """Drop the slots and the publication, which `fresh` recreates."""
    until(lambda: not source.active(), "no session reads from the slot")
    source.sql(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        " WHERE slot_name LIKE 'faults%' OR slot_name = 'limit'",
        f"DROP PUBLICATION IF EXISTS {source.settings.relay.publication}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The results of one run, in rows per second.

    Attributes:
        limit: by PostgreSQL's client, to /dev/null.
        produced: by the producer alone, with prepared messages.
        memory: the relay's highest memory, in bytes.
    """

    limit: float
    relay: float
    produced: float
    memory: int


def produced(source: Source, count: int) -> float:
    """Return messages per second of producing prepared messages."""
    with closing(KafkaLog(source.settings.kafka)) as changes:
        records = list(islice(chain(*changes.read("cdc.things", 0, Chunk(events=5000), 60)), 5000))
    publisher, batch = Publisher(source.settings.kafka, lambda: None), Batch()
    started = time.monotonic()
    for record in islice(cycle(records), count):
        publisher.publish("cdc.parts", record.key, record.value or b"", batch)
    publisher.flush(batch)
    while batch.undelivered:
        publisher.poll(0.01)
    return count / (time.monotonic() - started)


class Nowhere:
    """A publisher that drops a snapshot's messages."""

    def publish(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Drop it."""

    def flush(self, batch: Batch) -> None:
        """Do nothing."""

    def reject(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Drop it."""


def read_alone(source: Source, rows: int) -> float:
    """Return a snapshot's rows per second when its messages are dropped."""
    (table,) = (table for table in CATALOG.tables if table.name == "things")
    with slots.session(source.settings.postgres) as cursor:
        reader = RowReader(cursor, table, Nowhere(), Batch(end_lsn=1), lambda: None)
        started = time.monotonic()
        reader.read_pages(0, None)
        return rows / (time.monotonic() - started)


def stream(source: Source, workload: Workload, rows: int) -> Run:
    """Measure changes that are pending in the WAL, to the last one confirmed."""
    count = max(100, int(rows * workload.share))
    source = fresh(source)
    with source.process() as relay:
        until(lambda: source.confirmed() > 0 and source.active(), "the relay reads from its slot")
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
    alone = produced(source, min(count, rows))
    forget(source)
    return Run(limit=count / limit, relay=count / taken, produced=alone, memory=most)


def seconds(source: Source, end: int) -> float:
    """Return the seconds that pg_recvlogical takes to the end."""
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
    """Return the seconds that a client of PostgreSQL takes, discarding its output."""
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


def snapshot(source: Source, name: str, rows: int) -> Run:
    """Measure rows of the table, from the snapshot's start to the last one acknowledged."""
    source = fresh(source)
    source.sql(f"INSERT INTO things SELECT i, {name} FROM generate_series(1, {rows}) i")
    postgres = source.settings.postgres
    address = f"host={postgres.host} port={postgres.port} user={postgres.user}"
    copy = "COPY (SELECT * FROM things ORDER BY id) TO STDOUT"
    limit = timed(
        [str(BINARIES / "psql"), f"{address} dbname={postgres.database}", "-c", copy], source
    )
    most = 0
    with source.process() as relay:
        connected = "SELECT 1 FROM pg_replication_slots WHERE slot_name LIKE '%snapshot%'"
        until(lambda: bool(source.sql(connected)), "the snapshot has its slot")
        started = time.monotonic()
        while not source.confirmed():
            most = max(most, relay.memory_info().rss)
            time.sleep(0.02)
        taken = time.monotonic() - started
    alone = produced(source, rows)
    print(f"  {name}: read and dropped {read_alone(source, rows):,.0f} rows/s", file=sys.stderr)
    forget(source)
    return Run(limit=rows / limit, relay=rows / taken, produced=alone, memory=most)


def report(name: str, runs: list[Run]) -> tuple[str, float, float, float]:
    """Print a line of the table: medians, and the highest memory; return its name and rates."""
    limit, relay, alone = (
        statistics.median(getattr(run, rate) for run in runs)
        for rate in ("limit", "relay", "produced")
    )
    ratio = statistics.median(run.relay / run.limit for run in runs)
    most = max(run.memory for run in runs)
    print(
        f"| {name} | {limit:,.0f} | {relay:,.0f} | {ratio:.2f} | {alone:,.0f} |"
        f" {most / 1e6:.0f} MB |",
        flush=True,
    )
    return name, limit, relay, alone


def picture(lines: list[tuple[str, float, float, float]]) -> str:
    """Return an SVG of each line's relay and broker as shares of PostgreSQL's client."""
    rows: list[Bar | str] = []
    for name, limit, relay, alone in lines:
        rows.append(name)
        for what, rate, colour in (("relay", relay, OWN), ("producing alone", alone, OTHER)):
            rows.append(Bar(what, [(min(1.0, rate / limit), colour)], f"{rate:,.0f}/s"))
    return bars("share of the limit, with half of it marked", rows, mark=0.5)


def main() -> None:
    """Measure and print the table."""
    given = [int(text) for text in sys.argv[1:3]]
    repeats, rows = [*given, *(3, 1_000_000)[len(given) :]]
    print("| | limit, rows/s | relay, rows/s | relay / limit | producing alone | most memory |")
    print("|---|---|---|---|---|---|")
    lines = []
    with own_source() as source:
        for workload in WORKLOADS:
            runs = [stream(source, workload, rows) for _ in range(repeats)]
            lines.append(report(workload.name, runs))
        for what, name, count in SNAPSHOTS:
            runs = [snapshot(source, name, int(rows * count)) for _ in range(repeats)]
            lines.append(report(what, runs))
    if len(sys.argv) > 3:
        Path(sys.argv[3]).write_text(picture(lines))


if __name__ == "__main__":
    main()
