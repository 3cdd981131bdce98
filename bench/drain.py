"""Measures the drain beside what else brings a topic into ClickHouse; run by `make bench`.

    .venv/bin/python bench/drain.py [EVENTS [REPEATS [PICTURE.svg]]]
    .venv/bin/python bench/drain.py backlog [EVENTS]

A broker and a ClickHouse of its own (BENCH_BROKER=host:port takes another, for tests alone; its
topic cdc.orders is deleted); EVENTS (1,000,000) changes of orders on one topic: inserts,
updates and deletes. Every way takes all of them, in a process of its own, in turns, REPEATS (3)
times; medians count. `BENCH_PEERS_PYTHON` names the Python of an environment with quixstreams,
clickhouse-connect and dlt[clickhouse]; without it those are left out.

`backlog` drains a topic of EVENTS (10,000,000) once and tells how its memory goes.
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

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.embedded.clickhouse_users import CONFIGURATION
from sluice.embedded.stack import Stack
from sluice.generate.files import topics
from sluice.settings import read_settings
from sluice.star import create as warehouse
from tests.support.services import delete_topics, stack_environment, temporary_home

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
    kafka_group_name = 'engine_{number}', kafka_format = 'JSONAsString'
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
LIMIT = 300.0  # seconds that ClickHouse's engine is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One run of a way; CPU of its own process and of ClickHouse, memory in MB."""

    seconds: float
    cpu: float
    server: float
    memory: float


class Bench:
    """A topic with so many events, and the ways to take them."""

    def __init__(self, stack: Stack, environment: dict[str, str], events: int) -> None:
        self.stack, self.settings, self.events = stack, read_settings(environment), events
        self._environment = environment
        self.peers = os.environ.get("BENCH_PEERS_PYTHON", "")

    def names(self) -> list[str]:
        """Every way that can run here."""
        return ["consume", "insert", "drain", "engine"] + (
            ["quixstreams", "dlt"] if self.peers else []
        )

    def fill(self) -> None:
        """Put the events onto the topic: 60 of 100 insert, 35 update, 5 delete."""
        options = {"linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
        producer = Producer({"bootstrap.servers": self.settings.kafka.bootstrap, **options})
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
        """In a process of its own."""
        with self.started(name) as process:
            said, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name}: {errors[-2000:]}")
        measured: dict[str, float] = json.loads(said.splitlines()[-1])
        return measured

    def started(self, name: str) -> subprocess.Popen[str]:
        """The process of a way."""
        python = self.peers if name in {"quixstreams", "dlt"} else sys.executable
        return subprocess.Popen(
            [python, str(WAYS), name, str(self.events)],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def backlog(self, steps: int) -> Iterator[str]:
        """Drain all of it once: a line for each of `steps` parts, then one for all."""
        self.empty()
        following = 1
        with self.started("drain") as process:
            drain = psutil.Process(process.pid)
            while process.poll() is None and following < steps:
                time.sleep(0.1)
                if (done := self.drained()) >= following * self.events // steps:
                    yield f"| {done:,} | {drain.memory_info().rss >> 20} |"
                    following += 1
            said, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"drain: {errors[-2000:]}")
        run = json.loads(said.splitlines()[-1])
        yield f"| {self.drained():,} | {run['memory']:.0f} at most |"
        yield f"\n{self.events / run['seconds']:,.0f} events/s, {run['cpu']:.1f} CPU s"

    def drained(self) -> int:
        """The checkpoint of the table."""
        query = "SELECT max(next_offset) FROM cdc.checkpoints"
        return int(wiring.query(self.settings, query)[1][0][0])

    def environment(self) -> dict[str, str]:
        """What a way finds the services by."""
        clickhouse = self.settings.clickhouse
        return {
            **self.stack.environment(),
            **self._environment,
            "BENCH_BROKER": self.settings.kafka.bootstrap,
            "BENCH_PORT": str(clickhouse.port),
            "BENCH_HTTP_PORT": str(clickhouse.http_port),
            "SLUICE_DRAIN_EVENTS": str(self.events),
            "SLUICE_DRAIN_SECONDS": "3600",
        }

    def engine(self, number: int) -> dict[str, float]:
        """ClickHouse's own Kafka table, with the settings that it has by default."""
        broker = self.settings.kafka.bootstrap
        with closing(ClickHouse(self.settings.clickhouse)) as clickhouse:
            clickhouse.execute(QUEUE.format(broker=broker, number=number))
            started = time.monotonic()
            clickhouse.execute(VIEW)
            while self.committed(f"engine_{number}") < self.events:
                if time.monotonic() - started > LIMIT:
                    raise SystemExit(f"the engine did not take the events in {LIMIT:.0f} s")
                time.sleep(0.1)
            seconds = time.monotonic() - started
            for name in ("queue_view", "queue"):
                clickhouse.execute(f"DROP TABLE bench.{name} SYNC")
        return {"seconds": seconds, "cpu": 0.0, "memory": 0.0}

    def committed(self, group: str) -> int:
        """A group's offset, which the engine commits after its rows are in the table."""
        options = {"bootstrap.servers": self.settings.kafka.bootstrap, "group.id": group}
        consumer = Consumer(options)
        try:
            (found,) = consumer.committed([TopicPartition("cdc.orders", 0)], timeout=10)
        finally:
            consumer.close()
        return max(0, int(found.offset))

    def empty(self) -> None:
        """Make the tables as before the first run."""
        orders = load_catalog("models").table("orders")
        with closing(ClickHouse(self.settings.clickhouse)) as clickhouse:
            clickhouse.execute("CREATE DATABASE IF NOT EXISTS bench")
            clickhouse.execute(PEERS)
            for name in ("checkpoints", "drains", orders.storage, orders.history):
                clickhouse.execute(f"TRUNCATE TABLE cdc.{name}")

    def server(self) -> float:
        """CPU seconds that ClickHouse has used."""
        times = psutil.Process(self.stack.states()["clickhouse"].pid).cpu_times()
        return float(times.user + times.system)

    def idle(self) -> tuple[float, int]:
        """Seconds of a drain that finds nothing, median of ten, and parts that it made."""
        parts = "SELECT count() FROM system.parts WHERE active OR NOT active"
        before = wiring.query(self.settings, parts)[1][0][0]
        runs = []
        for _ in range(10):
            started = time.monotonic()
            assert wiring.drain(self.settings, "orders").events == 0
            runs.append(time.monotonic() - started)
        return statistics.median(runs), wiring.query(self.settings, parts)[1][0][0] - before


