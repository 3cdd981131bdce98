"""What is shown and told: status, the CDC page's reading, queries, alerts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.clients.topics import Topics
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.operate.monitor import Monitor
from sluice.operate.status import read_status
from sluice.quality.alerts import Alerts
from sluice.quality.checks import PASS, Check
from sluice.quality.results import News
from sluice.settings import PROJECT, AlertSettings, Settings

_MONITOR = PROJECT / "sql/clickhouse/monitor.sql"
_LOOK_S = 5  # nobody looks at a page that waits longer for a service


def status(settings: Settings) -> dict[str, Any]:
    """The pipeline's part of `sluice status --json`: tables, fact, slot."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return read_status(
            load_catalog(settings.models),
            PostgresSource(settings.postgres, settings.statement_seconds),
            clickhouse,
            Topics(settings.kafka),
            read_statements(PIPELINE),
            settings.relay.slot,
        )


@contextmanager
def monitor(settings: Settings) -> Iterator[Monitor]:
    """What the CDC page reads with; its sessions end with the context."""
    with closing(ClickHouse(settings.clickhouse, _LOOK_S)) as clickhouse:
        yield Monitor(
            catalog=load_catalog(settings.models),
            source=PostgresSource(settings.postgres),
            clickhouse=clickhouse,
            topics=Topics(settings.kafka, seconds=_LOOK_S),
            queries={**read_statements(PIPELINE), **read_statements(_MONITOR)},
            slot=settings.relay.slot,
        )


def query(settings: Settings, text: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a query on ClickHouse."""
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        return clickhouse.table(text)


def tell(alerts: AlertSettings, found: Check) -> None:
    """Tell what no check has found to where checks tell their findings."""
    Alerts(alerts).tell([News(check=found, before=PASS)])
