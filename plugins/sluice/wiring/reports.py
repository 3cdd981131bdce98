"""What is shown and told: status, the CDC page's reading, queries, alerts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sluice.catalog.quality_options import Status
from sluice.generate.sql_files import read_statements
from sluice.operate.monitor import Monitor
from sluice.operate.status import read_status
from sluice.quality.alerts import Alerts
from sluice.quality.checks import Check
from sluice.quality.results import News
from sluice.settings import PROJECT, AlertSettings, Settings
from sluice.wiring.context import Run, opened

_MONITOR = PROJECT / "sql/clickhouse/monitor.sql"
_LOOK_S = 5  # nobody looks at a page that waits longer for a service


def status(settings: Settings) -> dict[str, Any]:
    """The pipeline's part of `sluice status --json`: tables, fact, slot."""
    with opened(settings) as run:
        return read_status(_monitor(run))


@contextmanager
def monitor(settings: Settings) -> Iterator[Monitor]:
    """What the CDC page reads with; its sessions end with the context."""
    with opened(settings, seconds=_LOOK_S) as run:
        yield _monitor(run)


def _monitor(run: Run) -> Monitor:
    return Monitor(
        catalog=run.catalog,
        source=run.source,
        clickhouse=run.clickhouse,
        topics=run.topics,
        queries={**run.queries, **read_statements(_MONITOR)},
        slot=run.settings.relay.slot,
    )


def query(settings: Settings, text: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a query on ClickHouse."""
    with opened(settings) as run:
        return run.clickhouse.table(text)


def tell(alerts: AlertSettings, found: Check) -> None:
    """Tell what no check has found to where checks tell their findings."""
    Alerts(alerts).tell([News(check=found, before=Status.PASS)])
