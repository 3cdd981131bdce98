"""A table with a column of every type, followed by a relay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from sqlalchemy import create_engine

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.postgres import connection_options
from sluice.errors import Retryable
from sluice.generate.files import write_files
from sluice.settings import RelaySettings, Settings
from tests import support
from tests.support.type_samples import SAMPLES, Base
from tests.support.waiting import until

CATALOG = load_catalog("tests.support.type_samples")
NAMES = list(SAMPLES)
IDS = count(1)


@pytest.fixture(scope="module")
def settings(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    out = tmp_path_factory.mktemp("generated")
    write_files(CATALOG, out)
    support.__path__.append(str(out / "tests/support"))
    yield replace(
        services,
        models="tests.support.type_samples",
        out=out,
        relay=RelaySettings(slot="samples", ack="drained"),
    )
    support.__path__.remove(str(out / "tests/support"))


@pytest.fixture(scope="module")
def postgres(settings: Settings) -> Iterator[Any]:
    connection = psycopg2.connect(**connection_options(settings.postgres))
    connection.autocommit = True
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connection)
    Base.metadata.create_all(engine)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        yield cursor
    connection.close()


@contextmanager
def relaying(settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, CATALOG), kwargs={"stop": stop})
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def stream(settings: Settings, postgres: Any) -> Iterator[None]:
    assert wiring.initialise(settings) == []
    with relaying(settings):
        yield


def insert(postgres: Any, row: dict[str, str | None]) -> int:
    key = next(IDS)
    names = sql.SQL(", ").join(map(sql.Identifier, ["id", *row]))
    places = sql.SQL(", ").join([sql.Placeholder()] * (len(row) + 1))
    query = sql.SQL("INSERT INTO samples ({}) VALUES ({})").format(names, places)
    postgres.execute(query, [key, *row.values()])
    return key


def drained(settings: Settings) -> None:

    def checked() -> bool:
        wiring.drain(settings, "samples")
        wiring.quality(settings)
        return True

    until(checked, "the checks can be made", retry=Retryable)
