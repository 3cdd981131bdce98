"""What readers of one server and of a cluster see."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from sluice import wiring
from sluice.settings import Settings
from tests.support.oracle import facts, joined
from tests.support.pipeline import checked

VIEWS = ("dim_customer", "dim_product", "dim_order", "revenue_by_day")


def assert_same(one: Settings, two: Settings, engine: Engine) -> None:
    """Both are Postgres' join, to every reader of both servers."""
    for settings in (one, two):
        report = checked(settings)
        assert not report.failures
    wanted = joined(engine)
    assert wanted
    for settings in (one, two):
        assert facts(settings) == wanted
    for view in VIEWS:
        assert rows(two, view) == rows(one, view)


def rows(settings: Settings, view: str) -> list[tuple[Any, ...]]:
    return sorted(wiring.query(settings, f"SELECT * FROM olap.{view}")[1], key=repr)
