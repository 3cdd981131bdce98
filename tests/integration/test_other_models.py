"""Models as different from the example as a user's may be, through the whole loop."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.catalog.key_selection import Selection
from sluice.errors import Retryable
from sluice.generate.files import write_files
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests import logistics
from tests.logistics import Base, Depot, Mode, Person, Shift, Shipment
from tests.support.services import drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services

CATALOG = load_catalog("tests.logistics")
SHIPMENTS = """
SELECT s.tenant_id, s.id::text, s.from_id, s.to_id, s.driver_code, p.boss_code, s.mode::text,
    s.urgency::text, s.weight::text, s.price, s.speed, s.ratio, s.taken::text, s.photo, s.stops,
    s.grid::text, s.seats::text, s.doubled, s.stamped_at,
    f."select", f.address::text, f.tags, f.opening::text, f.date, f.facts::text,
    t."select", t.address::text, t.tags, t.opening::text, t.date, t.facts::text,
    p.name, p.born, b.name, b.born
FROM shipments s
LEFT JOIN depots f ON f.tenant_id = s.tenant_id AND f.id = s.from_id
LEFT JOIN depots t ON t.tenant_id = s.tenant_id AND t.id = s.to_id
LEFT JOIN crm.people p ON p.code = s.driver_code
LEFT JOIN crm.people b ON b.code = p.boss_code
ORDER BY s.tenant_id, s.id::text
"""
SHIFTS = """
SELECT s.id, s.person_code, p.boss_code, s.hours, p.name, p.born, b.name, b.born
FROM shifts s LEFT JOIN crm.people p ON p.code = s.person_code
LEFT JOIN crm.people b ON b.code = p.boss_code ORDER BY s.id
"""


@pytest.fixture(scope="module")
def settings(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    out = tmp_path_factory.mktemp("generated")
    write_files(CATALOG, out)
    logistics.__path__.append(str(out / "tests/logistics"))
    yield replace(
        services,
        models="tests.logistics",
        out=out,
        relay=RelaySettings(slot="logistics", ack="drained"),
    )
    logistics.__path__.remove(str(out / "tests/logistics"))


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_engine(settings.postgres)
    with made.begin() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS crm"))
    Base.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def relay(settings: Settings, engine: Engine) -> Iterator[None]:
    wiring.initialise(settings)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, CATALOG), kwargs={"stop": stop})
    thread.start()
    yield
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


class Company:
    """Random business, the same for the same seed."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine, self.chance = engine, random.Random(seed)
        self.number = seed * 100_000

    def work(self, steps: int) -> None:
        actions = (self.hire, self.open, self.send, self.send, self.change, self.move, self.end)
        for _ in range(steps):
            with Session(self.engine) as session:
                self.number += 1
                self.chance.choice(actions)(session)
                session.commit()

    def maybe(self, value: Any) -> Any:
        return value if self.chance.random() < 0.7 else None

    def one(self, session: Session, model: Any) -> Any:
        found = session.scalars(select(model).order_by(*model.__mapper__.primary_key)).all()
        return self.chance.choice(found) if found else None

    def text(self) -> str:
        return "".join(self.chance.choices("aé漢\\\"'{},\n\t \U0001f69a", k=5)) + "x"

    def hire(self, session: Session) -> None:
        boss = self.one(session, Person)
        born = date(1900, 1, 1) + timedelta(days=self.chance.randrange(50_000))
        person = Person(
            code=f"p{self.number}'\"",
            name=self.text(),
            born=self.maybe(born),
            boss_code=self.maybe(boss.code if boss else None),
            secret="hidden",
        )
        session.add(person)
        session.flush()
        session.add(Shift(person_code=self.maybe(person.code), hours=self.chance.randrange(-9, 9)))

    def open(self, session: Session) -> None:
        session.add(
            Depot(
                tenant_id=self.chance.randrange(1, 3),
                id=self.number << 32,
                title=self.text(),
                address=self.maybe("10.0.0.1/8"),
                tags=[self.maybe(self.text()) for _ in range(self.chance.randrange(3))],
                opening=self.maybe(clock(7, 30, 0, 1)),
                date=self.maybe(date(2299, 12, 31)),
                facts=self.maybe({"n": [1.5, None, self.text()], "big": 10**30}),
            )
        )

    def send(self, session: Session) -> None:
        depot, person = self.one(session, Depot), self.one(session, Person)
        if depot is None:
            return
        other = session.scalars(select(Depot).where(Depot.tenant_id == depot.tenant_id)).all()
        price = Decimal(self.chance.randrange(-(10**37), 10**37)).scaleb(-10)
        session.add(
            Shipment(
                tenant_id=depot.tenant_id,
                id=UUID(int=self.chance.getrandbits(128)),
                from_id=depot.id,
                to_id=self.maybe(self.chance.choice(other).id),
                driver_code=self.maybe(person.code if person else None),
                mode=self.chance.choice(list(Mode)),
                urgency=self.maybe("high"),
                weight=self.maybe(Decimal("123456789012345678901234567890.000000000100")),
                price=price,
                speed=self.maybe(self.chance.choice([0.1, float("inf"), -1e-30, 3.4e38])),
                ratio=self.maybe(self.chance.choice([1e308, -0.1, float("-inf"), 5e-324])),
                taken=self.maybe(timedelta(days=3, microseconds=self.number)),
                photo=self.maybe(self.chance.randbytes(9)),
                stops=[self.maybe(self.chance.randrange(-(2**31), 2**31)) for _ in range(3)],
                grid=self.maybe([[Decimal("1.50"), Decimal(-2)], [Decimal(0), Decimal(3)]]),
                seats=self.maybe(text("'[1,5)'::int4range")),
                stamped_at=self.maybe(datetime(1969, 12, 31, 23, 59, 59, 5, tzinfo=timezone.utc)),
            )
        )

    def change(self, session: Session) -> None:
        for model, column in ((Depot, "title"), (Person, "name")):
            if row := self.one(session, model):
                setattr(row, column, self.text())
        if shipment := self.one(session, Shipment):
            shipment.to_id = None
            shipment.driver_code = None

    def move(self, session: Session) -> None:
        if person := self.one(session, Person):
            person.boss_code = self.maybe(self.one(session, Person).code)
        if shipment := self.one(session, Shipment):
            shipment.id = UUID(int=self.chance.getrandbits(128))

    def end(self, session: Session) -> None:
        for model in (Shipment, Shift):
            if row := self.one(session, model):
                session.delete(row)


