"""Compares the drain with other ways to load a topic into ClickHouse; run by `make bench`.

    .venv/bin/python bench/drain.py [EVENTS [REPEATS [PICTURE.svg]]]
    .venv/bin/python bench/drain.py backlog [EVENTS]

Starts its own services. One topic has EVENTS (1,000,000) inserts, updates and deletes
of orders. Every way loads all of them REPEATS (3) times, alternating, each in its own process;
medians are printed. `BENCH_PEERS_PYTHON` names the Python of an environment with quixstreams,
clickhouse-connect and dlt[clickhouse]; without it those are skipped.

`backlog` drains a topic of EVENTS (10,000,000) once and prints its memory over time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.pictures import OTHER, OWN, Bar, bars
from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.embedded.clickhouse_users import CONFIGURATION
from sluice.embedded.postgres import ensure_database
from sluice.embedded.programs import STORES
from sluice.embedded.stack import Stack
from sluice.generate.files import topics
from sluice.settings import read_settings
from sluice.star import create as warehouse
from tests.support.services import stack_environment, temporary_home

WAYS = Path(__file__).with_name("drain_ways.py")
PEERS = """
CREATE OR REPLACE TABLE bench.peers (
    id Int64, customer_id Int64, order_date String, status String, total String,
    version UInt64, deleted UInt8
) ENGINE = ReplacingMergeTree(version, deleted) ORDER BY id
"""
QUEUE = """
CREATE TABLE bench.queue (message String) ENGINE = Kafka
SETTINGS kafka_broker_list = '{broker}', kafka_topic_list = 'cdc.orders',
    kafka_group_name = 'engine_{number}', kafka_format = 'JSONAsString',
    kafka_security_protocol = 'sasl_plaintext', kafka_sasl_mechanism = '{mechanism}',
    kafka_sasl_username = '{user}', kafka_sasl_password = '{password}'
"""
VIEW = """
CREATE MATERIALIZED VIEW bench.queue_view TO bench.peers AS
SELECT JSONExtractInt(message, 'payload', 'id') AS id,
    JSONExtractInt(message, 'payload', 'customer_id') AS customer_id,
    JSONExtractString(message, 'payload', 'order_date') AS order_date,
    JSONExtractString(message, 'payload', 'status') AS status,
    JSONExtractString(message, 'payload', 'total') AS total,
    reinterpretAsUInt64(reverse(unhex(leftPad(splitByChar('/',
        JSONExtractString(message, 'metadata', 'commit_lsn'))[2], 16, '0')))) * 8
        + JSONExtractUInt(message, 'metadata', 'ordinal') AS version,
    JSONExtractString(message, 'metadata', 'operation') = 'delete' AS deleted
FROM bench.queue
"""
LIMIT = 300.0  # timeout of ClickHouse's engine, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The result of one run.

    Attributes:
        cpu, server: CPU seconds of the process and of ClickHouse.
        memory: highest memory of the process, MB.
    """

    seconds: float
    cpu: float
    server: float
    memory: float


