"""The HTML of the page: rendered here, refreshed by asking for it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sluice import inspection
from sluice.catalog import Catalog, Table
from sluice.errors import SluiceError, WrongUsage
from sluice.monitor import Monitor
from sluice.overview import BAD, CheckResult, Overview
from sluice.selection import parse_key
from sluice.trends import DEFAULT_RANGE, RANGES, read_trends
from sluice_airflow.page import charts
from sluice_airflow.page.api import DEFAULT, Range, known_table, monitor
from sluice_airflow.page.charts import UNKNOWN

router = APIRouter(include_in_schema=False)
RESYNC, REPLAY = "sluice_resync", "sluice_replay"
_HERE = Path(__file__).parent
_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@router.get("/")
def show_overview(request: Request, range: Range = DEFAULT) -> HTMLResponse:
    """The pipeline at one look."""
    with monitor() as reading:
        found = reading.overview()
        drawn = _charts(reading, range.value)
    return _page(request, "overview.html", range.value, of=found, charts=drawn)


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
    if result.table in tables and result.check != "caught_up":
        conf = {"tables": [result.table], "keys": list(result.keys) or None}
        conf |= {"from_key": None, "to_key": None}
    return {"finding": result, "conf": conf and json.dumps(conf, indent=2)}


def _charts(reading: Monitor, reach: str, table: str = "") -> list[charts.Chart] | None:
    """None where ClickHouse does not answer: the overview says so."""
    try:
        found = read_trends(reading.clickhouse, reading.queries, reach, table)
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
    }
    return HTMLResponse(render(template, {**shared, **values}))


def duration(seconds: float | None) -> str:
    """A length of time as people say it; a dash where it is not known."""
    if seconds is None:
        return UNKNOWN
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.2f} s"


def size(count: int | None) -> str:
    """Bytes as people say them."""
    if count is None:
        return UNKNOWN
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def ago(at: datetime) -> str:
    """How long ago that was."""
    return f"{duration(max(0.0, (datetime.now(timezone.utc) - at).total_seconds()))} ago"


def whole(value: int | None) -> str:
    """A count with its thousands apart."""
    return UNKNOWN if value is None else f"{value:,}"


def verdict(of: Overview) -> str:
    """The state in words."""
    if of.healthy:
        return "Healthy"
    bad = sum(one.severity == BAD for one in of.concerns)
    return f"{bad} {'problem' if bad == 1 else 'problems'}"


_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "duration": duration,
    "size": size,
    "ago": ago,
    "whole": whole,
    "number": charts.number,
}
_templates.globals["verdict"] = verdict
