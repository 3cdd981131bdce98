"""Renders the page's HTML; the browser refreshes it by requesting it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sluice.catalog import Fact, Table
from sluice.catalog.key_selection import parse_key
from sluice.errors import SluiceError, WrongUsage
from sluice.operate import table_history as inspection
from sluice.operate.monitor import Monitor
from sluice.operate.overview import CLICKHOUSE, POSTGRESQL, CheckResult, Overview
from sluice.operate.row_comparison import MOST_COMPARED, ComparedRow
from sluice.operate.trends import DEFAULT_RANGE, RANGES, Period, latest
from sluice.printable import printable
from sluice.quality.causes import causes_in, differing
from sluice.quality.checks import follows_words
from sluice_airflow.page import charts, figures, flow, glance, listing
from sluice_airflow.page.airflow_parts import AirflowPart, read_parts
from sluice_airflow.page.api import (
    Chosen,
    known_table,
    monitor,
    read_overview,
    read_runs,
    shared,
    trends_of,
    within,
)
from sluice_airflow.page.letters import letters_of
from sluice_airflow.page.listing import Choice, Sort
from sluice_airflow.page.repairs import (
    DEEP_CHECK,
    DISMISS,
    REPLAY,
    RESYNC,
    fact_repair,
    table_repair,
)
from sluice_airflow.page.rights import MayRepair

T = TypeVar("T")
router = APIRouter(include_in_schema=False)
files = APIRouter(include_in_schema=False)
_HERE = Path(__file__).parent
_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}


@router.get("/")
def show_overview(
    request: Request,
    trusted: MayRepair,
    period: Chosen,
    q: str = "",
    only: bool = False,
    sort: Sort = listing.FIRST,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> HTMLResponse:
    """Return the overview page with the chosen tables and facts; see listing.Choice."""
    choice = Choice(period=period, q=q.strip()[:100], only=only, sort=sort.value, page=page)
    with monitor() as reading, beside() as asked:
        drawn = asked(lambda aside: _charts(aside, period))
        state = read_overview(reading, trusted=trusted)
        parts = shared.get("airflow", read_parts)
        values = overview_values(state, choice, drawn.result(), parts)
    return respond(request, "overview.html", period, **values)


def overview_values(
    of: Overview,
    choice: Choice,
    drawn: list[charts.Chart] | None,
    parts: Sequence[AirflowPart] = (),
) -> dict[str, Any]:
    """Return the values of the overview page's template."""
    tables = {table.name for table in of.tables}
    offered = (table_repair(finding) for finding in of.findings if finding.table in tables)
    return {
        "of": of,
        "repairs": {repair.finding.repair: repair for repair in offered if repair.conf},
        "choice": choice,
        "tables": listing.listed(of.tables, of, choice),
        "facts": listing.listed(of.facts, of, choice),
        "places": {table.name: f"tables/{table.name}" for table in of.tables}
        | {fact.name: f"facts/{fact.name}" for fact in of.facts},
        "few": len(of.tables) + len(of.facts) <= listing.FEW,
        "most": listing.CONCERNS,
        "answers": glance.answers(of),
        "stage_places": flow.stage_places(of),
        "compared": flow.COMPARED,
        "holding": flow.HOLDING,
        "charts": drawn,
        "airflow_parts": parts,
    }


@router.get("/tables/{table}")
def show_table(
    request: Request,
    table: str,
    trusted: MayRepair,
    period: Chosen,
    key: str = "",
    letter: Annotated[int | None, Query(ge=0, lt=1 << 63)] = None,
) -> HTMLResponse:
    """Return a table's page; only users who may repair the table see values of its rows."""
    with monitor() as reading, beside() as asked:
        known = known_table(reading, table)
        chosen = letter if trusted else None
        history = asked(lambda aside: _history(aside, known, period, chosen, trusted=trusted))
        pipeline = read_overview(reading, known, trusted=trusted)
        findings = [finding for finding in pipeline.findings if finding.table == table]
        follows = causes_in(reading.catalog).find(pipeline.findings)
        repairs = [
            table_repair(finding, follows.get((table, finding.check), ())) for finding in findings
        ]
        values: dict[str, Any] = {
            "table": known,
            "trusted": trusted,
            "state": pipeline.tables[0],
            "differs": table in differing(pipeline.findings),
            "repairs": sorted(repairs, key=lambda repair: bool(repair.follows)),
            "compared": _compared(reading, pipeline, known, findings) if trusted else {},
            **history.result(),
            **_versions(reading, pipeline, known, key if trusted else ""),
        }
    return respond(request, "table.html", period, **values)


@router.get("/facts/{fact}")
def show_fact(request: Request, fact: str, trusted: MayRepair, period: Chosen) -> HTMLResponse:
    """Return a fact's page: its findings, rebuilds, columns and rollups."""
    with monitor() as reading:
        known = next((one for one in reading.catalog.facts if one.name == fact), None)
        if known is None:
            raise HTTPException(404, f"no fact {fact!r} in the models")
        pipeline = read_overview(reading, trusted=trusted)
        names = {fact, *(rollup.name for rollup in known.table.rollups)}
        follows = causes_in(reading.catalog).find(pipeline.findings)
        values: dict[str, Any] = {
            "fact": known,
            "trusted": trusted,
            "state": next(state for state in pipeline.facts if state.name == fact),
            "repairs": [
                fact_repair(finding, known, follows.get((finding.table, finding.check), ()))
                for finding in pipeline.findings
                if finding.table in names
            ],
            **_fact_runs(reading, pipeline, known, period, trusted),
        }
    return respond(request, "fact.html", period, **values)


