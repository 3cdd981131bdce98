"""Rows that cannot be stored: whatever repairs, none of them takes the last good version away."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.catalog.key_selection import Selection, key_text
from sluice.cli import app
from sluice.clients.postgres import PostgresSource
from sluice.errors import PoisonedTopic, RowsRejected, SluiceError
from sluice.generate.files import write_files
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests.support.services import drop_slot

pytestmark = pytest.mark.services

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


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


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

        until(confirmed)
        for table in self.catalog.tables:
            while not wiring.drain(self.settings, table.name).caught_up:
                pass

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
                until(lambda: confirmed() > old or bool(self.ended))
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
            "SLUICE_KAFKA_BOOTSTRAP": settings.kafka.bootstrap,
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


@pytest.fixture
def relay(house: House) -> Iterator[None]:
    """A relay, and eight rows of every table."""
    with house.relaying():
        for table in [name for name in KEYS if not house.live[name]]:
            for number in range(1, 9):
                house.put(table, number)
        until(lambda: PostgresSource(house.settings.postgres).find_slot("gauge_house") is not None)
        house.settle()
        house.require_live()
        yield


def test_a_column_that_the_models_lack_is_left_out_and_named(house: House, relay: None) -> None:
    house.sql("ALTER TABLE gauges ADD unit text DEFAULT 'K'")
    for number in range(1, 6):
        house.put("gauges", number)
    house.settle()
    house.require_live("gauges")
    assert wiring.dead_letters(house.settings, "gauges", 9) == []
    report = wiring.quality(house.settings, ["gauges"], deep=True)
    assert report.passed
    (schema,) = [check for check in report.checks if check.check == "schema"]
    assert schema.status == "warn"
    assert "PostgreSQL has column unit, which the models lack" in schema.difference
    wiring.query(house.settings, "TRUNCATE TABLE cdc.dim_gauge")
    done = wiring.resync(house.settings, "gauges")
    assert (done.rows, done.deleted, done.rejected) == (8, 0, 0)
    house.require_live("gauges")


def test_a_renamed_column_keeps_its_values_until_the_model_follows(
    house: House, relay: None
) -> None:
    house.sql("ALTER TABLE gauges RENAME reading TO measured")
    house.sql("UPDATE gauges SET day = '2026-02-02'")
    house.settle()
    house.require_live("gauges")
    wiring.resync(house.settings, "gauges")
    house.require_live("gauges")
    house.sql("ALTER TABLE gauges RENAME measured TO reading")
    house.sql(f"UPDATE gauges SET day = {GOOD[2]}")
    house.settle()
    house.require_live("gauges")


@pytest.mark.parametrize("table", KEYS)
def test_a_resync_keeps_rows_that_cannot_be_stored_and_says_so(
    house: House, relay: None, table: str
) -> None:
    for number, bad in enumerate(BAD[:8], start=1):
        house.put(table, number, bad)
    house.put(table, 1001, BAD[0])  # ClickHouse never had it
    if table == "moments":
        house.sql("INSERT INTO moments VALUES ('infinity', 1), ('3000-01-01', 1)")
    house.ghost(table, 7000)
    house.settle()
    house.require_live(table, exact=False)
    done = wiring.resync(house.settings, table)
    unstored = 9 + 2 * (table == "moments")
    assert (done.deleted, done.rejected) == (1, unstored), done.sentence()
    assert (
        f"{unstored} rows could not be stored and keep their last good version" in done.sentence()
    )
    house.require_live(table)
    one = wiring.resync(house.settings, table, keys=[house.key(table, 3)])
    assert (one.rows, one.deleted, one.rejected) == (1, 0, 1)
    house.require_live(table)
    assert not wiring.quality(house.settings, [table], deep=True).passed
    before = wiring.query(house.settings, "SELECT count() FROM cdc.resyncs")[1]
    wiring.quality(replace(house.settings, repair="auto"), [table], deep=True)
    assert wiring.query(house.settings, "SELECT count() FROM cdc.resyncs")[1] == before
    house.require_live(table)
    if table == "moments":
        house.sql("DELETE FROM moments WHERE at > '2999-01-01'")
    house.remove(table, 1001)
    for number in range(1, 9):
        house.put(table, number)
    house.settle()
    assert wiring.resync(house.settings, table).rejected == 0
    house.require_live(table)


BEYOND = {
    "gauges": "9000000000",
    "moments": "'infinity'), ('0044-03-15 00:00:00+00 BC'), ('3000-01-01'",
    "amounts": "'NaN'), (1e30",
}


def test_keys_that_cannot_be_stored_or_read_are_in_nobodys_way(house: House, relay: None) -> None:
    """PostgreSQL's that ClickHouse cannot hold, and the reverse."""
    house.sql(
        "ALTER TABLE gauges ALTER id TYPE bigint", "ALTER TABLE amounts ALTER id TYPE numeric"
    )
    for table, keys in BEYOND.items():
        house.sql(f"INSERT INTO {table} ({names(table)}) VALUES ({keys})")
    for table in BEYOND:
        house.put(table, 2, BAD[0])
    house.settle()
    house.require_live()
    tell_rejected(house)
    house.require_live()
    house.sql(
        "DELETE FROM gauges WHERE id > 100000",
        "DELETE FROM moments WHERE at NOT BETWEEN '2026-01-01' AND '2027-01-01'",
        "DELETE FROM amounts WHERE id = 'NaN' OR id > 1e29",
        "ALTER TABLE gauges ALTER id TYPE smallint",
        "ALTER TABLE amounts ALTER id TYPE numeric(20, 1)",
    )
    house.settle()
    wiring.query(
        house.settings,
        "INSERT INTO cdc.dim_gauge SELECT one.* REPLACE (number + 100000 AS id, 5 AS _version)"
        " FROM (SELECT * FROM cdc.dim_gauge FINAL LIMIT 1) AS one, numbers(3) AS n",
    )
    tell_rejected(house)
    house.require_live()
    house.sql("ALTER TABLE gauges ALTER id TYPE int")
    for table in BEYOND:
        house.put(table, 2)
    house.settle()
    assert list(wiring.repair(house.settings))
    house.require_live()


