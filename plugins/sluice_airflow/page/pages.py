"""The HTML of the page: rendered here, refreshed by asking for it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sluice import inspection
from sluice.catalog import Catalog, Table
from sluice.errors import SluiceError, WrongUsage
from sluice.monitor import Monitor
from sluice.overview import CheckResult
from sluice.quality import COMPARED
from sluice.selection import parse_key
from sluice.trends import DEFAULT_RANGE, RANGES, read_trends
from sluice_airflow.page import charts, figures, glance
from sluice_airflow.page.api import DEFAULT, Range, known_table, monitor

router = APIRouter(include_in_schema=False)
RESYNC, REPLAY, DISMISS = "sluice_resync", "sluice_replay", "sluice_dismiss"
MISSING_ROWS = frozenset({"row_count", "rows", "gap"})  # what reading rows again mends
_HERE = Path(__file__).parent
_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}


@router.get("/")
def show_overview(request: Request, range: Range = DEFAULT) -> HTMLResponse:
    """The pipeline at one look."""
    with monitor() as reading:
        found = reading.overview()
        drawn = _charts(reading, range.value)
    return _page(
        request,
        "overview.html",
        range.value,
        of=found,
        answers=glance.answers(found),
        charts=drawn,
    )


@router.get("/tables/{table}")
def show_table(request: Request, table: str, range: Range = DEFAULT, key: str = "") -> HTMLResponse:
    """One table: state, trends, runs, rejected events, the versions of one row."""
    with monitor() as reading:
        known = known_table(reading, table)
        found = reading.overview()
        seen: dict[str, Any] = {
            "of": found,
            "table": known,
            "state": next(state for state in found.tables if state.name == table),
            "repairs": [
                repair(one, reading.catalog) for one in found.findings if one.table == table
            ],
            "replayed": json.dumps({"table": table, "where": None}),
            "dismissed": json.dumps({"table": table, "where": None, "reason": ""}),
            "charts": _charts(reading, range.value, table),
            **_inspected(reading, known),
            **_versions(reading, known, key),
        }
    return _page(request, "table.html", range.value, **seen)


@router.get("/docs")
def show_api(request: Request) -> HTMLResponse:
    """What the API offers."""
    described = request.app.openapi()["paths"]
    return _page(request, "api.html", DEFAULT_RANGE, paths=described)


@router.get("/static/{name}")
def static(name: str) -> FileResponse:
    """The page's style and script."""
    if name not in _STATIC:
        raise HTTPException(404)
    return FileResponse(_HERE / "static" / name, media_type=_STATIC[name])


def repair(result: CheckResult, catalog: Catalog) -> dict[str, Any]:
    """A finding with what the form of the resync DAG would hold; None where that is no help."""
    tables = {table.name for table in catalog.tables}
    conf = None
    if result.table in tables and result.check in MISSING_ROWS:
        conf = {"tables": [result.table], "keys": list(result.keys) or None}
        conf |= {"from_key": None, "to_key": None}
    return {
        "finding": result,
        "compared": result.check in COMPARED,
        "conf": conf and json.dumps(conf, indent=2),
    }


def _charts(reading: Monitor, reach: str, table: str = "") -> list[charts.Chart] | None:
    """None where ClickHouse does not answer: the overview says so."""
    try:
        found = read_trends(reading.clickhouse, reading.queries, reach, reading.slot, table)
    except SluiceError:
        return None
    return charts.draw(found)


def _inspected(reading: Monitor, table: Table) -> dict[str, Any]:
    try:
        return {
            "runs": inspection.read_runs(reading.clickhouse, reading.queries, table),
            "rejected": inspection.read_rejected(reading.clickhouse, reading.queries, table.name),
        }
    except SluiceError:
        return {"runs": None, "rejected": ()}


def _versions(reading: Monitor, table: Table, key: str) -> dict[str, Any]:
    """The versions of the row that was asked for, or why there are none."""
    if not key:
        return {"key": "", "versions": (), "refusal": ""}
    try:
        found = inspection.read_versions(reading.clickhouse, table, parse_key(table, key))
    except WrongUsage as error:
        return {"key": key, "versions": (), "refusal": error.what}
    except SluiceError:
        return {"key": key, "versions": (), "refusal": "ClickHouse does not answer"}
    refusal = "" if found else f"no change of key {key} is kept"
    return {"key": key, "versions": found, "refusal": refusal}


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template's text; every value is escaped."""
    return _templates.get_template(template).render(**values)


def _page(request: Request, template: str, reach: str, **values: Any) -> HTMLResponse:
    root = request.scope.get("root_path", "")
    shared = {
        "root": root,
        "airflow": root.removesuffix("/sluice"),
        "range": reach,
        "ranges": list(RANGES),
        "resync": RESYNC,
        "replay": REPLAY,
        "dismiss": DISMISS,
    }
    return HTMLResponse(render(template, {**shared, **values}))


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
    "duration": figures.duration,
    "freshness_status": glance.freshness_status,
    "whole": figures.whole,
}
