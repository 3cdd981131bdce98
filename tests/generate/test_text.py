"""Generated text: complete, as written down beside the models, and run on the real engines."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import NotReady, WrongUsage
from sluice.generate.clickhouse import table_statements
from sluice.generate.connect import CONFIGURATION, configuration
from sluice.generate.files import difference, generated_files, write_files
from sluice.generate.joins import select_all
from sluice.generate.star import star_statements
from sluice.settings import Settings
from sluice.star.create import make_rebuild
from sluice.warehouse.evolution import differing
from sluice.warehouse.star_form import fact_differs
from store_api.database import make_engine
from tests.generate.badges import Base

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
CATALOG = load_catalog("tests.generate.badges")


def test_the_models_give_the_expected_text_to_the_byte() -> None:
    found = "".join(f"===== {path}\n{text}" for path, text in generated_files(CATALOG).items())
    assert found == (HERE / "badges.expected.txt").read_text()


def test_connects_configuration_takes_schema_tables_keys_and_days_from_the_models() -> None:
    text = configuration(CATALOG, (PROJECT / CONFIGURATION).read_text())
    assert (
        "    # generated: tables\n"
        "    schema: crm\n"
        "    tables:\n"
        "      - guests\n"
        "    # not public.visits: postgres_cdc reads one schema\n"
        "    # end of generated\n"
    ) in text
    known = '{"name": "crm_guests", "key": ["site", "number"], "dates": []}'
    assert f'        let tables = {{\n          "guests": {known}\n        }}\n' in text
    assert configuration(load_catalog("models"), text) == (PROJECT / CONFIGURATION).read_text()


def test_a_changed_block_of_connects_configuration_is_stale_and_is_written_again(
    tmp_path: Path,
) -> None:
    catalog, file = load_catalog("models"), tmp_path / CONFIGURATION
    text = (PROJECT / CONFIGURATION).read_text()
    file.write_text(text.replace("      - orders\n", ""))
    write_files(catalog, tmp_path)
    assert file.read_text() == text
    assert difference(catalog, tmp_path) == ""
    file.write_text(text.replace("      - orders\n", ""))
    assert "+      - orders" in difference(catalog, tmp_path)
    file.write_text("input: {}\n")
    with pytest.raises(WrongUsage, match="lacks one of the blocks"):
        difference(catalog, tmp_path)


@pytest.mark.services
def test_the_text_runs_on_clickhouse_and_gives_what_it_says(services: Settings) -> None:
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        missing = differing(clickhouse, CATALOG.tables)
        assert set(missing) == {table.name for table in CATALOG.tables}
        assert {type(error) for error in missing.values()} == {NotReady}
        for table in CATALOG.tables:
            for statement in table_statements(table).values():
                clickhouse.execute(statement)
        assert differing(clickhouse, CATALOG.tables) == {}
        (fact,) = CATALOG.facts
        star = star_statements(fact)
        clickhouse.execute(star.fact)
        clickhouse.execute(star.view)
        assert not fact_differs(clickhouse, fact)
        clickhouse.execute("INSERT INTO cdc.dim_guest (site, number, nick) VALUES ('A', 1, 'Jo')")
        clickhouse.execute(
            "INSERT INTO cdc.src_visit (id, site, guest_number, fee)"
            " VALUES (1, 'A', 1, 2.5), (2, 'A', NULL, 0), (3, 'B', 1, 0)"
        )
        assert make_rebuild(clickhouse, fact).run(full=True).rows == 3
        joined = clickhouse.execute(f"{select_all(fact)} SETTINGS join_use_nulls = 1")
        names, rows = clickhouse.table("SELECT * FROM olap.fact_visit ORDER BY visit_id")
        assert [row[names.index("guest_nick")] for row in rows] == ["Jo", None, None]
        assert sorted(joined) == rows
        history = "SELECT count() FROM cdc.history_crm_guests"
        assert clickhouse.execute(history) == [(1,)]


@pytest.mark.services
def test_the_publication_runs_on_postgres(services: Settings) -> None:
    engine = make_engine(services.postgres)
    publication = generated_files(CATALOG)[Path("sql/generated/publication.sql")]
    with engine.connect() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS crm"))
        Base.metadata.create_all(connection)
        connection.execute(text("SET LOCAL sluice.slot = 'badges_text'"))
        connection.exec_driver_sql(publication.replace("%", "%%"))
        found = connection.execute(
            text(
                "SELECT schemaname || '.' || tablename FROM pg_publication_tables"
                " WHERE pubname = 'pglog_stream_badges_text' ORDER BY 1"
            )
        )
        assert [row[0] for row in found] == ["crm.guests", "public.visits"]
        connection.rollback()
    engine.dispose()


def test_check_prints_the_difference_and_exits_1(tmp_path: Path) -> None:
    write_files(CATALOG, tmp_path)
    command = [str(Path(sys.executable).with_name("sluice")), "generate", "--check"]
    command += ["--models", "tests.generate.badges", "--out", str(tmp_path)]
    current = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (current.returncode, current.stdout) == (0, "generated files are current\n")
    ddl = tmp_path / "sql/clickhouse/generated/dim_guest.sql"
    ddl.write_text(ddl.read_text().replace("Nullable(String)", "String", 1))
    stale = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert stale.returncode == 1
    assert "-    nick String,\n+    nick Nullable(String),\n" in stale.stdout


PROGRAM = """
from models.generated import Customer, CustomerCreate, CustomerEvent, CustomerUpdate

def city(event: CustomerEvent) -> str | None:
    row = event["payload"]
    return row["city"] if row is not None and "city" in row else None

made = CustomerCreate(email="a@b.c", name="A", country="D", city="E")
change = CustomerUpdate(city="F")
def year(customer: Customer) -> int:
    return customer.created_at.year
"""


# mypy keeps what it knows of the packages where `make check` does; pyright keeps nothing.
CHECKERS = {
    "mypy": ["mypy", "--strict"],
    "pyright": ["basedpyright", "--project", "{folder}"],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_sees_the_types_of_the_schemas(checker: str, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right_program.py", tmp_path / "wrong_program.py"
    right.write_text(PROGRAM)
    wrong.write_text(PROGRAM + "def name(customer: Customer) -> int:\n    return customer.name\n")
    found = checked(checker, right, wrong)
    assert found.returncode == 1, found.stderr
    line = len(wrong.read_text().splitlines())
    (error,) = [text for text in found.stdout.splitlines() if " error: " in text]
    assert f"wrong_program.py:{line}:" in error


def checked(checker: str, *programs: Path) -> subprocess.CompletedProcess[str]:
    folder = programs[0].parent
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(PROJECT)], "include": ["."]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    options = [option.format(folder=folder) for option in CHECKERS[checker]]
    command = [sys.executable, "-m", *options, *map(str, programs)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
