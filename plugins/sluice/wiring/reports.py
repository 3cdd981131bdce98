"""Read the pipeline's state for `sluice status` and the CDC page; run queries; send alerts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sluice.catalog.key_selection import typed_key
from sluice.catalog.quality_options import Status
from sluice.generate.sql_files import read_statements
from sluice.operate.monitor import Monitor
from sluice.operate.overview import BROKER, CLICKHOUSE, POSTGRESQL
from sluice.operate.row_comparison import ComparedRow, compare_rows
from sluice.operate.status import read_status
from sluice.operate.table_status import read_table_status
from sluice.operate.topic_messages import TopicMessages, read_messages
from sluice.operate.topic_overview import TopicOverview, chosen_topic, read_topics
from sluice.quality.alerts import Alerts
from sluice.quality.checks import Check
from sluice.quality.results import News
from sluice.settings import PACKAGE, AlertSettings, Settings
from sluice.wiring.context import Run, opened

_MONITOR = PACKAGE / "sql/monitor.sql"
_LOOK_S = 5  # seconds; a page that waits longer is of no use


def status(settings: Settings) -> dict[str, Any]:
    """Return the pipeline's part of `sluice status --json`; see operate.status."""
    with opened(settings) as run:
        return read_status(_monitor(run))


def table_status(settings: Settings, name: str) -> dict[str, Any]:
    """Return the state of one table; see operate.table_status."""
    with opened(settings) as run:
        return read_table_status(_monitor(run), run.catalog.table(name))


@contextmanager
def monitor(settings: Settings) -> Iterator[Monitor]:
    """Open the monitor that the CDC page reads; its sessions end with the context."""
    with opened(settings, seconds=_LOOK_S) as run:
        yield _monitor(run)


def _monitor(run: Run) -> Monitor:
    settings = run.settings
    return Monitor(
        catalog=run.catalog,
        source=run.source,
        clickhouse=run.clickhouse,
        topics=run.topics,
        reader=run.reader,
        queries={**run.queries, **read_statements(_MONITOR)},
        slot=settings.relay.slot,
        addresses={
            POSTGRESQL: settings.postgres.address,
            BROKER: settings.kafka.bootstrap,
            CLICKHOUSE: settings.clickhouse.address,
        },
        broker_data=settings.home / "broker" if settings.kafka.embedded else None,
    )


def compare(settings: Settings, name: str, keys: Sequence[str]) -> tuple[ComparedRow, ...]:
    """Return rows of a table on both sides as they are now; see operate.row_comparison."""
    with opened(settings) as run:
        table = run.catalog.table(name)
        return compare_rows(run.source, run.clickhouse, table, [typed_key(table, k) for k in keys])


def topics(settings: Settings) -> TopicOverview:
    """Return the overview of the topics; see operate.topic_overview."""
    with opened(settings) as run:
        return read_topics(_monitor(run))


def messages(settings: Settings, name: str, last: int, offset: int | None = None) -> TopicMessages:
    """Return messages of the topic, or of the table's topic; see operate.topic_messages."""
    with opened(settings) as run:
        return read_messages(run.reader, chosen_topic(run.catalog, name), last, offset)


def query(settings: Settings, text: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return column names and rows of a query on ClickHouse."""
    with opened(settings) as run:
        return run.clickhouse.table(text)


def answer(
    settings: Settings, text: str, *, writes: bool = False
) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
    """Return columns and rows of a person's query on ClickHouse; see ClickHouse.answer."""
    with opened(settings) as run:
        return run.clickhouse.answer(text, writes=writes)


def tell(alerts: AlertSettings, found: Check) -> None:
    """Send an alert about something that no check found."""
    Alerts(alerts).tell([News(check=found, before=Status.PASS)])
