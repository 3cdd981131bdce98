"""One table's drain on real services, beside what the same events give on the twins."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.drain import Drain
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import DrainReport
from sluice.generate.files import topics
from sluice.settings import Settings, read_settings
from sluice.star.create import create_warehouse
from tests.support.products import DECODER, LIMITS, TABLE, Step, history
from tests.support.services import stack_environment, started

CHUNK = 20


@contextmanager
def running(home: Path) -> Iterator[dict[str, str]]:
    """Broker and ClickHouse with everything that the drain needs; yield their variables."""
    catalog, environment = load_catalog("models"), stack_environment(home)
    with started(environment, ("broker", "clickhouse")) as (settings, _):
        Topics(settings.kafka).ensure(topics(catalog))
        with closing(ClickHouse(settings.clickhouse)) as clickhouse:
            create_warehouse(clickhouse, catalog)
        yield environment


class DrainedTable:
    """Products: a topic that is filled anew, and its current state."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.settings: Settings = read_settings(environment)
        self.environment = dict(environment)
        self.clickhouse = ClickHouse(self.settings.clickhouse)
        self._topics = Topics(self.settings.kafka)
        self._admin = AdminClient(
            {"bootstrap.servers": self.settings.kafka.bootstrap, **self.settings.kafka.options}
        )
        self.expected: dict[int, str] = {}
        self.events = 0

    def begin(self, steps: int = 100, seed: int = 1) -> None:
        """Empty table and topic, then put random changes and a few rejects on the topic."""
        for name in (TABLE.storage, TABLE.history, "checkpoints", "dead_letters", "drains"):
            self.clickhouse.execute(f"TRUNCATE TABLE cdc.{name}")
        self.recreate()
        chance = random.Random(seed)
        kinds = ["write"] * 12 + ["partial", "partial", "delete", "delete", "truncate"]
        changes = [
            Step(
                kind=chance.choice(kinds),
                key=chance.randrange(1, 30),
                to=chance.choice([None, None, None, chance.randrange(1, 30)]),
            )
            for _ in range(steps)
        ]
        events, self.expected = history(changes)
        for at in (3, 30):
            events.insert(at, b"not an event")
        self.events = len(events)
        self.produce(events)

    def recreate(self) -> None:
        """Delete the topic and create it again, empty."""
        for future in self._admin.delete_topics([TABLE.topic]).values():
            future.result()
        self._topics.ensure([TABLE.topic])

    def produce(self, events: list[bytes]) -> None:
        producer = Producer(
            {"bootstrap.servers": self.settings.kafka.bootstrap, **self.settings.kafka.options}
        )
        for value in events:
            producer.produce(TABLE.topic, value=value)
            producer.poll(0)
        assert producer.flush(20) == 0

    def drain(self, reached: Callable[[str], None] = lambda _: None, port: int = 0) -> DrainReport:
        """A drain with small chunks; `port` is another way to ClickHouse."""
        with drain_of(self.settings, port) as drain:
            return replace(drain, reached=reached).run(DECODER)

    def state(self) -> dict[int, str]:
        rows = self.clickhouse.execute(f"SELECT id, name FROM cdc.{TABLE.storage} FINAL")
        return dict(rows)

    def rows(self) -> int:
        """Stored row versions, whether they count or not."""
        return int(self.clickhouse.execute(f"SELECT count() FROM cdc.{TABLE.storage}")[0][0])

    def next_offset(self) -> int:
        found = ClickHouseStore(self.clickhouse).checkpoint(TABLE.name)
        return found.next_offset if found else 0

    def require_converged(self) -> None:
        """Everything is drained, once, and the group knows."""
        self.drain()
        assert self.state() == self.expected
        assert self.next_offset() == self.events
        assert self._topics.committed([TABLE.topic]) == {TABLE.topic: self.events}
        letters = self.clickhouse.execute("SELECT offset FROM cdc.dead_letters FINAL ORDER BY 1")
        assert letters == [(3,), (30,)]
        history = self.clickhouse.execute(
            f"SELECT count(), uniqExact(id, _version) FROM cdc.{TABLE.history} FINAL"
        )
        assert history[0][0] == history[0][1] > 0


@contextmanager
def drain_of(settings: Settings, port: int = 0) -> Iterator[Drain]:
    """A drain with small chunks."""
    warehouse: Any = settings.clickhouse
    if port:
        warehouse = replace(warehouse, port=port)
    with closing(ClickHouse(warehouse)) as clickhouse, closing(KafkaLog(settings.kafka)) as log:
        yield Drain(
            changes=log,
            store=ClickHouseStore(clickhouse),
            limits=replace(LIMITS, chunk=CHUNK, seconds=60),
        )