class Bench:
    """A topic with events, and the ways to load them."""

    def __init__(self, stack: Stack, environment: dict[str, str], events: int) -> None:
        self.stack, self.settings, self.events = stack, read_settings(environment), events
        self._environment = environment
        self.peers = os.environ.get("BENCH_PEERS_PYTHON", "")

    def names(self) -> list[str]:
        """Return every way that can run here."""
        return ["consume", "insert", "drain", "engine"] + (
            ["quixstreams", "dlt"] if self.peers else []
        )

    def fill(self) -> None:
        """Produce the events: 60 % inserts, 35 % updates, 5 % deletes."""
        options = {"linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka.bootstrap,
                **self.settings.kafka.options,
                **options,
            }
        )
        for number in range(self.events):
            producer.produce("cdc.orders", *event(number))
            if number % 10_000 == 0:
                producer.poll(0)
                if len(producer) > 500_000:
                    producer.flush()
        producer.flush()

    def measure(self, name: str, number: int) -> Measure:
        """Run a way once on empty tables."""
        self.empty()
        before = self.server()
        run = self.engine(number) if name == "engine" else self.way(name)
        return Measure(**{**run, "server": self.server() - before})

    def way(self, name: str) -> dict[str, float]:
        """Run a way in its own process; return what it measured."""
        with self.started(name) as process:
            output, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name}: {errors[-2000:]}")
        measured: dict[str, float] = json.loads(output.splitlines()[-1])
        return measured

    def started(self, name: str) -> subprocess.Popen[str]:
        """Start the process of a way."""
        python = self.peers if name in {"quixstreams", "dlt"} else sys.executable
        return subprocess.Popen(
            [python, str(WAYS), name, str(self.events)],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def backlog(self, steps: int) -> Iterator[str]:
        """Drain all events once; yield a line for each of `steps` parts, then the totals."""
        self.empty()
        following = 1
        with self.started("drain") as process:
            drain = psutil.Process(process.pid)
            while process.poll() is None and following < steps:
                time.sleep(0.1)
                if (done := self.drained()) >= following * self.events // steps:
                    yield f"| {done:,} | {drain.memory_info().rss >> 20} |"
                    following += 1
            output, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"drain: {errors[-2000:]}")
        run = json.loads(output.splitlines()[-1])
        yield f"| {self.drained():,} | {run['memory']:.0f} at most |"
        yield f"\n{self.events / run['seconds']:,.0f} events/s, {run['cpu']:.1f} CPU s"

    def drained(self) -> int:
        """Return the checkpoint of the table."""
        query = "SELECT max(next_offset) FROM cdc.checkpoints"
        return int(wiring.query(self.settings, query)[1][0][0])

    def environment(self) -> dict[str, str]:
        """Return the environment of a way's process, with the services' addresses."""
        clickhouse = self.settings.clickhouse
        return {
            **self.stack.environment(),
            **self._environment,
            "BENCH_BROKER": json.dumps(
                {"bootstrap.servers": self.settings.kafka.bootstrap, **self.settings.kafka.options}
            ),
            "BENCH_PORT": str(clickhouse.port),
            "BENCH_HTTP_PORT": str(clickhouse.http_port),
            "SLUICE_DRAIN_EVENTS": str(self.events),
            "SLUICE_DRAIN_SECONDS": "3600",
        }

    def engine(self, number: int) -> dict[str, float]:
        """Load the topic by ClickHouse's Kafka table engine, with its default settings."""
        login = self.settings.kafka.options
        queue = QUEUE.format(
            broker=self.settings.kafka.bootstrap,
            number=number,
            mechanism=login["sasl.mechanisms"],
            user=login["sasl.username"],
            password=login["sasl.password"],
        )
        with closing(ClickHouse(self.settings.clickhouse)) as clickhouse:
            clickhouse.execute(queue)
            started = time.monotonic()
            clickhouse.execute(VIEW)
            while self.committed(f"engine_{number}") < self.events:
                if time.monotonic() - started > LIMIT:
                    raise SystemExit(f"the engine did not load the events in {LIMIT:.0f} s")
                time.sleep(0.1)
            seconds = time.monotonic() - started
            for name in ("queue_view", "queue"):
                clickhouse.execute(f"DROP TABLE bench.{name} SYNC")
        return {"seconds": seconds, "cpu": 0.0, "memory": 0.0}

    def committed(self, group: str) -> int:
        """Return a group's offset, which the engine commits after it has inserted the rows."""
        options = {
            "bootstrap.servers": self.settings.kafka.bootstrap,
            **self.settings.kafka.options,
            "group.id": group,
        }
        consumer = Consumer(options)
        try:
            (partition,) = consumer.committed([TopicPartition("cdc.orders", 0)], timeout=10)
        finally:
            consumer.close()
        return max(0, int(partition.offset))

    def empty(self) -> None:
        """Create or empty the tables."""
        orders = load_catalog("models").table("orders")
        with closing(ClickHouse(self.settings.clickhouse)) as clickhouse:
            clickhouse.execute("CREATE DATABASE IF NOT EXISTS bench")
            clickhouse.execute(PEERS)
            for name in ("checkpoints", "drains", orders.storage, orders.history):
                clickhouse.execute(f"TRUNCATE TABLE cdc.{name}")

    def server(self) -> float:
        """Return the CPU seconds that ClickHouse has used."""
        times = psutil.Process(self.stack.states()["clickhouse"].pid).cpu_times()
        return float(times.user + times.system)

    def idle(self) -> tuple[float, int]:
        """Return the median seconds of ten drains without events, and the parts they wrote."""
        parts = "SELECT count() FROM system.parts WHERE active OR NOT active"
        before = wiring.query(self.settings, parts)[1][0][0]
        runs = []
        for _ in range(10):
            started = time.monotonic()
            assert wiring.drain(self.settings, "orders").events == 0
            runs.append(time.monotonic() - started)
        return statistics.median(runs), wiring.query(self.settings, parts)[1][0][0] - before