def single(value: float) -> float:
    found: float = struct.unpack("f", struct.pack("f", value))[0]
    return found


def canonical(row: Any) -> list[Any]:
    return [plain(value) for value in row]


def plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        value = bytes(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, UUID):
        return str(value)
    return value


def drained(settings: Settings) -> Any:
    def report() -> Any:
        wiring.drain_all(settings).require()
        return wiring.quality(settings)

    return until(report, "the checks can be made", retry=Retryable)


def assert_facts_equal_joins(settings: Settings, engine: Engine) -> None:
    report = drained(settings)
    for table in CATALOG.tables:
        assert wiring.dead_letters(settings, table.name, 5) == []
    assert not report.failures
    for fact, query, order in (
        ("fact_shipment", SHIPMENTS, "shipment_tenant_id, toString(shipment_id)"),
        ("fact_shift", SHIFTS, "shift_id"),
    ):
        _, found = wiring.query(settings, f"SELECT * FROM olap.{fact} ORDER BY {order}")
        with engine.connect() as connection:
            expected = [list(row) for row in connection.execute(text(query))]
        if fact == "fact_shipment":
            for row in expected:
                row[10] = None if row[10] is None else single(row[10])
                for at in (21, 27):  # an array of a missing dimension is empty
                    row[at] = row[at] or []
        assert [canonical(row) for row in found] == [canonical(row) for row in expected]


def test_their_facts_equal_the_joins_postgres_gives(
    settings: Settings, engine: Engine, relay: None
) -> None:
    company = Company(engine, seed=4)
    for _ in range(3):
        company.work(120)
        assert_facts_equal_joins(settings, engine)
    columns = wiring.query(settings, "SELECT * FROM olap.fact_shift LIMIT 1")[0]
    assert "person_secret" not in columns
    assert wiring.rebuild(settings, "fact_shipment", full=True).rows > 20
    assert_facts_equal_joins(settings, engine)


