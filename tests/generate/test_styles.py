"""Every mapping style of SQLAlchemy 2 and every name, as one model set through the whole loop."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from pydantic import TypeAdapter, ValidationError

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import Table, load_catalog
from sluice.catalog.models import describe
from sluice.catalog.sources import Sources
from sluice.catalog.stored import catalog_of, catalog_text, decoded
from sluice.catalog.tables import OWN_COLUMNS
from sluice.clients.broker import Broker
from sluice.drain.fast_decoder import PlainReader
from sluice.embedded.model_tables import create_tables
from sluice.errors import Retryable, WrongUsage
from sluice.generate.clickhouse import MACHINE_COLUMNS
from sluice.generate.files import write_files
from sluice.generate.runtime_schemas import sqlalchemy_to_pydantic
from sluice.settings import RelaySettings, Settings
from store_api.database import make_engine
from tests import styles
from tests.styles.core import ODD, POINT
from tests.styles.hostile import Envelope
from tests.support.services import drop_slot, own_services
from tests.support.waiting import until

CATALOG = load_catalog("tests.styles")
METADATA = (
    styles.Automapped.metadata,
    styles.Dataclasses.metadata,
    styles.Hero.metadata,
    styles.Hostile.metadata,
    styles.Inherited.metadata,
    styles.Twins.metadata,
    styles.decorated.metadata,
    styles.imperative.metadata,
    styles.metadata,
)
TABLES = [table for metadata in METADATA for table in metadata.sorted_tables]
SECRET = "it never leaves PostgreSQL"
# Of its own: its tables have names that other modules use.
services = own_services
FACTS = {
    "fact_book": "book_id author_id title author_name author_born",
    "fact_director": "director_id employee_id company_id bonus manager_level employee_type"
    " employee_name company_name",
    "fact_hero": "hero_id team_id age team_name",
    "fact_landings": "landings_id harbor_id tons harbors_name",
    "fact_meeting": "meeting_id one_id two_id sales_persons_name hr_persons_name",
    "fact_note_tags": "note_tags_note_id note_tags_tag_id note_parent_id note_text"
    " note_parent_text tags_name",
    "fact_project": "project_id manager_id boss_id manager_employee_id manager_employee_company_id"
    " boss_company_id manager_level manager_employee_type manager_employee_name"
    " manager_employee_company_name boss_type boss_name boss_company_name",
    "fact_song": "song_id album_id seconds album_title album_left_out",
    "fact_town": "town_id country_code people country_name",
    "fact_vehicle": "vehicle_id owner_id kind payload number of axles company_name",
}


def test_all_tables_of_all_styles_are_in_the_catalog_but_those_that_cannot_be_followed() -> None:
    followed = {(table.schema, table.relation) for table in CATALOG.tables}
    declared = {(str(table.schema or "public"), str(table.name)) for table in TABLES}
    apart = {"keyless", "lists", "sessions"}
    assert declared - followed == {("public", name) for name in apart}
    assert followed <= declared


def test_what_is_left_out_says_what_to_write_in_a_line() -> None:
    assert sorted(map(str, CATALOG.left_out)) == [
        "column shapes_of_land._version is left out: it has the name of one of Sluice's own in"
        " ClickHouse; rename it",
        "column shapes_of_land.place is left out: it has the type POINT(), which has no lossless"
        ' mapping; mark it "text": True to store its text, or "exclude": True',
        "column shapes_of_land.twice is left out: it is computed when it is read, so PostgreSQL"
        " does not send it; make it Computed(..., persisted=True), or leave it out of the model",
        "table keyless is left out: it has no primary key, which changes need; give it one in"
        ' PostgreSQL and in the model, or mark it "exclude": True',
        "table lists is left out: it has a key whose column key is an array; give the table another"
        " primary key, in PostgreSQL too",
    ]


@pytest.mark.parametrize("what", ["name", "storage", "history", "topic", "model", "entity"])
def test_names_of_tables_are_distinct(what: str) -> None:
    names = [getattr(table, what) for table in CATALOG.tables]
    assert len(set(names)) == len(names) == len({name.lower() for name in names})


def test_no_table_is_named_as_a_part_of_another_or_of_sluice() -> None:
    names = {table.name for table in CATALOG.tables}
    assert not names & {"control", "dead_letter", "tags_feed"}
    assert {name.partition("_")[0] for name in names} >= {"control", "dead", "tags"}


def test_names_that_a_table_had_are_not_taken_over_by_one_that_is_added() -> None:
    def names(*places: tuple[str, str]) -> set[str]:
        metadata = sa.MetaData()
        tables = [
            sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), schema=schema)
            for schema, name in places
        ]
        return {table.name for table in describe("added", [], others=tables).tables}

    alone = names(("a", "b_c"))
    assert alone == {"a_b_c"}
    assert not names(("a", "b_c"), ("a_b", "c")) & alone


@pytest.mark.parametrize("fact", CATALOG.facts, ids=lambda fact: str(fact.name))
def test_a_fact_has_the_columns_of_all_it_refers_to(fact: Any) -> None:
    names = [column.name for column in fact.columns]
    if fact.name in FACTS:
        assert " ".join(names) == FACTS[fact.name]
    else:
        assert fact.table.relation in {*ODD, "returns"}


def test_columns_of_subclasses_belong_to_the_table_by_their_attributes() -> None:
    columns = {c.name: c.attribute for c in CATALOG.table("vehicles").columns}
    assert columns == {
        "kind": "kind",
        "id": "id",
        "payload": "payload",
        "owner_id": "owner_id",
        "number of axles": "axles",
    }


def test_the_catalog_with_what_it_leaves_out_is_stored_and_read_back() -> None:
    text = catalog_text(CATALOG, Sources(files={}, imports={}))
    assert catalog_of(decoded(text.encode())) == CATALOG


def test_the_names_of_own_columns_are_those_that_tables_get() -> None:
    assert {*(name for name, _ in MACHINE_COLUMNS), "_ingested_at"} == OWN_COLUMNS


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("generated")
    write_files(CATALOG, out)
    styles.__path__.append(str(out / "tests/styles"))
    yield out
    styles.__path__.remove(str(out / "tests/styles"))
    for name in [name for name in sys.modules if name.startswith("tests.styles.generated")]:
        del sys.modules[name]


@pytest.mark.parametrize("table", CATALOG.tables, ids=lambda table: str(table.name))
def test_the_generated_schemas_are_imported_without_a_warning(
    table: Table, generated: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        package = importlib.import_module("tests.styles.generated")
        from sluice.generate.event_schemas import event_schema

        TypeAdapter(event_schema(CATALOG, table)).json_schema()
        for suffix in ("", "Create", "Update"):
            schema = getattr(package, f"{table.model}{suffix}").model_json_schema()
            assert set(schema["properties"]) <= {c.attribute for c in table.columns}
    PlainReader(table)


def test_a_row_of_hostile_attributes_is_read_by_its_schema(generated: Path) -> None:
    row = Envelope(status=Envelope.Status.OPEN, schema="s", date=5, _hidden=6, kind="int", id=7)
    row.json, row.copy, row.model_config = {"a": 1}, 2, 3
    package: Any = importlib.import_module("tests.styles.generated")
    schemas: list[Any] = [package.Envelope, sqlalchemy_to_pydantic(Envelope)]
    for schema in schemas:
        read = schema.model_validate(row)
        dumped = read.model_dump(by_alias=True)
        assert dumped["schema"] == "s"
        assert (dumped["_hidden"], dumped["model_config"], dumped["json"]) == (6, 3, {"a": 1})
        assert read.status is Envelope.Status.OPEN
        assert set(dumped) == {column.attribute for column in CATALOG.table("envelopes").columns}
    assert package.EnvelopeUpdate(schema="x").schema__ == "x"
    with pytest.raises(ValidationError):
        package.EnvelopeUpdate(kind="integer")
    assert package.EnvelopeUpdate(kind='Literal"').kind == 'Literal"'


WRONG = {
    "no type": ("    a: Mapped[object] = mapped_column(primary_key=True)", "object"),
    "no such table": (
        "    a: Mapped[int] = mapped_column(primary_key=True)\n"
        "    b: Mapped[int] = mapped_column(ForeignKey('missing.id'))\n"
        "    c: Mapped['Missing'] = relationship()",
        "Missing",
    ),
    "no key": ("    b: Mapped[int]", "Thing"),
    "wrong mark": (
        "    __table_args__ = {'info': {'order_by': 'b'}}\n"
        "    a: Mapped[int] = mapped_column(primary_key=True)",
        "things",
    ),
    "it exits": (
        "    a: Mapped[int] = mapped_column(primary_key=True)\nsys.exit('no URL')",
        "no URL",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_of_a_model_is_a_line_that_names_it(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, named = WRONG[case]
    module = f"wrong_{case.replace(' ', '_')}"
    (tmp_path / f"{module}.py").write_text(
        "import sys\nfrom sqlalchemy import ForeignKey\n"
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship\n"
        "class Base(DeclarativeBase): ...\n"
        f"class Thing(Base):\n    __tablename__ = 'things'\n{body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WrongUsage, match=named) as raised:
        load_catalog(module)
    message = str(raised.value)
    assert len(message.splitlines()) <= 2  # what and where; what to do
    assert "site-packages" not in message


def value(column: sa.Column[Any], at: int) -> Any:
    """A value of a column in a row; a foreign key refers to the row of the same number."""
    kind = column.type
    if isinstance(kind, sa.ARRAY):
        return [at]
    if isinstance(kind, sa.Enum):
        return kind.enum_class(next(iter(kind.enum_class)).value) if kind.enum_class else "int"
    if column.info.get("exclude"):
        return SECRET
    if isinstance(kind, POINT):
        return f"({at}.50,-1e100)"
    if isinstance(kind, sa.JSON):
        return {"at": at}
    return at if isinstance(kind, sa.Integer) else f"{at} ü"


def row(table: sa.Table, at: int) -> dict[str, Any]:
    return {
        column.key: value(column, at)
        for column in table.columns
        if column.computed is None and column.name != "place"
    }


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[sa.Engine]:
    assert set(create_tables(services.postgres, "tests.styles")) == {t.fullname for t in TABLES}
    assert create_tables(services.postgres, "tests.styles") == []
    made = make_engine(services.postgres)
    yield made
    made.dispose()


@pytest.mark.services
def test_they_go_through_the_whole_loop(
    services: Settings, engine: sa.Engine, generated: Path
) -> None:
    relay = RelaySettings(slot="styles", ack="broker")
    settings = replace(services, models="tests.styles", out=generated, relay=relay)
    with engine.begin() as connection:
        for table in TABLES:
            connection.execute(table.insert(), [row(table, at) for at in (1, 2)])
    assert wiring.initialise(settings) == []
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, CATALOG), kwargs={"stop": stop})
    thread.start()
    try:
        settle(settings)
        with engine.begin() as connection:
            for table in TABLES:
                connection.execute(table.insert(), [row(table, at) for at in (3, 4)])
                change(connection, table)
            for table in reversed(TABLES):
                connection.execute(table.delete().where(*is_row(table, 4)))
        settle(settings)
        rows = wiring.query(settings, "SELECT count() FROM olap.fact_note_tags")[1]
        assert rows == [(3,)]
        for fact in CATALOG.facts:
            assert wiring.rebuild(settings, fact.name, full=True).rows == 3
        report = wiring.quality(settings, deep=True)
        assert not report.failures
        rows_checked = {check.table for check in report.checks if check.check == "rows"}
        assert rows_checked == {table.name for table in CATALOG.tables}
        assert {check.status for check in report.checks} == {"pass"}
        sent = messages(settings, "cdc.accounts")
        assert len(sent) >= 4
        assert not any(SECRET.encode() in message for message in sent)
        centers = "SELECT center FROM olap.dim_shapes_of_land ORDER BY id"
        assert wiring.query(settings, centers)[1] == [
            ("(1.5,-1e+100)",),
            (None,),
            ("(3.5,-1e+100)",),
        ]
        assert report_of_projects(settings) == [(3, "3 ü", "3 ü", "3 ü")]
    finally:
        stop.set()
        thread.join(60)
        drop_slot(settings)
    assert not thread.is_alive()


def messages(settings: Settings, topic: str) -> list[bytes]:
    """All messages of a topic."""
    options = {**Broker(settings.kafka).options, "group.id": "styles", "enable.partition.eof": True}
    consumer = Consumer(options)
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found: list[bytes] = []
    while not (message := consumer.poll(30)) or not message.error():
        assert message is not None
        found.append(message.value() or b"")
    consumer.close()
    return found


def test_a_column_of_the_key_cannot_be_excluded() -> None:
    table = sa.Table(
        "logins",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, info={"exclude": True}),
    )
    with pytest.raises(WrongUsage, match=r"column logins\.id is excluded, but is part of the key"):
        describe("logins", [], others=[table])


def change(connection: sa.Connection, table: sa.Table) -> None:
    """Change the nullable columns of a row that refer to nothing."""
    changed = {
        column.key: None
        for column in table.columns
        if column.nullable and not column.foreign_keys and column.computed is None
    }
    if changed:
        connection.execute(table.update().where(*is_row(table, 2)).values(changed))


def is_row(table: sa.Table, at: int) -> list[Any]:
    key = list(table.primary_key.columns) or list(table.columns)
    return [column == value(column, at) for column in key]


def settle(settings: Settings) -> None:
    report = until(lambda: wiring.quality(settings), "the checks can be made", retry=Retryable)
    assert not report.failures


def report_of_projects(settings: Settings) -> list[tuple[Any, ...]]:
    query = (
        "SELECT manager_level, manager_employee_name, boss_name, manager_employee_company_name"
        " FROM olap.fact_project WHERE project_id = 3"
    )
    return [tuple(found) for found in wiring.query(settings, query)[1]]