def event(number: int) -> tuple[bytes, bytes]:
    """Return value and key of one change, as the relay writes them."""
    kind, lsn = number % 100, 0x1000000 + number // 5 * 0x100
    operation, key = ("insert", number + 1) if kind < 60 else ("update", number - 30)
    row = (
        f'{{"id":{key},"customer_id":{number % 9973},"order_date":"2026-01-{1 + number % 28:02}T'
        f'{number % 24:02}:{number % 60:02}:00.{number % 1000000:06}Z","status":"paid",'
        f'"total":"{number % 1000}.{number % 100:02}"}}'
    )
    if kind >= 95:
        operation, key = "delete", number - 50
        row = f'{{"id":{key}}}'
    value = (
        f'{{"metadata":{{"source":"relay","table":"orders","operation":"{operation}",'
        f'"lsn":"0/{lsn:X}","commit_lsn":"0/{lsn:X}","ordinal":{number % 5 + 1},'
        f'"commit_ts_ms":{1767225600000 + number}}},"payload":{row},"before":null}}'
    )
    return value.encode(), f'{{"id":{key}}}'.encode()


def open_to_peers(home: Path) -> None:
    """Grant ClickHouse's `default` everything: peers need their own database and an engine."""
    configuration = "<clickhouse><mlock_executable>false</mlock_executable></clickhouse>"
    (home / "run" / CONFIGURATION).write_text(configuration)


@contextmanager
def bench(events: int) -> Iterator[Bench]:
    """Run the services, with the topic filled."""
    with temporary_home() as home:
        environment = stack_environment(home)
        Stack(read_settings(environment)).launch()
        open_to_peers(home)
        stack = Stack(read_settings(environment))  # with the passwords that were made
        environment |= {"SLUICE_CLICKHOUSE_USER": "default"}
        settings = read_settings(environment)
        try:
            stack.start(STORES, lambda _: None)
            ensure_database(settings.postgres, settings.postgres.database)
            catalog = load_catalog(settings.models)
            Topics(settings.kafka).ensure(topics(catalog))
            with closing(ClickHouse(settings.clickhouse)) as clickhouse:
                warehouse.create_warehouse(clickhouse, catalog)
            subject = Bench(stack, environment, events)
            subject.fill()
            yield subject
        finally:
            stack.stop()


def median(runs: list[Measure]) -> Measure:
    """Return the median of each figure."""
    figures = ("seconds", "cpu", "server", "memory")
    return Measure(**{f: statistics.median(getattr(run, f) for run in runs) for f in figures})


def table(results: dict[str, Measure], events: int) -> Iterator[str]:
    """Yield Markdown lines; ratios compare the drain's events per second with each way's."""
    yield "| way | events/s | the drain is | CPU s | CPU s of ClickHouse | MB |"
    yield "|---|---:|---:|---:|---:|---:|"
    ours = results["drain"].seconds
    for name, run in results.items():
        yield (
            f"| {name} | {events / run.seconds:,.0f} | {run.seconds / ours:.2f} x |"
            f" {run.cpu:.1f} | {run.server:.1f} | {run.memory:.0f} |"
        )


def picture(results: dict[str, Measure], events: int) -> str:
    """Return an SVG of events per second."""
    rates = {name: events / run.seconds for name, run in results.items()}
    return bars(
        "events per second",
        [
            Bar(name, [(rate, OWN if name == "drain" else OTHER)], f"{rate:,.0f}")
            for name, rate in rates.items()
        ],
    )


def main() -> None:
    """Print the table, and write the picture if it is named."""
    given = dict(enumerate(sys.argv))
    if given.get(1) == "backlog":
        with bench(int(given.get(2, 10_000_000))) as subject:
            print("| events drained | MB |\n|---:|---:|")
            for line in subject.backlog(10):
                print(line, flush=True)
        return
    events, repeats = int(given.get(1, 1_000_000)), int(given.get(2, 3))
    with bench(events) as subject:
        runs: dict[str, list[Measure]] = {name: [] for name in subject.names()}
        for number in range(repeats):
            for name, measures in runs.items():
                measures.append(subject.measure(name, number))
                print(f"{number + 1}: {name}, {measures[-1].seconds:.1f} s", file=sys.stderr)
        subject.way("drain")
        seconds, parts = subject.idle()
    results = {name: median(measures) for name, measures in runs.items()}
    print("\n".join(table(results, events)))
    print(f"\nA drain without events: {seconds:.2f} s, {parts} new parts in ten runs.")
    if path := given.get(3):
        Path(path).write_text(picture(results, events))


if __name__ == "__main__":
    main()