def tell_rejected(house: House) -> None:
    with pytest.raises(RowsRejected):
        list(wiring.repair(house.settings))


def test_commands_that_could_not_store_all_rows_exit_with_a_finding(
    house: House, relay: None
) -> None:
    house.put("labels", 2, BAD[0])
    house.settle()
    for arguments in (
        ["labels"],
        ["--diff", "labels"],
        ["labels", "--key", house.key("labels", 2)],
    ):
        done = house.command("resync", *arguments)
        assert isinstance(done.exception, RowsRejected), done.output
        assert done.exception.exit_code == 1
        assert "1 rows could not be stored" in str(done.exception)
        assert "sluice dead-letters list --table labels" in str(done.exception)
        assert "read again" in done.stdout
    house.require_live("labels")
    house.put("labels", 2)
    house.settle()
    assert house.command("resync", "--diff", "labels").exit_code == 0


def test_a_resync_that_goes_on_reads_ranges_with_rejected_rows_again(
    house: House, relay: None
) -> None:
    house.put("gauges", 1, BAD[0])
    house.settle()
    passed: list[str] = []

    def reached(point: str) -> None:
        passed.append(point)
        if passed.count("range noted") == 2:
            raise InterruptedError

    table = house.catalog.table("gauges")
    with wiring.resyncing(house.settings, table) as step, pytest.raises(InterruptedError):
        replace(step, rows=2, reached=reached).run(table, Selection(), restart=True)
    done = wiring.resync(house.settings, "gauges")
    assert done.before == (1, 4)
    assert (done.rows, done.rejected) == (6, 1)
    again = wiring.resync(house.settings, "gauges")  # all of it: nothing was left
    assert (again.rows, again.rejected) == (8, 1)
    house.put("gauges", 1)
    house.settle()
    house.require_live()


def test_a_resync_of_very_many_rows_that_cannot_be_stored_reports_them(
    house: House, relay: None
) -> None:
    many = 600  # a chunk of nothing else is over every limit
    house.sql(f"INSERT INTO gauges SELECT 20000 + n, 'NaN' FROM generate_series(1, {many}) n")
    tell_poisoned(house)
    done = house.command("resync", "gauges")
    assert isinstance(done.exception, RowsRejected), done.output
    assert done.exception.exit_code == 1
    assert f"{many} rows could not be stored and keep their last good version" in done.output

    def killed(point: str) -> None:
        if point == "rows published":
            raise InterruptedError

    table = house.catalog.table("gauges")
    with wiring.resyncing(house.settings, table) as step, pytest.raises(InterruptedError):
        replace(step, reached=killed).run(table, Selection(), restart=True)
    while not wiring.drain(house.settings, "gauges").caught_up:  # as the minute's does
        pass
    house.sql("UPDATE gauges SET day = day WHERE id > 20000")
    tell_poisoned(house)  # the stream's rows are judged all the same
    assert wiring.resync(house.settings, "gauges").rejected == many
    house.require_live("gauges")
    house.sql("DELETE FROM gauges WHERE id > 20000")
    house.settle()
    assert wiring.resync(house.settings, "gauges", restart=True).rejected == 0
    house.require_live("gauges")


def tell_poisoned(house: House) -> None:
    with pytest.raises(PoisonedTopic):
        house.settle()
    for _ in wiring.drain_until_empty(house.settings, "gauges", pass_rejects=True):
        pass
