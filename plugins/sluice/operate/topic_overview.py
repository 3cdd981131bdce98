"""Reads an overview of the topics: their messages, what is not drained, age, rate and retention.

The offsets are the broker's, the drained positions ClickHouse's checkpoints. What only a service
that does not answer knows is None. The sizes in bytes are those of the embedded broker's files, as
librdkafka has no request for a broker's log directories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from sluice.catalog import Catalog
from sluice.clients.topic_reader import TopicOffsets
from sluice.clients.topics import EPOCH_TOPIC
from sluice.errors import SluiceError, WrongUsage
from sluice.events.event import CONTROL_TOPIC, DEAD_LETTER_TOPIC
from sluice.operate.monitor import Monitor, ask
from sluice.operate.overview import BROKER, CLICKHOUSE
from sluice.operate.status import PROGRAMS
from sluice.printable import named, nearest

TABLE = "table"
OWN_TOPICS = {DEAD_LETTER_TOPIC: "dead letters", CONTROL_TOPIC: "control", EPOCH_TOPIC: "epoch"}
WINDOW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSummary:
    """The current state of a topic; what is not known is None.

    Attributes:
        role: `table`, `dead letters`, `control` or `epoch`.
        table: the table whose changes it carries; None for Sluice's own topics.
        partitions: 1; of a topic with more, the offsets are those of the first; 0 where the topic
            does not exist.
        messages: those between the first offset and the end.
        drained_offset: the next offset that the drain reads; None for Sluice's own topics.
        backlog: messages that are not drained.
        oldest_at: the time of the first message.
        messages_per_second: those that arrived in the last minutes; see WINDOW.
        disk_bytes: size of its messages on disk; None for a broker that is not the stack's.
        retention_s, retention_bytes: how long, and how many bytes, the broker keeps; -1 for ever.
        deletes_drained: whether its drained messages are deleted, except the newest.
    """

    name: str
    role: str
    table: str | None
    partitions: int | None = None
    messages: int | None = None
    first_offset: int | None = None
    end_offset: int | None = None
    drained_offset: int | None = None
    backlog: int | None = None
    oldest_at: datetime | None = None
    oldest_age_s: float | None = None
    messages_per_second: float | None = None
    disk_bytes: int | None = None
    retention_s: float | None = None
    retention_bytes: int | None = None
    deletes_drained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicOverview:
    """The topics of the pipeline, those with the largest backlog first, Sluice's own last.

    Attributes:
        window_s: the seconds of `messages_per_second`.
        errors: service -> why it does not answer.
    """

    at: datetime
    window_s: int
    topics: tuple[TopicSummary, ...]
    errors: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broker:
    """The broker's epoch, and the topics that exist."""

    epoch: str
    offsets: Mapping[str, TopicOffsets]


def topic_names(catalog: Catalog) -> tuple[str, ...]:
    """Return the names of all topics of the pipeline."""
    return (*(table.topic for table in catalog.tables), *OWN_TOPICS)


def chosen_topic(catalog: Catalog, name: str) -> str:
    """Return the topic of this name, or of the table of this name.

    Raises:
        WrongUsage: there is none; the remedy is the nearest name.
    """
    of_tables = {table.name: table.topic for table in catalog.tables}
    topics = topic_names(catalog)
    if name in topics:
        return name
    if name in of_tables:
        return of_tables[name]
    near = nearest(name, [*topics, *of_tables])
    known = named(topics)
    raise WrongUsage(f"no topic {name!r} (known: {known})", remedy=f"the nearest is {near}")


