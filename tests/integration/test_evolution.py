"""Models that change while their tables live in ClickHouse."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.dead_letters import DeadLetter
from sluice.errors import Retryable, TableDiffers
from sluice.generate.files import write_files
from sluice.relay.run import run
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine

pytestmark = pytest.mark.services

MODELS = """
from __future__ import annotations
from sqlalchemy import BigInteger, ForeignKey, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

class Base(DeclarativeBase): ...

class Ferry(Base):
    __tablename__ = "ferries"
    id: Mapped[int] = mapped_column(primary_key=True)
{ferry}

class Crossing(Base):
    __tablename__ = "crossings"
    __table_args__ = {{"info": {{"star": "fact"}}}}
    id: Mapped[int] = mapped_column(primary_key=True)
    ferry_id: Mapped[int] = mapped_column(ForeignKey("ferries.id"))
    ferry: Mapped[Ferry] = relationship()
{crossing}
"""
NAME, TITLE = (f"    {name}: Mapped[str] = mapped_column(String(9))" for name in ("name", "title"))
NARROW = "    cars: Mapped[int] = mapped_column(Integer)"
WIDE = "    cars: Mapped[int] = mapped_column(BigInteger)"
TEXT = "    cars: Mapped[str] = mapped_column(String(9))"
NOTE = "    note: Mapped[str | None] = mapped_column(String(9))"
DECKS = "    decks: Mapped[int] = mapped_column(server_default='2')"


class Harbour:
    """One pipeline whose models are replaced."""

    def __init__(self, settings: Settings, engine: Engine, folder: Path) -> None:
        self.settings, self.engine, self.folder = settings, engine, folder
        self.version = 0

    def take(self, ferry: list[str], crossing: list[str]) -> None:
        """Generate from these models; `sluice init` is the caller's."""
        self.version += 1
        name = f"harbour_{self.settings.relay.slot}_{self.version}"
        body = MODELS.format(ferry="\n".join(ferry), crossing="\n".join(crossing))
        (self.folder / f"{name}.py").write_text(body)
        write_files(load_catalog(name), self.folder)
        self.settings = replace(self.settings, models=name)

    def postgres(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in wiring.query(self.settings, query)[1]]

    def drop_warehouse(self) -> None:
        mine = "name LIKE '%ferr%' OR name LIKE '%crossing%'"
        for database, name in self.rows(f"SELECT database, name FROM system.tables WHERE {mine}"):
            wiring.query(self.settings, f"DROP TABLE {database}.{name} SYNC")
        ours = "source_table IN ('ferries', 'crossings')"
        wiring.query(self.settings, f"DELETE FROM cdc.dead_letters WHERE {ours}")

    def settle(self) -> None:
        """Drain and rebuild until the checks pass."""
        deadline = time.monotonic() + 60
        while True:
            try:
                report = wiring.quality(self.settings)
                assert report.passed, [check.sentence() for check in report.checks]
                return
            except Retryable:
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def dead(self) -> list[DeadLetter]:
        tables = ("ferries", "crossings")
        return [row for name in tables for row in wiring.dead_letters(self.settings, name, 9)]


@pytest.fixture
def harbour(services: Settings, tmp_path: Path) -> Iterator[Harbour]:
    with harbour_of(services, tmp_path, "harbour") as made:
        yield made


@contextmanager
def harbour_of(services: Settings, folder: Path, slot: str) -> Iterator[Harbour]:
    """A harbour whose relay streams into the narrow tables."""
    sys.path.insert(0, str(folder))
    engine = make_engine(services.postgres)
    relay = RelaySettings(slot=slot, ack="broker")
    made = Harbour(replace(services, out=folder, relay=relay), engine, folder)
    made.postgres(
        "CREATE TABLE ferries (id int PRIMARY KEY, name text NOT NULL)",
        "CREATE TABLE crossings (id int PRIMARY KEY, ferry_id int NOT NULL, cars int NOT NULL)",
        "INSERT INTO ferries VALUES (1, 'Aida')",
        "INSERT INTO crossings VALUES (10, 1, 5)",
    )
    made.take([NAME], [NARROW])
    assert wiring.initialise(made.settings) == []
    stop = threading.Event()
    catalog = load_catalog(made.settings.models)
    thread = threading.Thread(target=run, args=(made.settings, catalog), kwargs={"stop": stop})
    thread.start()
    try:
        made.settle()
        yield made
    finally:
        stop.set()
        thread.join(20)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"SELECT pg_drop_replication_slot('{slot}')"))
            connection.execute(text(f"DROP PUBLICATION pglog_stream_{slot}"))
            connection.execute(text("DROP TABLE crossings, ferries"))
        engine.dispose()
        made.drop_warehouse()
        for name in [name for name in sys.modules if name.startswith("harbour_")]:
            del sys.modules[name]
        sys.path.remove(str(folder))


