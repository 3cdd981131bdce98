"""Each kind of table is right in snapshot, stream, checks and resync, or refused beforehand."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg2
import pytest
from pydantic import SecretStr

from sluice import wiring
from sluice.capture import publication as publications
from sluice.capture.relay import DUTIES, PUBLICATION, run
from sluice.catalog import Catalog, load_catalog
from sluice.clients.postgres import connection_options
from sluice.embedded.postgres import ensure_database
from sluice.errors import NeedsPerson, Retryable, SluiceError
from sluice.generate.files import write_files
from sluice.operate.doctor import postgres as doctor
from sluice.quality.checks import COMPARED, Check, QualityReport
from sluice.settings import RelaySettings, Settings
from tests.integration.kinds import FOLLOWED, NOTED, REFUSED, Followed, Refused
from tests.support.services import drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services

OWNER = "kinds_owner"
MODULE = """
from sqlalchemy import Computed, Integer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): ...
"""
MODEL = """
class {model}(Base):
    __tablename__ = {table!r}
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str | None]
{columns}
"""


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """A database and a pipeline of the kinds' tables."""

    settings: Settings
    superuser: Settings
    catalog: Catalog

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(**connection_options(self.superuser.postgres))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def stored(self, kind: str) -> list[tuple[Any, ...]]:
        """The rows in ClickHouse, when what is on the topic is drained."""
        wiring.drain(self.settings, table_of(kind))
        columns = "*" if "SELECT id, note, " in FOLLOWED[kind].rows else "id, note"
        view = f"olap.dim_{kind}"
        return list(map(tuple, wiring.query(self.settings, f"SELECT {columns} FROM {view}")[1]))

    def equal(self, kind: str) -> bool:
        wanted = self.sql(filled(FOLLOWED[kind].rows, table_of(kind)))
        return sorted(self.stored(kind)) == sorted(wanted)

    def checked(self, settings: Settings) -> QualityReport:
        """The first report of the checks that could be made."""
        return until(
            lambda: wiring.quality(settings, deep=True, restart=True),
            "the checks can be made",
            retry=Retryable,
        )


def table_of(kind: str) -> str:
    return FOLLOWED[kind].name or kind if kind in FOLLOWED else kind


def filled(statement: str, table: str) -> str:
    plain = re.fullmatch("[a-z_]+", table)
    return statement.replace("{t}", table if plain else f'"{table}"')


def models(kinds: Mapping[str, Followed] | Mapping[str, Refused]) -> str:
    """The text of a module with a model of each kind."""
    return MODULE + "".join(
        MODEL.format(
            model=kind.title().replace("_", ""), table=table_of(kind), columns="\n".join(of.columns)
        )
        for kind, of in kinds.items()
    )


