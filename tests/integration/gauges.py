"""Tables with keys of many kinds, and what ClickHouse should have of them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.catalog.key_selection import key_text
from sluice.cli import app
from sluice.clients.postgres import PostgresSource
from sluice.errors import SluiceError
from sluice.generate.files import write_files
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests.support.processes import broker_variables
from tests.support.services import drop_slot
from tests.support.waiting import until

MODELS = """
from __future__ import annotations
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID
from sqlalchemy import Date, DateTime, Integer, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): ...

class Reading:
    reading: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    seen: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    day: Mapped[date | None] = mapped_column(Date)
"""
# Table -> the key's columns in PostgreSQL and in the models, and the key of a number as SQL.
KEYS = {
    "gauges": ("id int", "id: Mapped[int]", "{n}"),
    "labels": ("id text", "id: Mapped[str]", "'lä \"{n}\", it''s \\'"),
    "tokens": ("id uuid", "id: Mapped[UUID]", "md5('{n}')::uuid"),
    "marks": (
        "area int, code text",
        "area: Mapped[int]\n    code: Mapped[str]",
        "{n} % 3, 'c{n}'",
    ),
    "moments": (
        "at timestamptz",
        "at: Mapped[datetime]",
        "'2026-01-01 00:00:00.5+00'::timestamptz + interval '{n} s'",
    ),
    "amounts": ("id numeric(20,1)", "id: Mapped[Decimal]", "1234567890123456789.5 + {n}"),
    "hashes": ("id bytea", "id: Mapped[bytes]", "decode(md5('{n}'), 'hex')"),
}
TYPED = {"labels": "String", "moments": "DateTime(timezone=True)", "amounts": "Numeric(20, 1)"}
GOOD = ("{n}.25", "'2026-02-01 00:00:00+00'", "'2026-02-01'")
# What a column of PostgreSQL can hold and its column in ClickHouse cannot.
BAD: tuple[tuple[str, str, str], ...] = (
    ("'NaN'", GOOD[1], GOOD[2]),
    ("'Infinity'", GOOD[1], GOOD[2]),
    ("1e12 + {n}", GOOD[1], GOOD[2]),
    ("{n}.255", GOOD[1], GOOD[2]),
    (GOOD[0], "'infinity'", GOOD[2]),
    (GOOD[0], "'0044-03-15 12:00:00+00 BC'", GOOD[2]),
    (GOOD[0], "'9999-12-31 00:00:00+00'", GOOD[2]),
    (GOOD[0], GOOD[1], "'-infinity'"),
    (GOOD[0], GOOD[1], "'1815-06-18'"),
)


class House:
    """Tables with keys of many kinds, and what ClickHouse should have of them.

    Attributes:
        live: table -> number -> the last version of its row that can be stored.
        bad: table -> numbers whose row in PostgreSQL cannot be stored.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.catalog = load_catalog(settings.models)
        self.live: dict[str, dict[int, str]] = {name: {} for name in KEYS}
        self.bad: dict[str, set[int]] = {name: set() for name in KEYS}
        self.written = 0
        self.ended: list[SluiceError] = []

    def sql(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.replace("%", "%%"))

    def put(self, table: str, number: int, values: tuple[str, str, str] = GOOD) -> None:
        """Write a row, another version each time."""
        self.written += 1
        key, columns = KEYS[table][2].format(n=number), names(table)
        row = ", ".join(value.format(n=self.written) for value in values)
        self.sql(
            f"INSERT INTO {table} ({columns}, reading, seen, day) VALUES ({key}, {row})"
            f" ON CONFLICT ({columns}) DO UPDATE SET reading = excluded.reading,"
            " seen = excluded.seen, day = excluded.day"
        )
        if values == GOOD:
            self.live[table][number] = GOOD[0].format(n=self.written)
            self.bad[table].discard(number)
        else:
            self.bad[table].add(number)

    def remove(self, table: str, number: int) -> None:
        self.sql(
            f"DELETE FROM {table} WHERE ({names(table)}) = ({KEYS[table][2].format(n=number)})"
        )
        self.live[table].pop(number, None)
        self.bad[table].discard(number)

    def key(self, table: str, number: int) -> str:
        """A key as commands take it."""
        parts = KEYS[table][2].format(n=number)
        with self.engine.connect() as connection:
            texts = ", ".join(f"({name})::text" for name in split(parts))
            row = connection.exec_driver_sql(f"SELECT {texts}".replace("%", "%%")).one()
        return key_text(tuple(row))

    def settle(self) -> None:
        """Drain everything that PostgreSQL has written until now."""
        source, slot = PostgresSource(self.settings.postgres), self.settings.relay.slot
        point = source.fence(()).lsn

        def confirmed() -> bool:
            assert self.ended == []
            return (found := source.find_slot(slot)) is not None and found.confirmed_lsn >= point

        until(confirmed, "the slot has confirmed what PostgreSQL has written")
        for drained in wiring.drain_until_empty(self.settings):
            drained.require()

    def stored(self, table: str) -> dict[str, str]:
        """Key -> reading of the rows that are live in ClickHouse."""
        described = self.catalog.table(table)
        keys = ", ".join(f"toString({column.name})" for column in described.key)
        found = wiring.query(
            self.settings,
            f"SELECT hex(concat({keys}, '')), toString(reading) FROM cdc.{described.storage} FINAL",
        )[1]
        return dict(found)

    def require_live(self, *tables: str, exact: bool = True) -> None:
        """Every key that PostgreSQL has is in ClickHouse as it was when it could be stored."""
        for table in tables or KEYS:
            stored = self.stored(table)
            numbers = sorted(self.live[table])
            wanted = dict(
                zip(self.hex(table, numbers), map(self.live[table].get, numbers), strict=True)
            )
            kept = {key: stored.get(key) for key in wanted}
            assert kept == wanted, table
            if exact:
                assert stored.keys() == wanted.keys(), table

    def hex(self, table: str, numbers: list[int]) -> list[str]:
        """The keys of numbers as `stored` gives them."""
        texts = {
            "tokens": "{}::text",
            "moments": "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
        }.get(table, "{}::text")
        with self.engine.connect() as connection:
            found = []
            for number in numbers:
                parts = split(KEYS[table][2].format(n=number))
                raw = " || ".join(
                    part
                    if table == "hashes"
                    else f"convert_to({texts.format(f'({part})')}, 'UTF8')"
                    for part in parts
                )
                query = f"SELECT upper(encode({raw}, 'hex'))".replace("%", "%%")
                found.append(connection.exec_driver_sql(query).scalar_one())
            return found

    def ghost(self, table: str, number: int) -> None:
        """A row that ClickHouse has and PostgreSQL never had."""
        storage = self.catalog.table(table).storage
        (key,) = self.hex(table, [number]) if table in {"labels", "hashes"} else ("",)
        columns = {
            "gauges": f"{number} AS id",
            "labels": f"unhex('{key}') AS id",
            "hashes": f"unhex('{key}') AS id",
            "tokens": "generateUUIDv4() AS id",
            "marks": f"'ghost {number}' AS code",
            "moments": f"addSeconds(at, {100_000 + number}) AS at",
            "amounts": f"id + {number} AS id",
        }[table]
        wiring.query(
            self.settings,
            f"INSERT INTO cdc.{storage} SELECT * REPLACE ({columns}, 5 AS _version)"
            f" FROM cdc.{storage} FINAL LIMIT 1",
        )

    @contextmanager
    def relaying(self, *, snapshot: bool = False) -> Iterator[None]:
        stop = threading.Event()
        self.ended = []

        def work() -> None:
            try:
                run(self.settings, self.catalog, snapshot=snapshot, stop=stop)
            except SluiceError as error:
                self.ended.append(error)

        source, slot = PostgresSource(self.settings.postgres), self.settings.relay.slot

        def confirmed() -> int:
            found = source.find_slot(slot)
            return found.confirmed_lsn if found else 0

        old = confirmed()
        thread = threading.Thread(target=work)
        thread.start()
        try:
            if snapshot:  # until then the slot is the old one
                until(lambda: confirmed() > old or bool(self.ended), "the slot is the new one")
            yield
            assert self.ended == []
        finally:
            stop.set()
            thread.join(60)

    def command(self, *arguments: str) -> Any:
        settings = self.settings
        environment = {
            **os.environ,
            "SLUICE_HOME": str(settings.home),
            "SLUICE_MODELS": settings.models,
            "SLUICE_OUT": str(settings.out),
            "SLUICE_SLOT": settings.relay.slot,
            **broker_variables(settings),
            "SLUICE_CLICKHOUSE_PORT": str(settings.clickhouse.port),
            "SLUICE_POSTGRES_PORT": str(settings.postgres.port),
        }
        return CliRunner().invoke(app, list(arguments), env=environment)