def event(number: int) -> tuple[bytes, bytes]:
    """Value and key of one change, as the relay writes them."""
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
    """Let ClickHouse's `default` do everything: peers need a database and an engine of theirs."""
    configuration = "<clickhouse><mlock_executable>false</mlock_executable></clickhouse>"
    (home / "run" / CONFIGURATION).write_text(configuration)


@contextmanager
def bench(events: int) -> Iterator[Bench]:
    """Broker and ClickHouse, the topic filled."""
    with temporary_home() as home:
        environment = stack_environment(home) | {"SLUICE_CLICKHOUSE_USER": "default"}
        outside = os.environ.get("BENCH_BROKER", "")
        stack = Stack(read_settings(environment))
        stack.launch()
        open_to_peers(home)
        environment |= {"SLUICE_KAFKA_BOOTSTRAP": outside} if outside else {}
        settings = read_settings(environment)
        try:
            stack.start(("clickhouse",) if outside else ("broker", "clickhouse"), lambda _: None)
            if outside:
                delete_topics(settings, {"cdc.orders"})
            catalog = load_catalog(settings.models)
            Topics(settings.kafka).ensure(topics(catalog))
            with closing(ClickHouse(settings.clickhouse)) as clickhouse:
                warehouse.create_warehouse(clickhouse, catalog)
            made = Bench(stack, environment, events)
            made.fill()
            yield made
        finally:
            stack.stop()


def median(runs: list[Measure]) -> Measure:
    """Of each figure by itself."""
    figures = ("seconds", "cpu", "server", "memory")
    return Measure(**{f: statistics.median(getattr(run, f) for run in runs) for f in figures})


def table(found: dict[str, Measure], events: int) -> Iterator[str]:
    """Markdown, a line each; ratios are events per second against those of the drain."""
    yield "| way | events/s | the drain is | CPU s | CPU s of ClickHouse | MB |"
    yield "|---|---:|---:|---:|---:|---:|"
    ours = found["drain"].seconds
    for name, run in found.items():
        yield (
            f"| {name} | {events / run.seconds:,.0f} | {run.seconds / ours:.2f} x |"
            f" {run.cpu:.1f} | {run.server:.1f} | {run.memory:.0f} |"
        )


def picture(found: dict[str, Measure], events: int) -> str:
    """Events per second as bars, SVG."""
    most = max(events / run.seconds for run in found.values())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{30 * len(found) + 10}"'
        ' font-family="sans-serif" font-size="14">'
    ]
    for row, (name, run) in enumerate(found.items()):
        rate, y = events / run.seconds, 30 * row + 5
        width, color = 400 * rate / most, "#0b7285" if name == "drain" else "#adb5bd"
        lines.append(f'<text x="4" y="{y + 17}">{name}</text>')
        lines.append(f'<rect x="110" y="{y}" width="{width:.0f}" height="22" fill="{color}"/>')
        lines.append(f'<text x="{width + 118:.0f}" y="{y + 17}">{rate:,.0f} events/s</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Print the table, and write the picture where one is asked for."""
    given = dict(enumerate(sys.argv))
    if given.get(1) == "backlog":
        with bench(int(given.get(2, 10_000_000))) as made:
            print("| events drained | MB |\n|---:|---:|")
            for line in made.backlog(10):
                print(line, flush=True)
        return
    events, repeats = int(given.get(1, 1_000_000)), int(given.get(2, 3))
    with bench(events) as made:
        runs: dict[str, list[Measure]] = {name: [] for name in made.names()}
        for number in range(repeats):
            for name, kept in runs.items():
                kept.append(made.measure(name, number))
                print(f"{number + 1}: {name}, {kept[-1].seconds:.1f} s", file=sys.stderr)
        made.way("drain")
        seconds, parts = made.idle()
    found = {name: median(kept) for name, kept in runs.items()}
    print("\n".join(table(found, events)))
    print(f"\nA drain that finds nothing: {seconds:.2f} s, {parts} new parts in ten runs.")
    if path := given.get(3):
        Path(path).write_text(picture(found, events))


if __name__ == "__main__":
    main()
