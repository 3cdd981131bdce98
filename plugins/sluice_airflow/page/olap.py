"""Serves the browser of database `olap`: its relations, columns, sample rows, queries to copy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from sluice.errors import SluiceError, WrongUsage
from sluice.operate.monitor import Monitor
from sluice.operate.olap import (
    DescribedRelation,
    OlapRelation,
    describe,
    read_relations,
    read_sample,
)
from sluice.operate.table_history import read_checks, read_rebuilds
from sluice.operate.trends import DEFAULT_RANGE, latest
from sluice_airflow.connections import play_address
from sluice_airflow.page.api import OF_ROWS, V1, monitor, refusal, shared
from sluice_airflow.page.pages import respond
from sluice_airflow.page.rights import MayRepair

router = APIRouter(include_in_schema=False)
api = APIRouter()
_REBUILDS = 10  # that a rollup's page lists
_NO_RELATION: dict[int | str, Any] = {404: refusal("ClickHouse has no such table or view in olap.")}


@router.get("/olap")
def show_relations(request: Request, q: str = "") -> HTMLResponse:
    """Return the page that lists the relations, or those whose name contains `q`."""
    with monitor() as reading:
        known = _relations(reading)
    wanted = q.strip()[:100]
    listed = [one for one in known if wanted.casefold() in one.name.casefold()]
    values: dict[str, Any] = {"relations": listed, "total": len(known), "q": wanted}
    return respond(request, "olap.html", latest(DEFAULT_RANGE), **values)


@router.get("/olap/{relation}")
def show_relation(request: Request, relation: str, trusted: MayRepair) -> HTMLResponse:
    """Return a relation's page; only users who may repair see values of its rows."""
    rows: tuple[dict[str, str | None], ...] | None = ()
    with monitor() as reading:
        described = _described(reading, relation)
        if trusted:
            try:
                rows = read_sample(reading.clickhouse, described)
            except SluiceError:
                rows = None
        summed = _summed(reading, relation)
    queries = [{**asdict(query), "play": _play(query.text)} for query in described.queries]
    values: dict[str, Any] = {"of": described, "trusted": trusted, "rows": rows, "summed": summed}
    return respond(request, "relation.html", latest(DEFAULT_RANGE), queries=queries, **values)


@api.get(f"{V1}/olap", tags=["olap"])
def relations() -> tuple[OlapRelation, ...]:
    """Return the tables and views of database `olap`, with the number of their columns."""
    with monitor() as reading:
        return _relations(reading)


@api.get(f"{V1}/olap/{{relation}}", tags=["olap"], responses=_NO_RELATION)
def relation(relation: str) -> DescribedRelation:
    """Return a table or view of `olap`: columns with types and comments, and queries on it."""
    with monitor() as reading:
        return _described(reading, relation)


@api.get(
    f"{V1}/olap/{{relation}}/rows",
    tags=["olap"],
    responses=_NO_RELATION,
    dependencies=OF_ROWS,
)
def sample(relation: str) -> tuple[dict[str, str | None], ...]:
    """Return a few rows of a table or view of `olap`, as shortened texts.

    Requires the permission to run the DAG sluice_resync.
    """
    with monitor() as reading:
        return read_sample(reading.clickhouse, _described(reading, relation))


def _relations(of: Monitor) -> tuple[OlapRelation, ...]:
    return shared.get("olap", lambda: read_relations(of.clickhouse, of.catalog))


def _described(of: Monitor, name: str) -> DescribedRelation:
    described = describe(of.clickhouse, of.catalog, name)
    if described is None:
        raise HTTPException(404, f"no table or view {name!r} in olap")
    return described


def _summed(of: Monitor, name: str) -> dict[str, Any] | None:
    """Return a rollup's fact, with its last rebuilds and the rollup's last check; else None."""
    for fact in of.catalog.facts:
        if name in {rollup.name for rollup in fact.table.rollups}:
            checks = read_checks(of.clickhouse, of.queries, name)
            rebuilds = read_rebuilds(of.clickhouse, of.queries, fact.name)
            return {
                "fact": fact.name,
                "rebuilds": rebuilds[:_REBUILDS],
                "check": checks[0] if checks else None,
            }
    return None


def _play(query: str) -> str:
    """Return the address of ClickHouse's play page with a query; empty without a connection."""
    try:
        return play_address(query)
    except WrongUsage:
        return ""