def test_changed_models_are_applied_where_that_is_safe_and_planned_where_not(
    harbour: Harbour,
) -> None:
    added_and_widened(harbour)
    added_with_a_default(harbour)
    dropped(harbour)
    renamed_stops_its_table_alone(harbour)
    another_type_stops_until_its_plan_is_run(harbour)


def added_and_widened(harbour: Harbour) -> None:
    harbour.postgres("INSERT INTO crossings VALUES (11, 1, 6)")  # an event of the old shape
    harbour.take([NAME], [WIDE, NOTE])
    with pytest.raises(TableDiffers, match="crossings") as caught:
        wiring.drain(harbour.settings, "crossings")
    assert caught.value.remedy == "run: sluice init"
    done = wiring.initialise(harbour.settings)
    assert any("ADD COLUMN IF NOT EXISTS note" in line for line in done), done
    assert wiring.initialise(harbour.settings) == []
    harbour.postgres(
        "ALTER TABLE crossings ALTER cars TYPE int8, ADD note text",
        "INSERT INTO crossings VALUES (12, 1, 5000000000, 'full')",
    )
    harbour.settle()
    expected = [(10, 5, None), (11, 6, None), (12, 5000000000, "full")]
    fact = "SELECT crossing_id, cars, note FROM olap.fact_crossing ORDER BY crossing_id"
    assert harbour.rows(fact) == expected
    history = "SELECT id, cars, note FROM cdc.history_crossings FINAL ORDER BY id"
    assert harbour.rows(history) == expected
    assert harbour.dead() == []


def added_with_a_default(harbour: Harbour) -> None:
    harbour.postgres("ALTER TABLE ferries ADD decks int NOT NULL DEFAULT 2")
    harbour.take([NAME, DECKS], [WIDE, NOTE])
    assert "rows of ferries lack the new values; run: sluice resync ferries" in wiring.initialise(
        harbour.settings
    )
    wiring.resync(harbour.settings, "ferries")
    harbour.settle()
    assert harbour.rows("SELECT id, decks FROM olap.dim_ferry") == [(1, 2)]
    assert harbour.rows("SELECT DISTINCT ferry_decks FROM olap.fact_crossing") == [(2,)]


def dropped(harbour: Harbour) -> None:
    harbour.postgres("ALTER TABLE crossings DROP note")
    harbour.take([NAME, DECKS], [WIDE])
    done = wiring.initialise(harbour.settings)
    assert any("DROP COLUMN IF EXISTS note" in line for line in done), done
    harbour.postgres("INSERT INTO crossings VALUES (13, 1, 7)")
    harbour.settle()
    assert "note" not in wiring.query(harbour.settings, "SELECT * FROM olap.fact_crossing")[0]
    assert harbour.rows("SELECT note FROM cdc.history_crossings FINAL WHERE id = 12") == [("full",)]


def renamed_stops_its_table_alone(harbour: Harbour) -> None:
    harbour.take([TITLE, DECKS], [WIDE, NOTE])
    with pytest.raises(TableDiffers) as caught:
        wiring.initialise(harbour.settings)
    assert "name went and title came" in str(caught.value)
    renames = [line for line in str(caught.value).splitlines() if "RENAME COLUMN name" in line]
    assert len(renames) == 2
    with pytest.raises(TableDiffers):
        wiring.drain(harbour.settings, "ferries")
    wiring.drain(harbour.settings, "crossings")
    feed = "DROP TABLE cdc.history_ferries_feed"
    assert f"  {feed};" in str(caught.value).splitlines()
    for statement in (feed, *renames):
        wiring.query(harbour.settings, statement.strip().rstrip(";"))
    wiring.initialise(harbour.settings)
    harbour.postgres("ALTER TABLE ferries RENAME name TO title")
    harbour.postgres("UPDATE ferries SET title = 'Bela'")
    harbour.settle()
    assert harbour.rows("SELECT DISTINCT ferry_title FROM olap.fact_crossing") == [("Bela",)]
    assert harbour.dead() == []


def another_type_stops_until_its_plan_is_run(harbour: Harbour) -> None:
    harbour.take([TITLE, DECKS], [TEXT, NOTE])
    with pytest.raises(TableDiffers, match="column cars is Int64, not String") as caught:
        wiring.initialise(harbour.settings)
    assert harbour.rows("SELECT count() > 0 FROM cdc.src_crossing") == [(1,)]
    harbour.postgres("ALTER TABLE crossings ALTER cars TYPE text, ADD note text")
    plan = [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert len(plan) == 3
    for statement in plan:
        wiring.query(harbour.settings, statement.rstrip(";"))
    wiring.initialise(harbour.settings)
    wiring.resync(harbour.settings, "crossings")
    harbour.settle()
    found = harbour.rows("SELECT crossing_id, cars FROM olap.fact_crossing ORDER BY crossing_id")
    assert found == [(10, "5"), (11, "6"), (12, "5000000000"), (13, "7")]
    assert harbour.dead() == []
