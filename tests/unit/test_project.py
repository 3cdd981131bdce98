"""The project's folder, its sluice.toml, and `sluice new`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sluice.catalog import load_catalog
from sluice.cli import app
from sluice.errors import WrongUsage
from sluice.generate.event_schemas import event_schema
from sluice.generate.files import write_files
from sluice.settings import FILE, KEYS, PROJECT, VARIABLES, read_settings, read_values
from sluice.settings.project import find_project
from tests.support.services import stack_environment


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which commands run, and nothing of whose is imported afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_the_project_is_the_nearest_folder_with_a_file_of_settings(folder: Path) -> None:
    assert find_project({}) == PROJECT  # of the repository, without one
    (folder / FILE).write_text('models = "acme"\n')
    below = folder / "a" / "b"
    below.mkdir(parents=True)
    os.chdir(below)
    assert find_project({}) == folder
    (folder / "a" / FILE).write_text("")
    assert find_project({}) == folder / "a"
    assert find_project({"SLUICE_PROJECT": str(folder)}) == folder


def test_every_setting_has_a_key_and_the_environment_wins_over_the_file(folder: Path) -> None:
    assert set(KEYS.values()) == set(VARIABLES) - {"SLUICE_PROJECT", "SLUICE_ENV_FILE"}
    assert len(set(KEYS)) == len(VARIABLES) - 2
    (folder / FILE).write_text(
        'slot = "one"\nmodels = "acme"\n[postgres]\nport = 5555\noptions = {sslmode = "require"}\n'
    )
    settings = read_settings({"SLUICE_SLOT": "two"})
    assert (settings.relay.slot, settings.models, settings.postgres.port) == ("two", "acme", 5555)
    assert settings.postgres.options == {"sslmode": "require"}
    assert (settings.project, settings.out) == (folder, folder)
    assert settings.home == folder / ".sluice"
    assert str(folder) in sys.path
    origins = {name: origin for name, (_, origin) in read_values({"SLUICE_SLOT": "two"}).items()}
    assert origins["SLUICE_SLOT"] == "environment"
    assert origins["SLUICE_MODELS"] == FILE
    assert origins["SLUICE_HOME"] == "default"


@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_key_is_an_error_that_names_the_nearest(key: str, folder: Path) -> None:
    section, _, name = key.rpartition(".")
    head = f"[{section}]\n" if section else ""
    (folder / FILE).write_text(f"{head}{name}_ = 1\n")
    with pytest.raises(WrongUsage, match="there is no setting") as raised:
        read_settings({})
    assert raised.value.remedy == f"the nearest is {key}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models", "cannot be read"),
        ("\xff", "cannot be read"),
        ("models = [1]", "models must be a text or a number"),
        ("[postgres]\nport = true", r"postgres\.port must be a text or a number"),
        ('[postgres]\nport = "x"', "SLUICE_POSTGRES_PORT must be a whole number"),
        ('postgres = "x"', "there is no setting postgres"),
    ],
)
def test_a_wrong_file_is_wrong_usage(text: str, says: str, folder: Path) -> None:
    (folder / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(WrongUsage, match=says):
        read_settings({})


def test_config_prints_values_with_their_origin_and_no_secret(folder: Path) -> None:
    (folder / FILE).write_text('[postgres]\nuser = "reader"\npassword = "hush"\n')
    done = CliRunner().invoke(app, ["config"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    (line,) = [line for line in done.stdout.splitlines() if " postgres.user " in line]
    assert [cell.strip() for cell in line.split("│")][1:4] == ["postgres.user", "reader", FILE]
    assert "hush" not in done.stdout


def test_new_keeps_the_files_of_a_repository_and_refuses_a_second_project(folder: Path) -> None:
    (folder / "README.md").write_text("ours")
    (folder / "acme").mkdir()
    (folder / "acme" / "db.py").write_text("")
    (folder / "acme" / "__init__.py").write_text("")
    done = CliRunner().invoke(app, ["new", ".", "--models", "acme.db"])
    assert done.exit_code == 0, done.output
    assert "README.md exists, and stays as it is" in done.stdout
    assert (folder / "README.md").read_text() == "ours"
    assert read_settings({}).models == "acme.db"
    again = CliRunner().invoke(app, ["new", ".", "--models", "acme.db"])
    assert isinstance(again.exception, WrongUsage)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--models", "a", "--from-database", "postgresql://localhost/b"],
        ["--from-database", "mysql://localhost/b"],
        ["--from-database", "no url"],
    ],
)
def test_new_refuses_wrong_options_and_writes_nothing(options: list[str], folder: Path) -> None:
    done = CliRunner().invoke(app, ["new", "geo", *options])
    assert isinstance(done.exception, WrongUsage)
    assert list(folder.iterdir()) == []


def test_new_makes_the_file_that_its_workflow_installs_from(folder: Path) -> None:
    (folder / "own_things.py").write_text(OTHERS)
    CliRunner().invoke(app, ["new", "geo", "--models", "own_things"])
    workflow = (folder / "geo" / ".github" / "workflows" / "sluice.yml").read_text()
    named = re.findall(r"pip install -r (\S+)", workflow)
    assert named == ["requirements.txt"]
    requirements = (folder / "geo" / "requirements.txt").read_text()
    assert f"sluice-{version('sluice')}-py3-none-any.whl" in requirements
    assert [line for line in requirements.splitlines() if not line.startswith("#")] == []


OTHERS = """
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