def names(table: str) -> str:
    return ", ".join(part.split()[0] for part in KEYS[table][0].split(", "))


def split(parts: str) -> list[str]:
    """The parts of a key's SQL; only that of marks has several."""
    return parts.split(", ") if parts.endswith("'") and " % 3, " in parts else [parts]


def model(table: str) -> str:
    lines = KEYS[table][1].split("\n")
    kinds = [TYPED.get(table, ""), ""]
    columns = "\n".join(
        f"    {line.strip()} = mapped_column({kinds[0] + ', ' if kinds[0] else ''}primary_key=True)"
        for line in lines
    )
    return (
        f"\nclass {table[:-1].capitalize()}(Reading, Base):\n"
        f'    __tablename__ = "{table}"\n{columns}\n'
    )


@pytest.fixture(scope="module")
def house(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    (folder / "gauge_house.py").write_text(MODELS + "".join(map(model, KEYS)))
    sys.path.insert(0, str(folder))
    engine = make_engine(services.postgres)
    relay = RelaySettings(slot="gauge_house", ack="broker")
    settings = replace(services, models="gauge_house", out=folder, relay=relay)
    write_files(load_catalog("gauge_house"), folder)
    made = House(settings, engine)
    for name, (key, *_) in KEYS.items():
        made.sql(
            f"CREATE TABLE {name} ({key}, reading numeric, seen timestamptz, day date,"
            f" PRIMARY KEY ({names(name)}))"
        )
    wiring.initialise(settings)
    yield made
    drop_slot(settings)
    made.sql(f"DROP PUBLICATION {relay.publication}", f"DROP TABLE {', '.join(KEYS)}")
    engine.dispose()
    sys.path.remove(str(folder))
