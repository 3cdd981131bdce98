"""A pipeline of its own whose models a test writes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.drain.dead_letters import DeadLetter
from sluice.errors import Retryable
from sluice.generate.files import write_files
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests.support.services import drop_slot
from tests.support.waiting import until

MODELS = """
from __future__ import annotations
from datetime import datetime
from sqlalchemy import BigInteger, DateTime, ForeignKey, Integer, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

class Base(DeclarativeBase): ...

class Ferry(Base):
    __tablename__ = "ferries"
    id: Mapped[int] = mapped_column(primary_key=True)
{ferry}

class Crossing(Base):
    __tablename__ = "crossings"
    __table_args__ = {{"info": {{"star": "fact", "rollups": {rollups}}}}}
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
SKIPPED, A_FACT = (
    f'    __table_args__ = {{"info": {{"star": "{mark}"}}}}' for mark in ("skip", "fact")
)
SAILED = (
    '    sailed: Mapped[datetime] = mapped_column(DateTime(timezone=True), info={"star": "date"})'
)
NONE: Mapping[str, Any] = {}
TABLES = (
    "CREATE TABLE ferries (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE crossings (id int PRIMARY KEY, ferry_id int NOT NULL, cars int NOT NULL)",
    "INSERT INTO ferries VALUES (1, 'Aida')",
    "INSERT INTO crossings VALUES (10, 1, 5)",
)


class Harbour:
    """One pipeline whose models are replaced."""

    def __init__(self, settings: Settings, engine: Engine, folder: Path) -> None:
        self.settings, self.engine, self.folder = settings, engine, folder
        self.version = 0

    def take(
        self,
        ferry: Sequence[str],
        crossing: Sequence[str],
        profile: str = "",
        rollups: Mapping[str, Any] = NONE,
    ) -> None:
        """Generate from these models; `sluice init` is the caller's."""
        self.version += 1
        name = f"harbour_{self.version}"
        lines = {"ferry": "\n".join(ferry), "crossing": "\n".join(crossing)}
        body = MODELS.format(**lines, rollups=dict(rollups))
        (self.folder / f"{name}.py").write_text(body)
        write_files(load_catalog(name, profile), self.folder, self.settings.clickhouse.cluster)
        self.settings = replace(self.settings, models=name)

    def postgres(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def clickhouse(self, *statements: str) -> None:
        """Run statements on ClickHouse, on each of its servers."""
        with closing(ClickHouse(self.settings.clickhouse)) as clickhouse:
            for statement in statements:
                clickhouse.everywhere(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in wiring.query(self.settings, query)[1]]

    def settle(self) -> None:
        """Drain and rebuild until the checks pass."""
        report = until(
            lambda: wiring.quality(self.settings), "the checks can be made", retry=Retryable
        )
        assert not report.failures

    def streaming(self) -> bool:
        """Whether the relay has its slot, at the end of its snapshot."""
        source = PostgresSource(self.settings.postgres)
        return source.find_slot(self.settings.relay.slot) is not None

    def dead_letter(self, reason: str) -> None:
        """Drain until a dead letter has this in its reason."""

        def rejected() -> bool:
            wiring.drain(self.settings, "crossings")
            return any(reason in row.reason for row in self.dead())

        until(rejected, f"a dead letter says: {reason}")

    def dead(self) -> list[DeadLetter]:
        tables = ("ferries", "crossings")
        return [row for name in tables for row in wiring.dead_letters(self.settings, name, 9)]

    def dispose(self) -> None:
        """Drop what Postgres, broker and ClickHouse have of it."""
        drop_slot(self.settings)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"DROP PUBLICATION {self.settings.relay.publication}"))
            connection.execute(text("DROP TABLE crossings, ferries"))
        self.engine.dispose()
        stored = (
            "SELECT database, name FROM system.tables"
            " WHERE database IN ('cdc', 'olap') AND match(name, 'ferr|crossing')"
            " ORDER BY engine IN ('View', 'MaterializedView') DESC"
        )
        for database, name in self.rows(stored):
            self.clickhouse(f"DROP TABLE IF EXISTS {database}.{name} SYNC")
        for noted in ("checkpoints", "dead_letters"):
            wiring.query(
                self.settings,
                f"ALTER TABLE cdc.{noted} DELETE WHERE source_table IN ('ferries', 'crossings')"
                " SETTINGS mutations_sync = 1",
            )
        admin = AdminClient(
            {"bootstrap.servers": self.settings.kafka.bootstrap, **self.settings.kafka.options}
        )
        for future in admin.delete_topics(["cdc.ferries", "cdc.crossings"]).values():
            future.result()
        for name in [name for name in sys.modules if name.startswith("harbour_")]:
            del sys.modules[name]
        load_catalog.cache_clear()


@contextmanager
def harbour(
    services: Settings,
    folder: Path,
    tables: Sequence[str] = TABLES,
    ferry: Sequence[str] = (NAME,),
    crossing: Sequence[str] = (NARROW,),
    profile: str = "",
) -> Iterator[Harbour]:
    """The pipeline of `tables`, as SQL, with these columns as models; dropped at the end."""
    sys.path.insert(0, str(folder))
    engine = make_engine(services.postgres)
    relay = RelaySettings(slot=f"harbour_{uuid4().hex[:8]}", ack="broker")
    made = Harbour(replace(services, out=folder, relay=relay), engine, folder)
    made.postgres(*tables)
    made.take(ferry, crossing, profile)
    assert wiring.initialise(made.settings) == []
    stop = threading.Event()
    catalog = load_catalog(made.settings.models)
    thread = threading.Thread(target=run, args=(made.settings, catalog), kwargs={"stop": stop})
    thread.start()
    try:
        until(made.streaming, "the snapshot is over")  # the checks cannot be made before
        made.settle()
        yield made
    finally:
        stop.set()
        thread.join(60)
        made.dispose()
        sys.path.remove(str(folder))
