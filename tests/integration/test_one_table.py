"""One table's trouble stays with that table: every kind of it, under every command over several.

The other tables are done, the troubled one is reported with its exit code and a remedy; then what
was said is done, word for word, until all is well.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.cli import dead_letters, doctor, pipeline, stack
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.errors import NeedsPerson, Retryable, SluiceError
from sluice.generate.files import write_files
from sluice.quality.checks import QualityReport
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests.support.services import drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services

MODELS = """
from __future__ import annotations
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

class Base(DeclarativeBase): ...

class Bird(Base):
    __tablename__ = "birds"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(9))

class Fish(Base):
    __tablename__ = "fishes"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(9))

class Catch(Base):
    __tablename__ = "catches"
    __table_args__ = {"info": {"star": "fact"}}
    id: Mapped[int] = mapped_column(primary_key=True)
    bird_id: Mapped[int] = mapped_column(ForeignKey("birds.id"))
    bird: Mapped[Bird] = relationship()

class Swarm(Base):
    __tablename__ = "swarms"
    __table_args__ = {"info": {"star": "fact"}}
    id: Mapped[int] = mapped_column(primary_key=True)
    fish_id: Mapped[int] = mapped_column(ForeignKey("fishes.id"))
    fish: Mapped[Fish] = relationship()
