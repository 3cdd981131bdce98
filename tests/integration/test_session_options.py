"""`options` among libpq's options: they hold in every session, less what the pipeline pins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

from sluice.capture import slot as slots
from sluice.clients.postgres import PostgresSource
from sluice.settings import PostgresSettings, Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.oracle import facts, joined
from tests.support.pipeline import checked, relaying

pytestmark = pytest.mark.services

Session = Callable[[PostgresSettings], AbstractContextManager[Any]]


@pytest.fixture
def settings(services: Settings) -> Settings:
    chosen = {"options": "-c work_mem=7MB -c datestyle=German", "keepalives_idle": "30"}
    return replace(services, postgres=replace(services.postgres, options=chosen))


def shown(cursor: Any, name: str) -> str:
    cursor.execute(f"SHOW {name}")
    return str(cursor.fetchone()[0])


@pytest.mark.parametrize("session", [slots.session, slots.replication])
def test_the_relays_sessions_have_them_and_its_own_win(
    settings: Settings, session: Session
) -> None:
    with session(settings.postgres) as cursor:
        assert shown(cursor, "work_mem") == "7MB"
        assert shown(cursor, "datestyle").startswith("ISO")


def test_the_checks_sessions_have_them(settings: Settings) -> None:
    with PostgresSource(settings.postgres).connect() as connection, connection.cursor() as cursor:
        assert shown(cursor, "work_mem") == "7MB"


def test_the_whole_loop_runs_with_them(settings: Settings) -> None:
    load(settings, customers=10, orders=20, seed=6)
    engine = make_engine(settings.postgres)
    with relaying(settings):
        report = checked(settings)
        assert not report.failures
        assert facts(settings) == joined(engine)
    engine.dispose()
