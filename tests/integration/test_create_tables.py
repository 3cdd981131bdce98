"""`sluice up --create-tables`: own models on the embedded PostgreSQL, and on no other."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sluice.clients.postgres import connection_options
from sluice.embedded.model_tables import create_tables
from sluice.embedded.stack import Stack
from sluice.errors import NeedsPerson
from sluice.settings import PostgresSettings, Settings, read_settings
from tests.support.processes import SLUICE
from tests.support.services import free, stack_environment, temporary_home

pytestmark = pytest.mark.services

# The Base that is read first refers to the table of another one.
MODELS = """
import enum
from sqlalchemy import Column, Enum, ForeignKey, Integer, MetaData, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Kind(enum.Enum):
    CITY = "city"

class Places(DeclarativeBase):
    metadata = MetaData(schema="atlas")

class Place(Places):
    __tablename__ = "places"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[Kind] = mapped_column(Enum(Kind, schema="kinds"))

class Base(DeclarativeBase): ...

class Acme(Base):
    __tablename__ = "acmes"
    id: Mapped[int] = mapped_column(primary_key=True)
    place_id: Mapped[int] = mapped_column(ForeignKey(Place.__table__.c.id))

class Changed(Base):
    __tablename__ = "changed"
    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]

log = Table("log", MetaData(), Column("line", Text), info={"exclude": True})
tags = Table("tags", MetaData(schema="atlas"), Column("id", Integer, primary_key=True))
"""
FOLLOWED = {"atlas.places", "atlas.tags", "public.acmes", "public.changed"}
BROKEN = f"""{MODELS}
from sqlalchemy.types import UserDefinedType

class Hologram(UserDefinedType):
    cache_ok = True

    def get_col_spec(self, **_):
        return "hologram"

Table("zeros", Base.metadata, Column("id", Integer, primary_key=True), Column("h", Hologram))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "acme.py").write_text(MODELS)
    (tmp_path / "sluice.toml").write_text('models = "acme"\nslot = "sluice_acme"\n')
    return tmp_path


def up(*options: str, at: Path, variables: Mapping[str, str]) -> tuple[int, str]:
    command = [SLUICE, "up", "--detach", *options]
    done = subprocess.run(
        command, cwd=at, env=variables, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@contextmanager
def session(settings: PostgresSettings) -> Iterator[Any]:
    connection = psycopg2.connect(**connection_options(settings))
    connection.autocommit = True
    try:
        yield connection.cursor()
    finally:
        connection.close()


def tables(cursor: Any) -> set[str]:
    cursor.execute(
        "SELECT schemaname || '.' || tablename FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    return {name for (name,) in cursor.fetchall()}


def lacking(said: str) -> set[str]:
    """The tables that an error says PostgreSQL lacks."""
    (names,) = [line.rpartition(": ")[2] for line in said.splitlines() if " lacks tables " in line]
    return set(names.split(", "))


def theirs(services: Settings, home: Path) -> dict[str, str]:
    """The variables of a stack beside somebody else's PostgreSQL."""
    source = services.postgres
    return {
        **stack_environment(home),
        "SLUICE_POSTGRES_HOST": source.host,
        "SLUICE_POSTGRES_PORT": str(source.port),
        "SLUICE_POSTGRES_PASSWORD": source.password.get_secret_value(),
    }


def require_nothing_begun(home: Path, variables: Mapping[str, str]) -> None:
    assert not (home / "run").exists()
    assert free(int(variables["SLUICE_KAFKA_PORT"]))


def test_in_a_server_of_somebody_else_nothing_is_created(services: Settings, project: Path) -> None:
    home = project / "home"
    variables = theirs(services, home)
    with session(services.postgres) as cursor:
        before = tables(cursor)
        code, said = up("--create-tables", at=project, variables=variables)
        assert code == 2
        assert f"the settings name another, 127.0.0.1:{services.postgres.port}" in said
        assert "create the tables there by your own migrations; then: sluice up" in said
        code, said = up(at=project, variables=variables)
        assert code == 3
        assert lacking(said) == FOLLOWED
        assert "--create-tables" not in said
        assert tables(cursor) == before
    require_nothing_begun(home, variables)


def test_tables_that_the_models_do_not_suffice_for_are_named_and_none_is_created(
    services: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    with session(services.postgres) as cursor:
        before = tables(cursor)
        with pytest.raises(NeedsPerson, match=r'type "hologram" does not exist') as raised:
            create_tables(services.postgres, "acme_broken")
        assert tables(cursor) == before
    assert "'acme_broken' cannot be created, so none was" in raised.value.what
    assert "by your own migrations" in str(raised.value.remedy)


def test_missing_tables_are_created_if_asked_and_others_stay_as_they_are(project: Path) -> None:
    with temporary_home() as home:
        variables = stack_environment(home)
        subprocess.run([SLUICE, "generate"], cwd=project, env=variables, check=True)
        try:
            code, said = up(at=project, variables=variables)
            assert code == 3
            assert lacking(said) == FOLLOWED
            assert "run: sluice up --create-tables; or create them by your own" in said
            source = read_settings({**variables, "SLUICE_MODELS": "acme"}).postgres
            with session(source) as cursor:
                assert tables(cursor) == set()
                cursor.execute("CREATE TABLE changed (id int PRIMARY KEY, size text NOT NULL)")
                cursor.execute("INSERT INTO changed VALUES (1, 'large')")
                differs = "PostgreSQL's table changed is not its model's"
                lines = until_said(differs, project, variables)
                made = "tables created in PostgreSQL: "
                (created,) = [line for line in lines if made in line]
                names = set(created.strip().rpartition(made)[2].split(", "))
                assert names == {"atlas.places", "atlas.tags", "acmes", "log"}
                assert "size is text, the model says integer" in lines[-1]
                assert tables(cursor) == {*FOLLOWED, "public.log"}
                cursor.execute("SELECT size FROM changed")
                assert cursor.fetchall() == [("large",)]
        finally:
            Stack(read_settings(variables)).stop()


def until_said(text: str, project: Path, variables: Mapping[str, str]) -> list[str]:
    """Run `sluice up --create-tables` until it says this, before Airflow starts."""
    lines: list[str] = []
    with subprocess.Popen(
        [SLUICE, "up", "--detach", "--create-tables"],
        cwd=project,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as started:
        assert started.stdout is not None
        for line in started.stdout:
            lines.append(line)
            if text in line:
                break
        os.killpg(started.pid, signal.SIGKILL)  # with Airflow's migration, which it began
    assert text in lines[-1], lines
    return lines
