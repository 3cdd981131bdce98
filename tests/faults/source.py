"""A PostgreSQL and a broker of the test's own, a relay between them, and what came of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg2
from confluent_kafka import Consumer, KafkaException, TopicPartition

from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.broker import Broker
from sluice.clients.postgres import connection_options
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import Chunk
from sluice.embedded.stack import Stack
from sluice.errors import SluiceError
from sluice.events.event import UNCHANGED
from sluice.events.positions import parse_lsn
from sluice.settings import PROJECT, KafkaSettings, RelaySettings, Settings
from tests.support.outside_broker import require_embedded
from tests.support.processes import SLUICE, process_of
from tests.support.waiting import until

MODELS = "tests.faults.models"
CATALOG = load_catalog(MODELS)
TABLES = ("things", "parts")
Row = dict[str, Any]


class Source:
    """One slot on the server; each test has its own, and empty tables."""

    def __init__(self, settings: Settings, stack: Stack, ack: str = "broker") -> None:
        relay = RelaySettings(slot=f"faults_{uuid4().hex[:8]}", ack=ack)
        self.settings = replace(settings, models=MODELS, relay=relay)
        self.stack = stack

    @property
    def slot(self) -> str:
        return self.settings.relay.slot

    def connect(self) -> Any:
        """A session in autocommit mode; transactions are written out."""
        connection = psycopg2.connect(**connection_options(self.settings.postgres))
        connection.autocommit = True
        return connection

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run each by itself; the rows of the last."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def transaction(self, *statements: str) -> None:
        self.sql("BEGIN; " + "; ".join(statements) + "; COMMIT")

    def lsn(self, expression: str = "pg_current_wal_insert_lsn()") -> int:
        return parse_lsn(self.sql(f"SELECT ({expression})::text")[0][0])

    def confirmed(self) -> int:
        """What the slot has confirmed; 0 where there is no slot."""
        rows = self.sql(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"
            f" WHERE slot_name = '{self.slot}'"
        )
        return parse_lsn(rows[0][0]) if rows and rows[0][0] else 0

    @contextmanager
    def relaying(self, *, snapshot: bool = False) -> Iterator[Relaying]:
        """A relay in a thread; it has its slot, with a snapshot a new one, when this begins."""
        before = self.confirmed() if snapshot else 0
        relaying = Relaying(self.settings, snapshot)
        try:
            until(
                lambda: self.confirmed() > before or relaying.error is not None,
                "the relay has its slot",
            )
            yield relaying
        finally:
            relaying.stop()

    @contextmanager
    def process(self, *arguments: str) -> Iterator[psutil.Process]:
        """A relay in a process of its own, which may be killed."""
        environment = {
            **os.environ,
            **self.stack.environment(),
            "SLUICE_MODELS": MODELS,
            "SLUICE_SLOT": self.slot,
            "SLUICE_RELAY_ACK": "broker",
            "SLUICE_POSTGRES_PORT": str(self.settings.postgres.port),
            "SLUICE_KAFKA_BOOTSTRAP": self.settings.kafka.bootstrap,
            "SLUICE_KAFKA_OPTIONS": json.dumps(dict(self.settings.kafka.options)),
        }
        command = [SLUICE, "relay", *arguments]
        started = subprocess.Popen(
            command,
            env=environment,
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield psutil.Process(started.pid)
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGTERM)
            started.wait(30)

    def events(self, table: str = "things") -> list[Row]:
        """All events of a table, in the topic's order."""
        topic = f"cdc.{table}"
        with closing(KafkaLog(self.settings.kafka)) as changes:
            records = [r for chunk in changes.read(topic, 0, Chunk(10_000), 60) for r in chunk]
        return [json.loads(record.value or b"") for record in records]

    def keys(self, table: str = "things") -> set[bytes]:
        """The keys of a table's events, which are read one chunk after the other."""
        with closing(KafkaLog(self.settings.kafka)) as changes:
            chunks = changes.read(f"cdc.{table}", 0, Chunk(10_000), 60)
            return {r.key for chunk in chunks for r in chunk if r.key is not None}

    def topic_has(self, table: str, batches: int = 1) -> bool:
        """Whether so many batches of the table are on the broker, or more; asked at once."""
        return self.batches(table) >= batches

    def batches(self, table: str) -> int:
        """How many batches of the table are on the broker; 0 where it has no such topic yet."""
        options = {**Broker(self.settings.kafka).options, "group.id": "faults"}
        with closing(Consumer(options)) as consumer, suppress(KafkaException):
            place = TopicPartition(f"cdc.{table}", 0)
            return int(consumer.get_watermark_offsets(place, timeout=10)[1])
        return 0

    def rows(self, table: str = "things") -> dict[int, Row]:
        """The rows that the events give, each by its version, in whatever order they came."""
        rows: dict[int, tuple[Any, Row | None]] = {}
        cleared: Any = (0, 0)
        for event in sorted(self.events(table), key=version):
            payload, before = event["payload"], event["before"]
            operation, at = event["metadata"]["operation"], version(event)
            if operation == "truncate":
                rows.clear()
                cleared = at
            elif payload is None:  # of a row that is too large
                continue
            elif operation == "delete":
                rows[payload["id"]] = (at, None)
            elif at > cleared:
                former = rows.get((before or payload)["id"], (0, None))[1] or {}
                row = {
                    name: former[name] if value == UNCHANGED else value
                    for name, value in payload.items()
                }
                if before is not None and before["id"] != payload["id"]:
                    rows[before["id"]] = (at, None)
                rows[payload["id"]] = (at, row)
        return {key: row for key, (_, row) in rows.items() if row is not None}

    def expected(self, table: str = "things") -> dict[int, Row]:
        """The rows as Postgres has them."""
        found = self.sql(f"SELECT to_jsonb(t) FROM {table} t")
        return {row["id"]: row for (row,) in found}

    def arrives(self, table: str = "things") -> None:
        """Wait until the events give what Postgres has."""
        until(
            lambda: self.rows(table) == self.expected(table),
            f"the events of {table} give what PostgreSQL has",
        )

    def ack(self, ack: str) -> None:
        """What the relay takes as durable from here on."""
        relay = replace(self.settings.relay, ack=ack)
        self.settings = replace(self.settings, relay=relay)

    def active(self) -> bool:
        """Whether a session reads from the slot."""
        where = f"WHERE slot_name = '{self.slot}'"
        return self.sql(f"SELECT active FROM pg_replication_slots {where}") == [(True,)]

    def drop_slot(self) -> None:
        until(lambda: not self.active(), "no session reads from the slot")
        self.sql(f"SELECT pg_drop_replication_slot('{self.slot}')")

    @contextmanager
    def server_stopped(self) -> Iterator[Path]:
        """PostgreSQL's data folder while it is stopped; it starts again after."""
        self.stack.halt(("postgres",))
        yield self.settings.home / "postgres"
        self.stack.start(("postgres",), lambda _: None)

    def crash_server(self) -> None:
        """SIGKILL PostgreSQL; back when its supervisor has started it again."""
        self.server().kill()
        until(self._answers, "PostgreSQL answers")

    def _answers(self) -> bool:
        with suppress(psycopg2.Error):
            return self.sql("SELECT NOT pg_is_in_recovery()") == [(True,)]
        return False

    def limit(self, kafka: KafkaSettings) -> None:
        """Reach the broker with these options from here on."""
        self.settings = replace(self.settings, kafka=kafka)

    def too_large(self, table: str = "things") -> list[str]:
        """The operations of events without their row."""
        metadata = [e["metadata"]["operation"] for e in self.events(table) if not e["payload"]]
        return [operation for operation in metadata if operation != "truncate"]

    def server(self) -> psutil.Process:
        return process_of(self.stack.states()["postgres"].pid)

    def broker(self) -> psutil.Process:
        require_embedded("this test stops the broker's process")
        return process_of(self.stack.states()["broker"].pid)


class Relaying:
    """A relay in a thread, and what it ended with."""

    def __init__(self, settings: Settings, snapshot: bool) -> None:
        self.error: SluiceError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(settings, snapshot))
        self._thread.start()

    def _run(self, settings: Settings, snapshot: bool) -> None:
        try:
            run(settings, CATALOG, snapshot=snapshot, stop=self._stop)
        except SluiceError as error:
            self.error = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def ends(self) -> SluiceError:
        """The error that it ends with by itself."""
        until(lambda: self.error is not None, "the relay ends with an error")
        assert self.error is not None
        return self.error


def version(event: Row) -> tuple[int, int]:
    metadata = event["metadata"]
    return parse_lsn(metadata["commit_lsn"]), metadata["ordinal"]
