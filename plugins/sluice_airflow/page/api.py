"""Serves the page's content as JSON below `/sluice/api/v1`, and `/sluice/metrics`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import PlainTextResponse
from pydantic import BeforeValidator

from sluice.catalog import Table
from sluice.catalog.key_selection import parse_key
from sluice.errors import NotReady, WrongUsage
from sluice.operate import table_history as inspection
from sluice.operate.monitor import Monitor
from sluice.operate.overview import CheckResult, Overview
from sluice.operate.rejected import RejectedEvent, read_rejected
from sluice.operate.row_comparison import MOST_COMPARED, ComparedRow
from sluice.operate.table_history import TableRuns, Version
from sluice.operate.trends import (
    ALWAYS,
    DEFAULT_RANGE,
    RANGES,
    Period,
    Trends,
    chosen,
    latest,
    read_trends,
)
from sluice_airflow.connections import settings_from_connections
from sluice_airflow.page.limits import Shared
from sluice_airflow.page.metrics import CONTENT_TYPE, SERIES_OF, exposition
from sluice_airflow.page.rights import MayRepair, require_repair
from sluice_airflow.page.sessions import Sessions


def refusal(why: str) -> dict[str, Any]:
    """Return the OpenAPI description of an error response."""
    texts = {"detail": {"type": "string"}, "remedy": {"type": ["string", "null"]}}
    body = {"type": "object", "properties": texts, "required": ["detail"]}
    return {"description": why, "content": {"application/json": {"schema": body}}}


NO_TABLE: dict[int | str, Any] = {404: refusal("The models have no table of this name.")}
# Responses that every route has.
COMMON: dict[int | str, Any] = {
    401: refusal("The user is not logged in."),
    403: refusal("The token is invalid, or the user may not see this."),
    503: refusal(
        "A service does not answer, an Airflow connection is missing, or there are too many"
        " requests; in that case retry after the seconds in Retry-After."
    ),
}
router = APIRouter(responses=COMMON)
V1 = "/api/v1"
# Responses that contain values of rows.
OF_ROWS = [Depends(require_repair)]
Range = Enum("Range", {name: name for name in RANGES}, type=str)  # type: ignore[misc]
DEFAULT = Range(DEFAULT_RANGE)


def _iso(given: Any) -> Any:
    """Refuse numbers, which pydantic would take for seconds since 1970."""
    if isinstance(given, str) and not re.match(r"\d{4}-\d\d-\d\d[Tt ]", given):
        raise ValueError("a moment is written as 2026-01-31T12:00:00Z")
    return given


Moment = Annotated[datetime | None, BeforeValidator(_iso)]


def _utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=timezone.utc) if at and at.tzinfo is None else at


def period_of(
    range: Range = DEFAULT,
    begins: Annotated[Moment, Query(alias="from")] = None,
    ends: Annotated[Moment, Query(alias="to")] = None,
) -> Period:
    """Return the period of a request: that from `from` to `to`, in UTC, or the latest of a range.

    It has 30 minutes to 30 days; `from` gives way to `to`.
    """
    if begins is None and ends is None:
        return latest(range.value)
    return chosen(_utc(begins), _utc(ends))


Chosen = Annotated[Period, Depends(period_of)]


@contextmanager
def monitor() -> Iterator[Monitor]:
    """Lend a monitor on the services of Airflow's connections; see Sessions.

    Raises:
        NotReady: a connection is missing, which is no error of the client.
    """
    try:
        settings = settings_from_connections()
    except WrongUsage as error:
        raise NotReady(error.what, remedy=error.remedy) from error
    with sessions.lent(settings) as opened:
        yield opened


sessions = Sessions()
shared = Shared()


def read_overview(of: Monitor, table: Table | None = None, *, trusted: bool) -> Overview:
    """Return the overview, with keys of rows if trusted; requests within a second share it.

    Args:
        table: the one table of the overview, which still has the findings of all. Default: None,
            for all tables and facts.
    """
    name = ("overview", table.name if table else "")
    overview = shared.get(name, of.narrowed(table).overview if table else of.overview)
    return overview if trusted else overview.without_keys()


def read_runs(of: Monitor, table: Table, period: Period, *, trusted: bool) -> TableRuns:
    """Return a table's last runs, with keys of rows if trusted."""
    runs = inspection.read_runs(of.clickhouse, of.queries, table, within(period))
    return runs if trusted else runs.without_keys()


def within(period: Period) -> Period:
    """Return the period of histories: a chosen one, or else always."""
    return ALWAYS if period.range else period