class Base(DeclarativeBase): ...

class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    password_hash: Mapped[str]

class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    minutes: Mapped[int]
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    person: Mapped[Person] = relationship()

others = MetaData()
Table("alone", others, Column("id", Integer, primary_key=True))
"""


def test_models_of_another_place_are_followed_by_a_package_with_marks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of an installed package, which cannot be edited and has no place for schemas."""
    elsewhere = folder / "site"
    (elsewhere / "elsewhere_acme").mkdir(parents=True)
    (elsewhere / "elsewhere_acme" / "__init__.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(elsewhere)
    done = CliRunner().invoke(app, ["new", "my shop", "--models", "elsewhere_acme"])
    assert done.exit_code == 0, done.output
    assert "facts, as a suggestion: visits" in done.stdout
    assert "people.password_hash is excluded, by its name" in done.stdout
    os.chdir(folder / "my shop")
    settings = read_settings({})
    assert (settings.models, settings.relay.slot) == ("my_shop_models", "sluice_my_shop")
    catalog = load_catalog(settings.models)
    assert {table.name for table in catalog.tables} == {"people", "visits", "alone"}
    assert [fact.name for fact in catalog.facts] == ["fact_visit"]
    assert catalog.table("people").excluded == ("password_hash",)
    write_files(catalog, settings.out)
    assert (folder / "my shop/my_shop_models/generated/person.py").exists()
    assert event_schema(catalog, catalog.table("visits")).__name__ == "VisitEvent"


CALLS = """
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, MetaData, String, Table

metadata = MetaData()
Table("secrets", metadata, Column("secret_id", String, primary_key=True), Column("secret", String))
Table("sessions", metadata, Column("token", String, primary_key=True),
      Column("ssn", Integer), Column("api_token", String, unique=True))
Table(
    "calls", metadata, Column("id", Integer, primary_key=True),
    Column("input_tokens", BigInteger), Column("total_tokens_of_day", Float),
    Column("tokens", String), Column("token", Integer),
    Column("secret_id", ForeignKey("secrets.secret_id")),
    Column("session_token", ForeignKey("sessions.token")),
    Column("api_token", ForeignKey("sessions.api_token")),
)
"""


def test_new_excludes_secrets_by_name_but_no_counts_and_no_keys_of_other_tables(
    folder: Path,
) -> None:
    (folder / "own_calls.py").write_text(CALLS)
    done = CliRunner().invoke(app, ["new", "made", "--models", "own_calls"])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "is excluded, by its name" in line]
    assert [line.split()[0] for line in lines] == [
        "calls.api_token",
        "calls.token",
        "calls.tokens",
        "secrets.secret",
        "sessions.api_token",
        "sessions.ssn",
    ]


