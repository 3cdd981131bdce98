"""PostgreSQL's widest table and longest names: 1,600 columns, each named by 63 bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.postgres import PostgresSource
from sluice.generate.clickhouse import quoted
from sluice.generate.files import write_files
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests.support.services import drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services

COLUMNS = 1600  # PostgreSQL's most
TABLE = "w" * 63
ENTITY = "w" * 177  # the longest that a class of a fact may be called
STORAGE = f"src_{ENTITY}"
# A model's type, PostgreSQL's, and a value; rows of so many columns fit a page when most are NULL.
TYPES = (
    ("Integer", "int", "n"),
    ("DateTime(timezone=True)", "timestamptz", "timestamptz '2026-01-01 00:00:00.5+00'"),
    ("Numeric(10, 2)", "numeric(10,2)", "n * 1.5"),
    ("Double", "float8", "n / 3.0"),
    ("Date", "date", "date '2026-02-03'"),
    ("JSON", "json", """'{"a": 1}'::json"""),
    ("LargeBinary", "bytea", r"'\xff'::bytea"),
    ("Time", "time", "time '10:00:00'"),
    ("ARRAY(Text)", "text[]", "'{a,NULL}'::text[]"),
    ("Text", "text", "'text ' || n"),
    ("CHAR(3)", "char(3)", "'x'"),
)
VALUED = range(0, COLUMNS - 1, 13)


def name(at: int) -> str:
    """A name of 62 or 63 bytes, of letters that have two or three of them."""
    letters = "я" if at % 2 else "漢"
    return (f"c{at}_".encode() + letters.encode() * 40)[:63].decode(errors="ignore")


def model() -> str:
    lines = [
        "from sqlalchemy import *",
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column",
        "class Base(DeclarativeBase): ...",
        f"class W{ENTITY[1:]}(Base):",
        f"    __tablename__ = {TABLE!r}",
        "    __table_args__ = {'info': {'star': 'fact'}}",
        "    id: Mapped[int] = mapped_column(primary_key=True)",
    ]
    lines += [
        f"    a{at} = mapped_column({name(at)!r}, {TYPES[at % len(TYPES)][0]})"
        for at in range(COLUMNS - 1)
    ]
    return "\n".join(lines)


def create(engine: Engine) -> None:
    columns = ", ".join(f'"{name(at)}" {TYPES[at % len(TYPES)][1]}' for at in range(COLUMNS - 1))
    listed = ", ".join(f'"{name(at)}"' for at in VALUED)
    values = ", ".join(TYPES[at % len(TYPES)][2] for at in VALUED)
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, {columns})")
        cursor.execute(
            f"INSERT INTO {TABLE} (id, {listed}) SELECT n, {values} FROM generate_series(1, 9) n"
        )


class Pipeline:
    """The pipeline of the table, and its relay, which can be stopped."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self._stop = threading.Event()
        arguments = (settings, load_catalog(settings.models))
        self._relay = threading.Thread(target=run, args=arguments, kwargs={"stop": self._stop})
        self._relay.start()

    def stop(self) -> None:
        self._stop.set()
        self._relay.join(60)
        assert not self._relay.is_alive()

    def change(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(f'UPDATE {TABLE} SET "{name(0)}" = 99 WHERE id < 3'))
            connection.execute(text(f"DELETE FROM {TABLE} WHERE id = 9"))
            connection.execute(text(f"UPDATE {TABLE} SET id = id + 100 WHERE id = 8"))

    def spoil(self) -> None:
        """Change a column in ClickHouse."""
        row = f"SELECT * REPLACE (NULL AS {quoted(name(13))}) FROM cdc.{STORAGE} FINAL WHERE id = 6"
        wiring.query(self.settings, f"INSERT INTO cdc.{STORAGE} {row}")

    def follow(self) -> None:
        """Change rows behind the snapshot, and drain until all of it is there."""
        source = PostgresSource(self.settings.postgres)
        until(
            lambda: source.find_slot(self.settings.relay.slot) is not None, "the relay has its slot"
        )
        self.change()
        rows = f"SELECT groupArray(id) FROM (SELECT id FROM cdc.{STORAGE} FINAL ORDER BY id)"
        until(lambda: self.drained(rows) == [([1, 2, 3, 4, 5, 6, 7, 108],)], "all rows are drained")

    def drained(self, query: str) -> Any:
        wiring.drain(self.settings, TABLE)
        return wiring.query(self.settings, query)[1]


@pytest.fixture(scope="module")
def pipeline(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("widest")
    (folder / "widest.py").write_text(model())
    engine = make_engine(services.postgres)
    create(engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        write_files(load_catalog("widest"), folder)
        relay = RelaySettings(slot="widest", ack="broker")
        settings = replace(services, models="widest", out=folder, relay=relay)
        assert wiring.initialise(settings) == []
        made = Pipeline(settings, engine)
        try:
            yield made
        finally:
            made.stop()
            drop_slot(settings)
            engine.dispose()


def test_the_widest_table_is_streamed_checked_repaired_and_recovered(pipeline: Pipeline) -> None:
    pipeline.follow()
    pipeline.spoil()
    found = {check.check: check for check in wiring.quality(pipeline.settings, deep=True).checks}
    assert found["row_count"].status == "pass"
    assert f"6 differs in {name(13)}" in found["rows"].difference
    assert any("1 rows read again" in line for line in wiring.repair(pipeline.settings))
    pipeline.stop()
    drop_slot(pipeline.settings)
    pipeline.change()
    pipeline.spoil()
    assert any("rows read again" in line for line in wiring.recover(pipeline.settings))
    rows = f"SELECT {ENTITY}_id FROM olap.fact_{ENTITY} WHERE {quoted(name(0))} = 99 ORDER BY 1"
    assert wiring.query(pipeline.settings, rows)[1] == [(1,), (2,)]