"""
TABLES = ("birds", "fishes", "catches", "swarms")
ILL = "birds"  # the table in trouble, and with it at most its fact
WELL = ("fishes", "catches", "swarms")
ORPHANS = "orphans bird"  # a check of another table that looks into this one
CREATED = (
    "CREATE TABLE birds (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE fishes (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE catches (id int PRIMARY KEY, bird_id int NOT NULL)",
    "CREATE TABLE swarms (id int PRIMARY KEY, fish_id int NOT NULL)",
    *(f"INSERT INTO {name} SELECT i, 'a' FROM generate_series(1, 20) i" for name in TABLES[:2]),
    *(f"INSERT INTO {name} SELECT i, i FROM generate_series(1, 20) i" for name in TABLES[2:]),
)


@dataclass(slots=True)
class Shore:
    """A pipeline of four tables and two facts, with the relay's slot held back by the drain."""

    settings: Settings
    engine: Engine
    numbers: Iterator[int]

    def postgres(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def clickhouse(self, statement: str) -> None:
        with closing(ClickHouse(self.settings.clickhouse)) as clickhouse:
            clickhouse.execute(statement)

    @property
    def admin(self) -> AdminClient:
        return AdminClient(
            {"bootstrap.servers": self.settings.kafka.bootstrap, **self.settings.kafka.options}
        )

    def delete_topic(self) -> None:
        admin = self.admin
        for future in admin.delete_topics([f"cdc.{ILL}"]).values():
            future.result()

    def publish(self, value: bytes, times: int = 1) -> None:
        producer = Producer(
            {"bootstrap.servers": self.settings.kafka.bootstrap, **self.settings.kafka.options}
        )
        for _ in range(times):
            producer.produce(f"cdc.{ILL}", key=b'{"id":1}', value=value, partition=0)
        assert producer.flush(20) == 0

    def write(self) -> int:
        """A new row in every table; its key."""
        number = next(self.numbers)
        self.postgres(
            *(f"INSERT INTO {name} VALUES ({number}, 'b')" for name in TABLES[:2]),
            *(f"INSERT INTO {name} VALUES ({number}, {number})" for name in TABLES[2:]),
        )
        return number

    def send(self, tables: Sequence[str]) -> int:
        """A new row in every table, which the relay has sent for these tables; its key."""
        topics, names = Topics(self.settings.kafka), [f"cdc.{name}" for name in tables]
        before = topics.ends(names)
        number = self.write()
        until(
            lambda: all(end > before[name] for name, end in topics.ends(names).items()),
            "the rows are sent",
        )
        return number

    def sluice(self, *arguments: str, settings: Settings | None = None) -> Said:
        """Run a command; what it said and its exit code."""
        apps = {"dead-letters": dead_letters.app, "doctor": doctor.app, "status": stack.app}
        app = apps.get(arguments[0], pipeline.app)
        given = [name for name in arguments if name != "doctor"]  # the only command of its app
        done = CliRunner().invoke(app, given, obj=settings or self.settings)
        error = done.exception
        if error is None:
            return Said(0, done.stdout, "")
        assert isinstance(error, SluiceError), repr(error)
        return Said(error.exit_code, done.stdout, str(error))

    def obey(self, remedy: str) -> None:
        """Do what a remedy says: its `sluice` commands, SQL, and topics to delete."""
        if "delete the topic" in remedy:
            self.delete_topic()
        statement = re.search(r"run in PostgreSQL: (.*)", remedy)
        if statement:
            self.postgres(statement[1])
            return
        orders = remedy.replace("If the models are wrong, run: sluice generate, sluice init", "")
        for order in re.findall(
            r"(?<!see: )sluice ((?:init|drain|resync|rebuild)[^;,\n]*)", orders
        ):
            if "status" not in order:
                self.sluice(*order.split())


@dataclass(frozen=True, slots=True)
class Said:
    code: int
    out: str
    error: str


@pytest.fixture(scope="module")
def shore(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shore]:
    folder = tmp_path_factory.mktemp("shore")
    (folder / "shore_models.py").write_text(MODELS)
    sys.path.insert(0, str(folder))
    engine = make_engine(services.postgres)
    settings = replace(
        services,
        models="shore_models",
        out=folder,
        relay=RelaySettings(slot=f"shore_{uuid4().hex[:8]}", ack="drained"),
        quality_seconds=10,
    )
    made = Shore(settings, engine, iter(range(100, 10_000)))
    made.postgres(*CREATED)
    write_files(load_catalog("shore_models"), folder, services.clickhouse.cluster)
    wiring.initialise(settings)
    try:
        with relaying(settings):
            settled(made)
            yield made
    finally:
        drop_slot(settings)
        made.postgres(
            f"DROP PUBLICATION {settings.relay.publication}", f"DROP TABLE {', '.join(TABLES)}"
        )
        engine.dispose()
        sys.path.remove(str(folder))


@contextmanager
def relaying(settings: Settings) -> Iterator[None]:
    """A relay that is started again whenever it ends, as any supervisor of processes does."""
    stop, catalog = threading.Event(), load_catalog(settings.models)

    def supervised() -> None:
        while not stop.is_set():
            try:
                run(settings, catalog, stop=stop)
            except NeedsPerson:
                stop.wait(0.5)

    thread = threading.Thread(target=supervised)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


def settled(shore: Shore) -> None:
    """Follow what the checks say until all of them pass."""

    def checked() -> QualityReport:
        wiring.drain_all(shore.settings, TABLES).require()
        return wiring.quality(shore.settings, deep=True)

    report = until(checked, "the checks can be made", 120, retry=Retryable)
    if not (report.settled and all(check.status in {"pass", "warn"} for check in report.checks)):
        raise AssertionError([check.sentence() for check in report.checks])


def mended(shore: Shore, settings: Settings) -> list[str]:
    """Obey the checks' remedies until every check passes; what they were."""
    obeyed = list[str]()
    for _ in range(6):
        report = wiring.quality(settings, deep=True)
        wrong = [check for check in report.checks if check.status in {"fail", "unsettled"}]
        if not wrong:
            return obeyed
        for check in wrong:
            assert check.table in {ILL, "fact_catch"} or check.check == ORPHANS, check.sentence()
            if check.repair not in obeyed[-1:]:
                obeyed.append(check.repair)
                shore.obey(check.repair)
    raise AssertionError(obeyed)


def poison(shore: Shore) -> None:
    shore.publish(b"{}", 200)


def made_again(shore: Shore) -> None:
    """The relay makes the topic again, at the latest for the next row."""
    shore.delete_topic()
    shore.sluice("init")


def partition(shore: Shore) -> None:
    """Again where the relay was quicker to make the topic."""
    admin, name = shore.admin, f"cdc.{ILL}"
    while Topics(shore.settings.kafka).partitions().get(name) != 2:
        shore.delete_topic()
        for future in admin.create_topics([NewTopic(name, 2, 1)]).values():
            with suppress(KafkaException):
                future.result()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of trouble: how it comes, how it is told, and the exit codes of what it stops."""

    cause: Callable[[Shore], Any]
    told: str
    drain: int = 0
    repair: int = 0
    rebuild: int = 0
    limited: bool = False  # commands run as a role that may only read


def statement(sql: str) -> Callable[[Shore], None]:
    return lambda shore: shore.postgres(sql)


def on_clickhouse(sql: str) -> Callable[[Shore], None]:
    return lambda shore: shore.clickhouse(sql)


KINDS = {
    "poisoned": Kind(cause=poison, told="200 of 20. events are invalid", drain=4, repair=4),
    "gap": Kind(cause=made_again, told="was deleted and recreated", drain=4),
    "differs": Kind(
        cause=on_clickhouse("ALTER TABLE cdc.dim_bird ADD COLUMN odd Nullable(String)"),
        told="cdc.dim_bird differs from the model",
        drain=4,
        repair=4,
    ),
    "not in ClickHouse": Kind(
        cause=on_clickhouse("DROP TABLE cdc.dim_bird SYNC"),
        told="dim_bird",
        drain=3,
        repair=3,
        rebuild=3,
    ),
    "permission": Kind(
        cause=statement("REVOKE SELECT ON birds FROM shore_reader"),
        told="permission denied for table birds",
        repair=4,
        limited=True,
    ),
    "row-level security": Kind(
        cause=statement("ALTER TABLE birds ENABLE ROW LEVEL SECURITY"),
        told="row-level security",
        repair=4,
        limited=True,
    ),
    "partitioned": Kind(cause=partition, told="has 2 partitions", drain=4, repair=4),
}


@pytest.fixture(scope="module")
def reader(shore: Shore) -> Iterator[Settings]:
    """The settings of a role that may read the tables."""
    shore.postgres(
        "CREATE ROLE shore_reader LOGIN REPLICATION PASSWORD 'reads'",
        f"GRANT SELECT ON {', '.join(TABLES)} TO shore_reader",
        "GRANT EXECUTE ON FUNCTION pg_control_system() TO shore_reader",
    )
    postgres = replace(shore.settings.postgres, user="shore_reader", password=SecretStr("reads"))
    yield replace(shore.settings, postgres=postgres)
    shore.postgres("DROP OWNED BY shore_reader", "DROP ROLE shore_reader")


@pytest.mark.parametrize("name", KINDS)
def test_one_table_s_trouble_stays_with_that_table_until_its_remedy_ends_it(
    shore: Shore, reader: Settings, name: str
) -> None:
    kind = KINDS[name]
    settings = reader if kind.limited else shore.settings
    shore.write()
    kind.cause(shore)
    shore.write()
    checks_go_on(shore, settings, kind)
    newest = shore.send(TABLES if kind.drain == 0 else WELL)
    drains_go_on(shore, settings, kind, newest)
    resyncs_go_on(shore, settings, kind)
    the_rest_goes_on(shore, settings, kind)
    obeyed = mended(shore, settings)
    assert obeyed or not kind.repair
    settled(shore)
    rows = wiring.query(shore.settings, f"SELECT name FROM olap.dim_bird WHERE id = {newest}")[1]
    assert rows == [("b",)]


def checks_go_on(shore: Shore, settings: Settings, kind: Kind) -> None:
    """Each table that is well is compared and passes; the other says what is wrong with it."""
    said = shore.sluice("quality", "--deep", "--json", settings=settings)
    assert said.out, said.error
    checks = json.loads(said.out)["checks"]
    by_table: dict[str, dict[str, str]] = {}
    for check in checks:
        by_table.setdefault(check["table"], {})[check["check"]] = check["status"]
    for name in WELL:
        compared = {
            check: by_table[name].get(check) for check in ("caught_up", "row_count", "rows")
        }
        assert set(compared.values()) == {"pass"}, (name, compared)
    assert by_table["fact_swarm"].items() >= {("fact_row_count", "pass"), ("fact_rows", "pass")}
    assert set(by_table["fact_swarm"].values()) == {"pass"}
    wrong = [check for check in checks if check["status"] in {"fail", "unsettled"}]
    elsewhere = {check["check"] for check in wrong if check["table"] not in {ILL, "fact_catch"}}
    assert elsewhere <= {ORPHANS}
    assert any(check["table"] == ILL for check in wrong)
    assert any(re.search(kind.told, check["difference"]) for check in wrong), wrong
    assert all(check["repair"] for check in wrong), wrong
    assert said.code == (3 if kind.drain == 3 else 1)


def drains_go_on(shore: Shore, settings: Settings, kind: Kind, newest: int) -> None:
    said = shore.sluice("drain", "--until-empty", settings=settings)
    assert said.code == kind.drain, said
    assert all(f"{name}: " in said.out for name in WELL)
    assert (f"{ILL}: " in said.out) is (kind.drain == 0)
    if kind.drain:
        assert re.search(kind.told, said.error)
        assert len(said.error.splitlines()) >= 2
    for name in ("dim_fish", "src_catch", "src_swarm"):
        assert wiring.query(settings, f"SELECT 1 FROM cdc.{name} FINAL WHERE id = {newest}")[1]
    said = shore.sluice("dead-letters", "replay", settings=settings)
    assert all(f"{name}: 0 dead letters replayed" in said.out for name in WELL)


def resyncs_go_on(shore: Shore, settings: Settings, kind: Kind) -> None:
    said = shore.sluice("resync", "--dry-run", settings=settings)
    assert all(f"{name}: nothing differs" in said.out for name in WELL), said
    said = shore.sluice("resync", *TABLES, "--restart", settings=settings)
    assert all(re.search(f"{name}: .* read again", said.out) for name in WELL), said
    assert said.code == kind.repair, said
    if kind.repair:
        assert re.search(kind.told, said.error)
        assert len(said.error.splitlines()) >= 2
    for command in (("resync", "--diff"), ("recover",)):
        said = shore.sluice(*command, settings=settings)
        assert all(f"{name}: " in said.out for name in WELL), said
        assert said.code == kind.repair, said


def the_rest_goes_on(shore: Shore, settings: Settings, kind: Kind) -> None:
    shore.send(WELL)
    shore.sluice("drain", settings=settings)
    said = shore.sluice("rebuild", settings=settings)
    assert "fact_swarm: " in said.out
    assert said.code == kind.rebuild, said
    found = json.loads(shore.sluice("status", "--json", settings=settings).out)
    for name in WELL:
        assert found["tables"][name]["postgres_rows"] == found["tables"][name]["clickhouse_rows"]
    assert set(found["troubles"]) <= {ILL, "fact_catch"}
    said = shore.sluice("doctor", settings=settings)
    assert all(f"ok   broker: cdc.{name}: " in said.out for name in WELL), said
    said = shore.sluice("maintain", settings=settings)
    assert said.code == kind.rebuild, said
    assert not kind.rebuild or "cdc.dim_bird" in said.error
    assert not any(name in said.error for name in ("swarm", "fish"))


def test_a_table_whose_query_takes_too_long_is_unsettled_and_the_others_are_compared(
    shore: Shore,
) -> None:
    settings = replace(shore.settings, statement_seconds=1)
    with shore.engine.begin() as connection:
        connection.execute(text(f"LOCK TABLE {ILL} IN ACCESS EXCLUSIVE MODE"))
        said = shore.sluice("quality", "--json", settings=settings)
        found = json.loads(shore.sluice("status", "--json", settings=settings).out)
    assert said.code == 3, said
    assert f"did not finish a query on {ILL}" in said.error
    checks = json.loads(said.out)["checks"]
    statuses = {(check["table"], check["check"]): check["status"] for check in checks}
    assert statuses[ILL, "row_count"] == "unsettled"
    assert {statuses[name, "row_count"] for name in WELL} == {"pass"}
    assert found["tables"][ILL]["postgres_rows"] is None
    assert set(found["troubles"]) == {ILL}
    assert all(found["tables"][name]["postgres_rows"] for name in WELL)
    settled(shore)


def test_a_recovery_gives_the_other_tables_their_slot_and_says_how_the_poisoned_one_follows(
    shore: Shore,
) -> None:
    poison(shore)
    lose_slot(shore)
    newest = shore.write()  # no slot has seen it
    said = shore.sluice("recover")
    assert said.code == 4, said
    assert all(f"{name}: " in said.out for name in WELL), said
    assert f"sluice drain {ILL} --pass-rejects" in said.error
    assert f"sluice resync {ILL}" in said.error
    for name in ("dim_fish", "src_catch", "src_swarm"):
        query = f"SELECT 1 FROM cdc.{name} FINAL WHERE id = {newest}"
        assert wiring.query(shore.settings, query)[1]
    shore.obey(said.error)
    settled(shore)


def lose_slot(shore: Shore) -> None:
    """Drop the slot from under the relay."""
    slot = shore.settings.relay.slot
    name = f"slot_name = '{slot}'"
    while True:
        with suppress(DBAPIError):  # the relay was back before
            shore.postgres(
                f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE {name}"
            )
            shore.postgres(
                f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE {name}"
            )
            return