@router.get("/docs")
def show_api(request: Request) -> HTMLResponse:
    """Return the page that documents the API."""
    described = request.app.openapi()["paths"]
    return respond(request, "api.html", latest(DEFAULT_RANGE), paths=described)


@files.get("/static/{name}")
def static(name: str) -> FileResponse:
    """Return the page's style or script."""
    if name not in _STATIC:
        raise HTTPException(404)
    return FileResponse(_HERE / "static" / name, media_type=_STATIC[name])


@contextmanager
def beside() -> Iterator[Callable[[Callable[[Monitor], T]], Future[T]]]:
    """Yield a function that begins to ask by another monitor, while the first is in use."""
    with monitor() as aside, ThreadPoolExecutor(1) as threads:
        yield lambda question: threads.submit(question, aside)


def _charts(reading: Monitor, period: Period, table: str = "") -> list[charts.Chart] | None:
    """Return the charts; None if ClickHouse does not answer, which the overview reports."""
    try:
        return charts.draw(trends_of(reading, period, table))
    except SluiceError:
        return None


def _history(
    reading: Monitor, table: Table, period: Period, letter: int | None, *, trusted: bool
) -> dict[str, Any]:
    """Return a table's charts and runs, None if ClickHouse does not answer, and its letters."""
    drawn = _charts(reading, period, table.name)
    try:
        runs = read_runs(reading, table, period, trusted=trusted) if drawn is not None else None
    except SluiceError:
        runs = None
    letters = letters_of(reading, table, letter, answers=runs is not None)
    return {"charts": drawn, "runs": runs, **letters}


def _fact_runs(
    reading: Monitor, of: Overview, fact: Fact, period: Period, trusted: bool
) -> dict[str, Any]:
    services = reading.clickhouse, reading.queries
    try:
        of.require_answer(CLICKHOUSE)
        checks = inspection.read_checks(*services, fact.name, within(period))
        resyncs = [
            run for table in fact.tables for run in inspection.read_resyncs(*services, table)
        ]
        resyncs.sort(key=lambda run: run.finished_at, reverse=True)
        return {
            "rebuilds": inspection.read_rebuilds(*services, fact.name, within(period)),
            "checks": checks if trusted else [check.without_keys() for check in checks],
            "closed": inspection.read_closed(*services, fact.name, resyncs),
        }
    except SluiceError:
        return {"rebuilds": (), "checks": (), "closed": ()}


def _compared(
    reading: Monitor, of: Overview, table: Table, findings: Sequence[CheckResult]
) -> dict[str, ComparedRow] | None:
    """Return the first keys of findings with their rows on both sides; None if one is silent."""
    keys = dict.fromkeys(key for finding in findings for key in finding.keys)
    try:
        of.require_answer(POSTGRESQL)
        of.require_answer(CLICKHOUSE)
        rows = reading.compare(table, list(keys)[:MOST_COMPARED])
    except SluiceError:
        return None
    return {row.key: row for row in rows}


def _versions(reading: Monitor, of: Overview, table: Table, key: str) -> dict[str, Any]:
    """Return the versions of the requested row, or why there are none."""
    if not key:
        return {"key": "", "versions": (), "refusal": ""}
    try:
        of.require_answer(CLICKHOUSE)
        history = inspection.read_versions(reading.clickhouse, table, parse_key(table, key))
    except WrongUsage as error:
        return {"key": key, "versions": (), "refusal": error.what}
    except SluiceError:
        return {"key": key, "versions": (), "refusal": "ClickHouse does not answer"}
    refusal = "" if history else f"the history has no changes of key {key}"
    return {"key": key, "versions": history, "refusal": refusal}


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a template's text, with every value escaped."""
    return _templates.get_template(template).render(**values)


def respond(request: Request, template: str, period: Period, **values: Any) -> HTMLResponse:
    """Return a page from its template, the values that every page has, and its own."""
    root = request.scope.get("root_path", "")
    common = {
        "root": root,
        "airflow": root.removesuffix("/sluice"),
        "period": period,
        "ranges": list(RANGES),
        "resync": RESYNC,
        "replay": REPLAY,
        "dismiss": DISMISS,
        "deep_check": DEEP_CHECK,
    }
    return HTMLResponse(render(template, {**common, **values}))


_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "ago": figures.ago,
    "amount": figures.amount,
    "apart": figures.apart,
    "check_value": figures.check_value,
    "counted": figures.counted,
    "duration": figures.duration,
    "figure_value": flow.figure_value,
    "figure_words": flow.figure_words,
    "follows_words": follows_words,
    "freshness_status": glance.freshness_status,
    "minute": figures.minute,
    "number": figures.number,
    "picked": lambda keys, rows: [rows[key] for key in keys if key in rows],
    "printable": printable,
    "utf8_bytes": lambda text: len(text.encode()),
    "when": listing.when,
    "whole": figures.whole,
}