def trends_of(of: Monitor, period: Period, table: str) -> Trends:
    """Return the trends of a table or of all; those of ranges are shared within a second."""

    def read() -> Trends:
        return read_trends(of.clickhouse, of.queries, period, of.slot, table)

    return shared.get(("trends", period.range, table), read) if period.range else read()


def known_table(of: Monitor, name: str) -> Table:
    """Return the source table of this name; respond 404 where the models have none."""
    for table in of.catalog.tables:
        if table.name == name:
            return table
    raise HTTPException(404, f"no table {name!r} in the models")


@router.get(f"{V1}/overview", tags=["now"])
def overview(trusted: MayRepair) -> Overview:
    """Return tables, facts, slot, services, concerns and findings.

    Keys of rows are left out for users who may not run the DAG sluice_resync.
    """
    with monitor() as reading:
        return read_overview(reading, trusted=trusted)


@router.get(f"{V1}/findings", tags=["now"])
def findings(trusted: MayRepair) -> tuple[CheckResult, ...]:
    """Return current check results that did not pass, with the repair command.

    Keys of rows are left out for users who may not run the DAG sluice_resync.
    """
    with monitor() as reading:
        return read_overview(reading, trusted=trusted).findings


@router.get(f"{V1}/trends", tags=["history"], responses=NO_TABLE)
def trends(period: Chosen, table: str = "") -> Trends:
    """Return freshness, events, backlog, slot lag, rebuilds and check results over time.

    Choose a range, or 30 minutes to 30 days by `from` and `to` (UTC unless they say otherwise).

    Slot lag and rebuilds are included for all tables only.
    """
    with monitor() as reading:
        if table:
            known_table(reading, table)
        return trends_of(reading, period, table)


@router.get(f"{V1}/tables/{{table}}/runs", tags=["history"], responses=NO_TABLE)
def runs(table: str, trusted: MayRepair, period: Chosen) -> TableRuns:
    """Return the last drains, check results and resyncs of a table, until now or in a period.

    A range has no effect; `from` and `to` do.

    Keys of rows are left out for users who may not run the DAG sluice_resync.
    """
    with monitor() as reading:
        return read_runs(reading, known_table(reading, table), period, trusted=trusted)


@router.get(
    f"{V1}/tables/{{table}}/versions",
    tags=["history"],
    dependencies=OF_ROWS,
    responses={**NO_TABLE, 400: refusal("The key has another number of parts than the table's.")},
)
def versions(
    table: str,
    key: Annotated[str, Query(min_length=1, max_length=500, examples=["42"])],
) -> tuple[Version, ...]:
    """Return the recent versions of one row, newest first; separate parts of a key by commas.

    Requires the permission to run the DAG sluice_resync.
    """
    with monitor() as reading:
        known = known_table(reading, table)
        return inspection.read_versions(reading.clickhouse, known, parse_key(known, key))


@router.get(
    f"{V1}/tables/{{table}}/compared",
    tags=["now"],
    dependencies=OF_ROWS,
    responses={**NO_TABLE, 400: refusal("A text is not a key of the table.")},
)
def compared(
    table: str,
    key: Annotated[list[str], Query(min_length=1, max_length=MOST_COMPARED, examples=[["42"]])],
) -> tuple[ComparedRow, ...]:
    """Return rows of PostgreSQL and ClickHouse side by side, as both have them now.

    A change that is not drained yet shows as a difference. Separate parts of a key by commas.
    Requires the permission to run the DAG sluice_resync.
    """
    with monitor() as reading:
        known = known_table(reading, table)
        return reading.compare(known, key)


@router.get(f"{V1}/dead-letters", tags=["now"], responses=NO_TABLE, dependencies=OF_ROWS)
def dead_letters(table: str = "") -> tuple[RejectedEvent, ...]:
    """Return the newest rejected events of one table or of all, shortened.

    Requires the permission to run the DAG sluice_resync.
    """
    with monitor() as reading:
        if table:
            known_table(reading, table)
        return read_rejected(reading.clickhouse, reading.queries, table)


@router.get("/metrics", response_class=PlainTextResponse, tags=["now"])
def metrics(
    tables: Annotated[int, Query(ge=0, le=100_000)] = SERIES_OF,
) -> PlainTextResponse:
    """Return the overview in Prometheus' text format.

    At most `tables` tables and as many facts have series of their own: those with problems, then
    the largest. The sums are over all.
    """
    with monitor() as reading:
        text = exposition(read_overview(reading, trusted=False), tables)
    return PlainTextResponse(text, media_type=CONTENT_TYPE)