TWICE = """
from sqlalchemy import Column, Integer, MetaData, Table

old, new = MetaData(), MetaData()
for metadata in (old, new):
    Table("runs", metadata, Column("id", Integer, primary_key=True))
"""


def test_new_refuses_models_that_declare_a_table_twice_and_writes_nothing(folder: Path) -> None:
    """As an application keeps those of its first version for its migrations."""
    (folder / "own_versions.py").write_text(TWICE)
    done = CliRunner().invoke(app, ["new", "made", "--models", "own_versions"])
    assert isinstance(done.exception, WrongUsage)
    assert "table public.runs twice, in different MetaData" in str(done.exception)
    assert not (folder / "made").exists()


@pytest.mark.parametrize("name", ["2024", "é", "class", "a b", "x" * 80, "sales-eu"])
def test_a_project_of_any_name_has_a_package_and_a_slot(name: str, folder: Path) -> None:
    (folder / "own_things.py").write_text(OTHERS)
    done = CliRunner().invoke(app, ["new", name, "--models", "own_things"])
    assert done.exit_code == 0, done.output
    settings = read_settings({"SLUICE_PROJECT": str(folder / name)})
    assert settings.models.isidentifier()


WITHOUT = "import sys; sys.modules['supervisor'] = None; from sluice.cli import main; main()"


@pytest.mark.parametrize(("call", "code"), [("up", 2), ("down", 2), ("status", 3), ("doctor", 3)])
def test_commands_without_the_embedded_stack_end_with_a_line(
    call: str, code: int, folder: Path
) -> None:
    (folder / "own_things.py").write_text(OTHERS)
    (folder / FILE).write_text('models = "own_things"\n[postgres]\nport = 1\n[kafka]\nport = 1\n')
    with (folder / FILE).open("a") as file:
        file.write("[clickhouse]\nport = 1\nhttp_port = 1\n")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, call],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert ("pip install 'sluice[embedded]'" in done.stderr) == (code == 2)


OUTSIDE = """
import sluice.settings.project
sluice.settings.project.IN_REPOSITORY = False  # as an installed package
from sluice.cli import main
main()
"""


@pytest.mark.parametrize("call", ["status", "status --json", "doctor", "up", "generate", "drain"])
def test_outside_a_project_a_command_says_so_and_starts_nothing(call: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE, *call.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert f"there is no project: neither {folder} nor a folder above has a {FILE}" in done.stderr
    assert "make one: sluice new" in done.stderr
    assert list(folder.iterdir()) == []


def test_up_names_a_fault_of_the_models_before_it_starts_anything(folder: Path) -> None:
    (folder / FILE).write_text('models = "acme"\n')
    done = CliRunner().invoke(app, ["up", "--detach"])
    assert isinstance(done.exception, WrongUsage)
    assert "cannot import models 'acme'" in str(done.exception)
    assert [path.name for path in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("name", [".", "a b"])
def test_new_names_the_next_commands_as_a_shell_takes_them(name: str, folder: Path) -> None:
    (folder / "own_things.py").write_text(OTHERS)
    done = CliRunner().invoke(app, ["new", name, "--models", "own_things"])
    change = "" if name == "." else "cd 'a b'; "
    last = done.stdout.splitlines()[-1]
    assert last == f"{name} is ready; next: {change}sluice generate; sluice doctor"


@pytest.mark.parametrize("call", ["doctor", "status", "logs relay"])
def test_where_no_stack_was_started_the_advice_is_to_start_it(call: str, folder: Path) -> None:
    (folder / "own_things.py").write_text(OTHERS)
    ports = stack_environment(folder / "home")
    (folder / FILE).write_text('models = "own_things"\n')
    done = CliRunner().invoke(app, call.split(), env=ports)
    told = f"{done.output}\n{done.exception}"
    assert "sluice up" in told
    if call == "doctor":
        advice = [line for line in told.splitlines() if "sluice logs" in line]
        assert len(advice) == 3
        assert all(line.startswith("     start the stack: sluice up; if") for line in advice)