def test_composite_text_and_uuid_keys_are_checked_deeply_and_read_again_by_range(
    settings: Settings, engine: Engine, relay: None
) -> None:
    Company(engine, seed=5).work(80)
    assert_facts_equal_joins(settings, engine)
    report = wiring.quality(settings, deep=True)
    assert not report.failures
    with engine.connect() as connection:
        keys = connection.execute(
            text(
                "SELECT tenant_id, id::text FROM shipments"
                ' ORDER BY tenant_id, id::text COLLATE "C" LIMIT 4'
            )
        ).all()
        code = connection.scalar(text("SELECT code FROM crm.people LIMIT 1"))
    for tenant, identity in keys:
        wiring.query(
            settings,
            f"DELETE FROM cdc.src_shipment WHERE tenant_id = {tenant} AND id = '{identity}'",
        )
    wiring.query(
        settings,
        "INSERT INTO cdc.dim_person SELECT * REPLACE ('nobody, \"really\"' AS code)"
        " FROM cdc.dim_person FINAL LIMIT 1",
    )
    found = {c.table: c for c in wiring.quality(settings, deep=True).checks if c.check == "rows"}
    named = {f"{tenant},{identity}" for tenant, identity in keys}
    assert set(found["shipments"].keys) == named
    assert found["crm_people"].keys == ('"nobody, ""really"""',)
    first, last = (",".join(map(str, key)) for key in (keys[0], keys[2]))
    assert wiring.resync(settings, "shipments", lower=first, upper=last).rows == 3
    assert wiring.resync(settings, "shipments", keys=[",".join(map(str, keys[3]))]).rows == 1
    assert wiring.resync(settings, "crm_people", keys=[*found["crm_people"].keys]).deleted == 1
    quoted = '"' + str(code).replace('"', '""') + '"'
    assert wiring.resync(settings, "crm_people", lower=quoted, upper=quoted).rows == 1
    report = wiring.quality(settings, deep=True)
    assert not report.failures
    assert_facts_equal_joins(settings, engine)


def test_composite_text_and_uuid_keys_are_read_again_in_ranges(
    settings: Settings, engine: Engine, relay: None
) -> None:
    Company(engine, seed=6).work(80)
    codes = ["a'b", "tab\tx", "back\\slash", "ü", '"q"', "a,b", "~", "A"]
    with Session(engine) as session, session.begin():
        person = session.scalars(select(Person)).first()
        assert person is not None
        session.add_all(Person(code=code, name=person.name) for code in codes)
    assert_facts_equal_joins(settings, engine)
    for statement in (
        "DELETE FROM cdc.src_shipment WHERE cityHash64(id) % 2",
        "INSERT INTO cdc.src_shipment SELECT one.* REPLACE (generateUUIDv4(number) AS id,"
        " number % 9 - 4 AS tenant_id, 5 AS _version) FROM"
        " (SELECT * FROM cdc.src_shipment FINAL LIMIT 1) AS one CROSS JOIN numbers(20) AS n",
        "DELETE FROM cdc.dim_person WHERE cityHash64(code) % 2",
        "INSERT INTO cdc.dim_person SELECT one.* REPLACE (char(33 + number * 4, 39, 92, 9) AS code,"
        " 5 AS _version) FROM"
        " (SELECT * FROM cdc.dim_person FINAL LIMIT 1) AS one CROSS JOIN numbers(20) AS n",
    ):
        wiring.query(settings, statement)
    for name in ("shipments", "crm_people"):
        table = CATALOG.table(name)
        with wiring.resyncing(settings, table) as step:
            done = replace(step, rows=3).run(table, Selection())
            again = replace(step, rows=3).run(table, Selection(), restart=True, differing=True)
        assert done.before[1] > 5
        assert done.deleted == 20
        assert (again.rows, again.equal) == (0, again.before[1])
    report = wiring.quality(settings, deep=True)
    assert not report.failures
    assert_facts_equal_joins(settings, engine)


def test_a_snapshot_gives_the_same_as_the_stream(
    settings: Settings, engine: Engine, relay: None
) -> None:
    stop = threading.Event()
    again = replace(settings, relay=RelaySettings(slot="logistics_again", ack="broker"))
    thread = threading.Thread(target=run, args=(again, CATALOG), kwargs={"stop": stop})
    thread.start()
    try:
        until(lambda: slot_is_there(engine), "the snapshot is on the broker")
        assert_facts_equal_joins(settings, engine)
    finally:
        stop.set()
        thread.join(60)
        drop_slot(again)


def slot_is_there(engine: Engine) -> bool:
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'logistics_again'")
        )
        return found.first() is not None
