"""Loads a topic's events into ClickHouse in one way, in its own process; see drain.py.

    python bench/drain_ways.py WAY EVENTS

Prints JSON: seconds and CPU seconds without start and imports, and the highest resident memory in
MB. Addresses come from the environment. `quixstreams` and `dlt` run in another environment, without
Sluice.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

TOPIC = "cdc.orders"
BROKER: dict[str, str] = json.loads(os.environ["BENCH_BROKER"])
COLUMNS = ["id", "customer_id", "order_date", "status", "total", "version", "deleted"]
Work = Callable[[], None]


def main() -> None:
    """Prepare a way, then measure it."""
    way, events = sys.argv[1], int(sys.argv[2])
    work = WAYS[way](events)
    started, used = time.monotonic(), time.process_time()
    work()
    seconds, cpu = time.monotonic() - started, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": memory}))


def values(event: dict[str, Any]) -> list[Any]:
    """Return an event as a row of the peers' table."""
    row, metadata = event["payload"], event["metadata"]
    day = row.get("order_date") or "1970-01-01T00:00:00.000000Z"
    return [
        row["id"],
        row.get("customer_id", 0),
        day,
        row.get("status", ""),
        row.get("total", "0"),
        int(metadata["commit_lsn"].partition("/")[2], 16) * 8 + metadata["ordinal"],
        int(metadata["operation"] == "delete"),
    ]


def consumed(events: int) -> Iterator[list[Any]]:
    """Yield the topic's messages in lists."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({**BROKER, "group.id": uuid4().hex, "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    seen = 0
    while seen < events:
        messages = consumer.consume(10_000, 1.0)
        seen += len(messages)
        yield messages
    consumer.close()


def consume(events: int) -> Work:
    """Read the messages and drop them."""

    def work() -> None:
        for messages in consumed(events):
            for message in messages:
                message.value()

    return work


def drain(events: int) -> Work:
    """Drain the topic by Sluice."""
    from sluice import wiring
    from sluice.settings import read_settings

    settings = read_settings(os.environ)

    def work() -> None:
        report = wiring.drain(settings, "orders")
        assert (report.events, report.rejected) == (events, 0), report

    return work


def insert(events: int) -> Work:
    """Insert the decoded columns of one chunk repeatedly."""
    from models.generated import OrderEvent
    from sluice.catalog import load_catalog
    from sluice.clients.clickhouse import ClickHouse
    from sluice.drain.clickhouse_store import ClickHouseStore
    from sluice.drain.decoder import Decoder
    from sluice.drain.kafka_log import KafkaLog
    from sluice.drain.ports import Chunk
    from sluice.settings import read_settings

    settings, table = read_settings(os.environ), load_catalog("models").table("orders")
    records = next(iter(KafkaLog(settings.kafka).read(TOPIC, 0, Chunk(settings.drain.chunk), 60)))
    columns = Decoder(table, OrderEvent).decode(records, epoch=0, base_seq=0).rows
    assert columns
    store = ClickHouseStore(ClickHouse(settings.clickhouse))
    rounds, rest = divmod(events, len(columns[0]))

    def work() -> None:
        for _ in range(rounds):
            store.append(table, columns)
        if rest:
            store.append(table, [column[:rest] for column in columns])

    return work


def quixstreams(events: int) -> Work:
    """Load the topic by quixstreams, with a sink that writes by clickhouse-connect."""
    import clickhouse_connect
    from quixstreams import Application
    from quixstreams.kafka import ConnectionConfig
    from quixstreams.sinks.base import BatchingSink, SinkBatch

    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=int(os.environ["BENCH_HTTP_PORT"])
    )
    types = ["Int64", "Int64", "String", "String", "String", "UInt64", "UInt8"]

    class Sink(BatchingSink):  # type: ignore[misc]
        def write(self, batch: SinkBatch) -> None:
            rows = [values(item.value) for item in batch]
            client.insert("bench.peers", rows, column_names=COLUMNS, column_type_names=types)

    application = Application(
        broker_address=ConnectionConfig.from_librdkafka_dict(BROKER),
        consumer_group=uuid4().hex,
        auto_offset_reset="earliest",
        commit_every=50_000,
        commit_interval=60,
        loglevel="ERROR",
    )
    application.dataframe(application.topic(TOPIC, value_deserializer="json")).sink(Sink())
    return lambda: application.run(count=events, timeout=60)


def dlt(events: int) -> Work:
    """Load the topic by dlt, which writes files of rows and loads them."""
    import dlt as library

    os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"
    credentials = {
        "host": "127.0.0.1",
        "port": int(os.environ["BENCH_PORT"]),
        "http_port": int(os.environ["BENCH_HTTP_PORT"]),
        "username": "default",
        "password": "",
        "database": "bench",
        "secure": 0,
    }
    pipeline = library.pipeline(
        f"bench_{uuid4().hex[:8]}",
        destination=library.destinations.clickhouse(credentials=credentials),
        dataset_name="dlt",
    )

    def rows() -> Iterator[list[dict[str, Any]]]:
        for messages in consumed(events):
            yield [dict(zip(COLUMNS, values(json.loads(m.value())), strict=True)) for m in messages]

    return lambda: print(pipeline.run(rows, table_name="orders"), file=sys.stderr)


WAYS: dict[str, Callable[[int], Work]] = {
    "consume": consume,
    "drain": drain,
    "insert": insert,
    "quixstreams": quixstreams,
    "dlt": dlt,
}

if __name__ == "__main__":
    main()