def read_topics(monitor: Monitor, names: Sequence[str] = ()) -> TopicOverview:
    """Return the overview of all topics, or of some.

    Args:
        names: topics of the pipeline. Default: all.
    """
    chosen = names or topic_names(monitor.catalog)
    at = datetime.now(timezone.utc)
    asks: tuple[tuple[str, Callable[[], Any]], ...] = (
        (BROKER, lambda: _broker(monitor, chosen, at)),
        (CLICKHOUSE, lambda: _drained(monitor)),
    )
    errors: dict[str, SluiceError] = {}
    with ThreadPoolExecutor(len(asks)) as threads:
        queries = [threads.submit(ask, name, question, errors) for name, question in asks]
        broker, drained = (query.result() for query in queries)
    tables = {table.topic: table.name for table in monitor.catalog.tables}
    topics = [_summary(name, tables.get(name), broker, drained, at) for name in chosen]
    if monitor.broker_data is not None:
        topics = [_kept_here(topic, monitor.broker_data) for topic in topics]
    return TopicOverview(
        at=at,
        window_s=int(WINDOW.total_seconds()),
        topics=tuple(sorted(topics, key=_order)),
        errors={PROGRAMS[name]: str(errors[name]) for name, _ in asks if name in errors},
    )


def _broker(monitor: Monitor, names: Sequence[str], at: datetime) -> _Broker:
    monitor.topics.require_listening()
    with ThreadPoolExecutor(1) as threads:  # both mostly wait for the broker
        epoch = threads.submit(monitor.topics.epoch)
        offsets = monitor.reader.offsets(names, at - WINDOW)
        return _Broker(epoch=epoch.result() or "", offsets=offsets)


def _drained(monitor: Monitor) -> dict[str, tuple[str, int]]:
    """Return table -> the broker's epoch and the next offset of its checkpoint."""
    rows = monitor.clickhouse.execute(monitor.queries["checkpoints"])
    return {name: (epoch, offset) for name, epoch, offset, _ in rows}


def _summary(
    name: str,
    table: str | None,
    broker: _Broker | None,
    drained: Mapping[str, tuple[str, int]] | None,
    at: datetime,
) -> TopicSummary:
    role = OWN_TOPICS[name] if table is None else TABLE
    position = _position(table, broker, drained)
    if broker is None:
        return TopicSummary(name=name, role=role, table=table, drained_offset=position)
    known = broker.offsets.get(name)
    if known is None:
        return TopicSummary(
            name=name, role=role, table=table, partitions=0, drained_offset=position
        )
    age = max(0.0, (at - known.oldest_at).total_seconds()) if known.oldest_at else None
    milliseconds = _number(known.options.get("retention.ms"))
    return TopicSummary(
        name=name,
        role=role,
        table=table,
        partitions=known.partitions,
        messages=max(0, known.end - known.beginning),
        first_offset=known.beginning,
        end_offset=known.end,
        drained_offset=position,
        backlog=None if position is None else max(0, known.end - position),
        oldest_at=known.oldest_at,
        oldest_age_s=None if age is None else round(age, 1),
        messages_per_second=_rate(known, age),
        retention_s=milliseconds if milliseconds in (None, -1) else milliseconds / 1000,
        retention_bytes=_number(known.options.get("retention.bytes")),
    )


def _kept_here(topic: TopicSummary, data: Path) -> TopicSummary:
    """Add what holds for a topic of the embedded broker.

    Args:
        data: the folder of the broker's data.
    """
    size = 0
    for segment in (data / f"{topic.name}-0").glob("*.log"):
        with suppress(FileNotFoundError):  # deleted meanwhile
            size += segment.stat().st_size
    return replace(topic, disk_bytes=size, deletes_drained=topic.role == TABLE)


def _position(
    table: str | None,
    broker: _Broker | None,
    drained: Mapping[str, tuple[str, int]] | None,
) -> int | None:
    """Return the offset that a table's drain reads next; 0 on another broker than it drained."""
    if table is None or drained is None:
        return None
    epoch, offset = drained.get(table, ("", 0))
    return offset if broker is None or epoch == broker.epoch else 0


def _rate(known: TopicOffsets, age: float | None) -> float | None:
    """Return messages per second of the window; of less, where older messages were deleted."""
    deleted = known.beginning > 0
    if deleted and age is None:
        return None
    if known.since is None:
        return 0.0
    seconds = WINDOW.total_seconds()
    if deleted and known.since <= known.beginning:
        seconds = min(seconds, max(1.0, age or 0.0))
    return round(max(0, known.end - known.since) / seconds, 3)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _order(topic: TopicSummary) -> tuple[bool, int, int, str]:
    return topic.role != TABLE, -(topic.backlog or 0), -(topic.messages or 0), topic.name
