"""A program of others writes into a PostgreSQL that Sluice follows, to equality."""

from __future__ import annotations

import csv
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sluice.settings import PostgresSettings, Settings
from tests.support.background import repeating
from tests.support.installed import (
    checked_deep,
    environment,
    relayed,
    run,
    settled,
    sluice,
    statement,
)

# A person who looked at the suggested exclusions, and wants every column.
ALL_COLUMNS = '\n[marks.columns]\n"*.*" = { exclude = false }\n'
KEYED = """
SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE nspname = 'public' AND relkind = 'r' AND EXISTS (
    SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary
)
"""
THEIR_COLUMNS = """
SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'
"""
# Sluice's own begin with _.
COLUMNS = "SELECT table, name FROM system.columns WHERE database = 'cdc' AND name NOT LIKE '\\_%'"


def follow(
    theirs: Settings, scripts: Path, folder: Path, *, writer: Path, models: str = ""
) -> dict[str, int]:
    """Have a program write before and while Sluice follows its tables, and require equality.

    Args:
        theirs: services with an empty database.
        scripts: the folder of the programs `sluice` and `python`.
        folder: where the project is made.
        writer: the module that writes `first`, with the tables, and then `more`.
        models: the module of the program's models; without it they are read from the database.

    Returns:
        Table -> its rows, of all tables that were compared.
    """
    source = theirs.postgres
    password = source.password.get_secret_value()
    address = f"{source.user}:{password}@{source.host}:{source.port}/{source.database}"
    url = f"postgresql+psycopg2://{address}"
    variables = {
        **environment(theirs, scripts),
        "SLUICE_POSTGRES_PASSWORD": password,
        "SLUICE_POSTGRES_DATABASE": source.database,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def write(part: str) -> None:
        command: list[str | Path] = [scripts / "python", writer, url, part]
        done = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    write("first")
    options = ["--models", models] if models else ["--from-database", url]
    sluice("new", "followed", *options, at=folder, environment=variables)
    project = folder / "followed"
    with (project / "sluice.toml").open("a") as file:
        file.write(ALL_COLUMNS)
    sluice("generate", at=project, environment=variables)
    sluice("init", at=project, environment=variables)
    codes = list[int]()

    def drain() -> None:
        codes.append(run("drain", at=project, environment=variables).returncode)

    with relayed(project, variables):
        with repeating(drain):
            write("more")
        assert 0 in codes, codes
        settled(project, variables, seconds=300)
        return equal(source, project, variables)


def equal(source: PostgresSettings, project: Path, variables: Mapping[str, str]) -> dict[str, int]:
    """Require that all tables, columns and rows are equal; return the rows of each table."""
    report, tables = checked_deep(project, variables), states(project)
    assert report["passed"], report
    compared = {check["table"] for check in report["checks"] if check["check"] == "rows"}
    assert compared == set(tables)
    # Neither models of the programs nor those by sqlacodegen have the table of Alembic.
    assert set(tables) == {name for (name,) in statement(source, KEYED)} - {"alembic_version"}
    followed = [(tables[t], c) for t, c in statement(source, THEIR_COLUMNS) if t in tables]
    columns = answered(COLUMNS, project, variables)
    assert {(s, c) for s, c in columns if s in tables.values()} == set(followed)
    counts = " UNION ALL ".join(
        f"SELECT '{name}', count() FROM cdc.{state} FINAL" for name, state in tables.items()
    )
    counted = {name: int(count) for name, count in answered(counts, project, variables)}
    for name, count in counted.items():
        assert [(count,)] == statement(source, f'SELECT count(*) FROM "{name}"'), name
    return counted


def states(project: Path) -> dict[str, str]:
    """Table -> the table of its current rows in ClickHouse."""
    made: dict[str, str] = {}
    for path in (project / "sql" / "clickhouse" / "generated").glob("*.sql"):
        text = path.read_text()
        if history := re.search(r"CREATE TABLE IF NOT EXISTS cdc\.history_(\w+)", text):
            (made[history[1]],) = re.findall(
                r"CREATE TABLE IF NOT EXISTS cdc\.((?:dim|src)_\w+)", text
            )
    return made


def answered(query: str, project: Path, variables: Mapping[str, str]) -> list[list[str]]:
    """Return the rows of a query on ClickHouse."""
    printed = sluice("sql", query, "--format", "csv", at=project, environment=variables)
    return list(csv.reader(printed.splitlines()))[1:]
