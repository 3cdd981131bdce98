"""The models and services of one run, opened once and handed down to all its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from sluice.catalog import Catalog, load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.clients.topic_reader import TopicReader
from sluice.clients.topics import Topics
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.kafka_log import KafkaLog
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.settings import Settings
from sluice.warehouse.key_ranges import Plans
from sluice.warehouse.parked import Holes


@dataclass(frozen=True, kw_only=True)
class Run:
    """The models and services of one run, each opened when it is first used.

    A session on ClickHouse takes one query at a time, so one thread at a time uses a run. What
    queries ClickHouse concurrently opens its own session.

    Attributes:
        limits: `seconds`, where ClickHouse and the broker have less time for an answer than their
            options say.
        resources: closes with the run what it opened.
    """

    settings: Settings
    limits: Mapping[str, float]
    resources: ExitStack

    @cached_property
    def catalog(self) -> Catalog:
        """The models."""
        return load_catalog(self.settings.models)

    @cached_property
    def clickhouse(self) -> ClickHouse:
        """The run's only session on ClickHouse."""
        clickhouse = ClickHouse(self.settings.clickhouse, **self.limits)
        return self.resources.enter_context(closing(clickhouse))

    @cached_property
    def changes(self) -> KafkaLog:
        """The change log that drains read."""
        changes = KafkaLog(self.settings.kafka, self.settings.drain.chunk_bytes, self.topics)
        self.resources.enter_context(closing(changes))
        return changes

    @cached_property
    def topics(self) -> Topics:
        """The broker's topics."""
        topics = Topics(self.settings.kafka, **self.limits)
        self.resources.enter_context(topics.keeping())
        return topics

    @cached_property
    def reader(self) -> TopicReader:
        """The topics as people look at them."""
        return TopicReader(self.settings.kafka, **self.limits)

    @cached_property
    def source(self) -> PostgresSource:
        """PostgreSQL as checks read it."""
        return PostgresSource(self.settings.postgres, self.settings.statement_seconds)

    @property
    def queries(self) -> Mapping[str, str]:
        """The statements of pipeline.sql by name."""
        return read_statements(PIPELINE)

    @property
    def store(self) -> ClickHouseStore:
        """Where drains write rows and checkpoints."""
        return ClickHouseStore(self.clickhouse)

    @property
    def plans(self) -> Plans:
        """The notes of resyncs and deep checks."""
        return Plans(clickhouse=self.clickhouse, queries=self.queries)

    @property
    def holes(self) -> Holes:
        """The notes of changes that were not sent."""
        return Holes(clickhouse=self.clickhouse, queries=self.queries)


@contextmanager
def opened(settings: Settings, **limits: float) -> Iterator[Run]:
    """Open a run; what it opened ends with the context."""
    with ExitStack() as resources:
        yield Run(settings=settings, limits=limits, resources=resources)


@contextmanager
def opened_apart(settings: Settings, threads: int) -> Iterator[Run]:
    """Open a thread's own run, with its part of the memory for events."""
    chunk_bytes = settings.drain.chunk_bytes // threads
    with opened(replace(settings, drain=replace(settings.drain, chunk_bytes=chunk_bytes))) as run:
        yield run