@contextmanager
def pipeline(services: Settings, folder: Path, name: str, text: str) -> Iterator[Pipeline]:
    (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        ensure_database(services.postgres, name)
        catalog = load_catalog(name)
        write_files(catalog, folder)
        postgres = replace(services.postgres, database=name)
        relay = RelaySettings(slot=name, ack="broker")
        settings = replace(services, models=name, out=folder, relay=relay, postgres=postgres)
        yield Pipeline(settings=settings, superuser=settings, catalog=catalog)


@pytest.fixture(scope="module")
def followed(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A relay that has taken its snapshot of all kinds."""
    folder = tmp_path_factory.mktemp("followed")
    with pipeline(services, folder, "kinds_followed", models(FOLLOWED)) as made:
        made.sql("CREATE SCHEMA elsewhere")
        for kind, of in FOLLOWED.items():
            made.sql(*(filled(statement, table_of(kind)) for statement in of.made))
        options = {"options": "-c search_path=elsewhere,public"}
        made.settings = replace(
            made.settings, postgres=replace(made.settings.postgres, options=options)
        )
        assert wiring.initialise(made.settings) == [
            "rows of public.inherited_from_child, which inherit from table inherited_from, are not"
            " its own: a child is followed by a model of its own"
        ]
        stop = threading.Event()
        arguments = (made.settings, made.catalog)
        thread = threading.Thread(target=run, args=arguments, kwargs={"stop": stop})
        try:
            with patch.dict(DUTIES, {PUBLICATION: 0.5}):
                thread.start()
                yield made
        finally:
            stop.set()
            thread.join(60)
            drop_slot(made.settings)


@pytest.fixture(scope="module")
def changed(followed: Pipeline) -> Pipeline:
    """All kinds, each seen to be equal after the snapshot, and changed since."""
    for kind, of in FOLLOWED.items():
        until(partial(followed.equal, kind), f"{kind} is equal on both sides")
        followed.sql(*(filled(statement, table_of(kind)) for statement in of.changed))
    return followed


@pytest.fixture(scope="module")
def checks(changed: Pipeline) -> dict[str, list[Check]]:
    """What the checks of a minute and the deep ones say of each table after the changes."""
    return by_table(changed.checked(changed.settings))


@pytest.mark.parametrize("kind", FOLLOWED)
def test_snapshot_and_stream_of_a_kind_give_its_rows(changed: Pipeline, kind: str) -> None:
    if FOLLOWED[kind].sent:
        until(lambda: changed.equal(kind), f"{kind} is equal on both sides")
    else:
        assert not changed.equal(kind)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_the_checks_of_a_kind_find_what_was_not_sent_and_nothing_else(
    checks: dict[str, list[Check]], kind: str
) -> None:
    found = {check.check: check for check in checks[table_of(kind)]}
    wanted = "pass" if FOLLOWED[kind].sent else "fail"
    assert (found["row_count"].status, found["rows"].status) == (wanted, wanted)
    if wanted == "fail":
        assert f"sluice resync {kind}" in found["rows"].repair


@pytest.mark.parametrize("kind", FOLLOWED)
def test_a_resync_of_a_kind_gives_its_rows(
    changed: Pipeline, checks: dict[str, list[Check]], kind: str
) -> None:
    wiring.query(changed.settings, f"DELETE FROM cdc.dim_{kind} WHERE id = 2")
    wiring.query(
        changed.settings,
        f"INSERT INTO cdc.dim_{kind} SELECT * REPLACE ('spoilt' AS note) FROM cdc.dim_{kind} FINAL",
    )
    table = table_of(kind)
    rows = changed.sql(filled(FOLLOWED[kind].rows, table))
    assert wiring.resync(changed.settings, table).rows == len(rows)
    assert changed.equal(kind)


def test_all_kinds_are_equal_when_they_are_read_in_pieces(
    changed: Pipeline, checks: dict[str, list[Check]]
) -> None:
    list(wiring.repair(changed.settings))
    found = by_table(changed.checked(replace(changed.settings, quality_load=0.9)))
    assert {table: {check.status for check in found[table]} for table in found} == {
        table_of(kind): {"pass"} for kind in FOLLOWED
    }


NO_OPTION = "ALTER PUBLICATION {p} SET (publish_generated_columns = none)"
LISTED = "ALTER PUBLICATION {p} DROP TABLE stored; ALTER PUBLICATION {p} ADD TABLE stored "
# How a publication sends a table without the column that PostgreSQL computes.
LEFT_OUT = {
    "by its option": NO_OPTION,
    "by its list of columns": f"{LISTED} (id, note)",
    "by both": f"{NO_OPTION}; {LISTED} (id, note)",
}


@pytest.mark.parametrize("way", LEFT_OUT)
def test_a_computed_column_that_is_not_sent_is_named_and_comes_back(
    changed: Pipeline, way: str
) -> None:
    settings, number = changed.settings, 1000 + list(LEFT_OUT).index(way)
    changed.sql(LEFT_OUT[way].replace("{p}", settings.relay.publication))
    until(lambda: "doubled" in parked(changed), "the table is parked for its computed column")
    changed.sql(f"INSERT INTO stored VALUES ({number}, 'not sent')")
    with pytest.raises(NeedsPerson, match=r"sends table stored without .*doubled"):
        wiring.initialise(settings)
    (named,) = (one for one in doctor.checks(settings, changed.catalog) if not one.ok)
    assert "sends table stored without" in named.found
    while remedies := followed_by(changed):
        changed.sql(*remedies)
    wiring.resync(settings, "stored")
    assert parked(changed) == ""
    changed.sql(f"INSERT INTO stored VALUES ({number + 100}, 'sent')")
    until(lambda: changed.equal("stored"), "stored is equal on both sides")


def test_a_computed_column_that_is_sent_by_a_list_alone_is_no_fault(changed: Pipeline) -> None:
    publication = changed.settings.relay.publication
    statements = f"{NO_OPTION}; {LISTED} (id, note, doubled)"
    connection = psycopg2.connect(**connection_options(changed.superuser.postgres))
    try:
        with connection.cursor() as cursor:
            cursor.execute(statements.replace("{p}", publication))
            found = publications.find(cursor, changed.settings.relay, changed.catalog)
    finally:
        connection.close()  # which takes all of it back
    assert found is not None
    assert found.faults == {}


def parked(of: Pipeline) -> str:
    """Why the table is parked; empty where it is not."""
    query = "SELECT argMax((state, reason), noted_at) AS last FROM cdc.parked"
    query += " WHERE source_table = 'stored' GROUP BY hole HAVING last.1 != 'whole'"
    return "; ".join(reason for ((_, reason),) in wiring.query(of.settings, query)[1])


def followed_by(of: Pipeline) -> list[str]:
    """What the fault of the table says to run in PostgreSQL; nothing where it has none."""
    connection = psycopg2.connect(**connection_options(of.superuser.postgres))
    try:
        with connection.cursor() as cursor:
            found = publications.find(cursor, of.settings.relay, of.catalog)
    finally:
        connection.close()
    fault = found.faults.get("stored") if found else None
    return str(fault.remedy).removeprefix("run in PostgreSQL: ").split("; ") if fault else []


def by_table(report: QualityReport) -> dict[str, list[Check]]:
    """The comparisons of rows."""
    compared = [check for check in report.checks if check.check in COMPARED]
    return {check.table: [c for c in compared if c.table == check.table] for check in compared}


@pytest.fixture(scope="module")
def refused(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline whose role owns its tables and is no superuser; one table is as it should be."""
    folder = tmp_path_factory.mktemp("refused")
    good = MODEL.format(model="Good", table="good", columns="")
    root = MODEL.format(model="Root", table="root", columns="")
    text = models(REFUSED) + good + root
    with pipeline(services, folder, "kinds_refused", text) as made:
        made.sql(
            f"CREATE ROLE {OWNER} LOGIN REPLICATION PASSWORD 'owns'",
            f"ALTER DATABASE kinds_refused OWNER TO {OWNER}",
            "CREATE FOREIGN DATA WRAPPER far",
            "CREATE SERVER far FOREIGN DATA WRAPPER far",
            f"GRANT USAGE ON FOREIGN SERVER far TO {OWNER}",
            f"GRANT CREATE ON SCHEMA public TO {OWNER}",
            f"GRANT pg_read_all_settings TO {OWNER}",
        )
        begin = f"SET ROLE {OWNER}"
        made.sql(
            begin,
            f"CREATE TABLE good {NOTED}",
            f"CREATE TABLE root {NOTED} PARTITION BY RANGE (id)",
        )
        for kind, of in REFUSED.items():
            statements = [filled(statement, kind) for statement in of.made]
            owned = [
                "RESET ROLE" if "OWNER TO" in one or "GRANT" in one else begin for one in statements
            ]
            made.sql(*(one for pair in zip(owned, statements, strict=True) for one in pair))
        owner = replace(made.superuser.postgres, user=OWNER, password=SecretStr("owns"))
        made.settings = replace(made.settings, postgres=owner)
        yield made


def test_init_refuses_each_by_name_and_makes_the_others(refused: Pipeline) -> None:
    with pytest.raises(NeedsPerson) as caught:
        wiring.initialise(refused.settings)
    for kind, of in REFUSED.items():
        assert any(
            line.startswith(f"table {kind} ") and filled(of.says, kind) in line
            for line in str(caught.value).splitlines()
        ), kind
    listed = refused.sql("SELECT tablename FROM pg_publication_tables ORDER BY 1")
    assert listed == [("good",), ("root",)]
    assert wiring.query(refused.settings, "SELECT count() FROM olap.dim_good")[1] == [(0,)]


def test_the_doctor_names_each(refused: Pipeline) -> None:
    found = [
        one.sentence() for one in doctor.checks(refused.settings, refused.catalog) if not one.ok
    ]
    for kind, of in REFUSED.items():
        assert any(f"table {kind} " in line and filled(of.says, kind) in line for line in found), (
            kind
        )


@pytest.mark.parametrize("kind", REFUSED)
def test_what_its_remedy_says_ends_the_fault(refused: Pipeline, kind: str) -> None:
    of = REFUSED[kind]
    connection = psycopg2.connect(**connection_options(refused.superuser.postgres))
    try:
        with connection.cursor() as cursor:
            fault = faults(cursor, refused.catalog)[kind]
            assert filled(of.says, kind) in fault.what
            named = re.search("run in PostgreSQL: ([^;]+)", str(fault.remedy))
            for statement in of.fixed or [named[1] if named else ""]:
                cursor.execute(filled(statement, kind))
            assert kind not in faults(cursor, refused.catalog)
    finally:
        connection.close()  # which takes all of it back


def faults(cursor: Any, catalog: Catalog) -> dict[str, SluiceError]:
    """The faults that the owner finds, in the superuser's transaction."""
    cursor.execute(f"SET LOCAL ROLE {OWNER}")
    found = publications.faults(cursor, catalog)
    cursor.execute("RESET ROLE")
    return found
