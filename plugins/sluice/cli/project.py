"""Makes a project in the user's own folder, and shows its settings."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.engine import make_url
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import ArgumentError

from sluice.catalog.disk import INIT, Disk
from sluice.cli.help import LOOK, SET_UP
from sluice.cli.output import say
from sluice.cli.reflection import Reflected, adopted, reflected
from sluice.cli.tables import print_table
from sluice.errors import WrongUsage
from sluice.settings import FILE, INCLUDE, KEYS, MARKS, project_marks, read_values, shown

app = typer.Typer()
_TOML = """\
# The settings of this project. `sluice config` shows all of them, and where each value is from;
# a variable of the environment or of .env, such as SLUICE_SLOT, wins over this file.
models = "{models}"
slot = "{slot}"
# Tables to follow, all by default, and marks of tables and columns; see docs/own-project.md.
# include = ["public.*"]
# [marks.columns]
# "*.ssn" = {{ exclude = true }}
"""
_DAGS = '''\
"""The DAGs of Sluice, for Airflow."""

from sluice_airflow.factory import dags

globals().update(dags(__file__))
'''
_README = """\
# {name}

The star of `{models}` in ClickHouse, by Sluice.

```bash
sluice generate   # after each change of the models; commit what it writes
sluice init       # topics, publication, tables and views
sluice doctor     # what is missing, and what to do
```

`{file}` has the settings, `dags/sluice.py` the DAGs for Airflow. Secrets belong into `.env` or
the environment: see `.env.example`.
"""
_EXAMPLE = """\
# Secrets. Copy this file to .env, which every command, the relay and Airflow's tasks read in this
# folder and git ignores. Variables of the environment win.
# SLUICE_POSTGRES_PASSWORD=
# SLUICE_CLICKHOUSE_PASSWORD=
"""
_IGNORED = ".env\n.sluice/\n__pycache__/\n"
_CI = """\
name: sluice
on: [push, pull_request]
jobs:
  generated:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: { python-version: "3.12" }
      - run: pip install -r requirements.txt # with Sluice and what the models import
      - run: sluice generate --check
"""
_REQUIREMENTS = """\
# What the models import, and Sluice: a path or an address of its wheel.
# ./sluice-{version}-py3-none-any.whl
"""
_OPTIONAL = {
    "README.md",
    ".env.example",
    ".gitignore",
    ".github/workflows/sluice.yml",
    "requirements.txt",
}


@app.command(rich_help_panel=SET_UP)
def new(
    name: Annotated[str, typer.Argument(help="The folder of the new project.")],
    models: Annotated[str, typer.Option(help="The module of your SQLAlchemy models.")] = "",
    from_database: Annotated[
        str, typer.Option(help="URL of a PostgreSQL whose tables become the models.")
    ] = "",
    tables: Annotated[
        list[str] | None,
        typer.Option(help="With --from-database: patterns of tables, such as 'sales.*'."),
    ] = None,
) -> None:
    """Create a project: settings, DAGs and, from a database, the models."""
    if bool(models) == bool(from_database):
        raise WrongUsage("give either --models or --from-database")
    folder = Path(name)
    title = folder.resolve().name
    package = f"{_identifier(title)}_models"
    url = _url(from_database) if from_database else None
    made = Reflected(files={}, lines=[])
    if url is not None:
        made, models = reflected(url, package, tables or ["*"]), package
    elif not _is_within(models, folder):
        made, models = adopted(models, package), package
    say(*made.lines)
    files = {f"{models}/{path}": text for path, text in made.files.items()}
    _write(folder, {**_files(title, models, url), **files})
    say(f"{folder} is ready; next: {'; '.join(_next(folder, url))}")


def _next(folder: Path, url: URL | None) -> Iterator[str]:
    """Yield what to run next, for a shell."""
    if folder.resolve() != Path.cwd():
        yield f"cd {shlex.quote(str(folder))}"
    if url is not None:
        yield "export SLUICE_POSTGRES_PASSWORD=..."
    yield from ("sluice generate", "sluice doctor")


def _identifier(name: str) -> str:
    """Return a name of letters, digits and `_` that Python and PostgreSQL take."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40]
    return plain if plain.isidentifier() and not iskeyword(plain) else f"project_{plain}".strip("_")


def _is_within(models: str, folder: Path) -> bool:
    """Whether the models are in the project, so that schemas can be written beside them."""
    path = Disk().located(models)
    stem = folder.resolve().joinpath(*models.split("."))
    return path is not None and path.resolve() in {stem / INIT, stem.with_name(f"{stem.name}.py")}


def _url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise WrongUsage(f"--from-database is no URL: {error}") from error
    if not url.drivername.startswith("postgresql"):
        raise WrongUsage(f"--from-database has to begin with postgresql://, not {url.drivername}")
    return url.set(drivername="postgresql+psycopg2")


def _files(name: str, models: str, url: URL | None) -> dict[str, str]:
    """Return path -> text of the files that every project has."""
    toml = _TOML.format(models=models, slot=f"sluice_{_identifier(name)}")
    if url is not None:
        values: dict[str, Any] = {
            "host": url.host or "127.0.0.1",
            "port": url.port or 5432,
            "user": url.username or "postgres",
            "database": url.database or "postgres",
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        options = ", ".join(
            f"{key} = {json.dumps(value)}"
            for key, value in url.query.items()
            if "password" not in key
        )
        lines += [f"options = {{ {options} }}"] if options else []
        toml += "\n".join(["", "[postgres]", *lines, ""])
    return {
        FILE: toml,
        "dags/sluice.py": _DAGS,
        "README.md": _README.format(name=name, models=models, file=FILE),
        ".env.example": _EXAMPLE,
        ".gitignore": _IGNORED,
        ".github/workflows/sluice.yml": _CI,
        "requirements.txt": _REQUIREMENTS.format(version=version("sluice")),
    }


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write the files that are not there; a repository may have its own README.

    Raises:
        WrongUsage: nothing was written, because a file that Sluice reads exists.
    """
    present = [path for path in files if (folder / path).exists()]
    if needed := [path for path in present if path not in _OPTIONAL]:
        raise WrongUsage(
            f"{folder / needed[0]} exists; nothing was written",
            remedy="choose another name, or remove the file",
        )
    say(*(f"{path} exists, and stays as it is" for path in present))
    for path, text in files.items():
        if path in present:
            continue
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        except OSError as error:
            raise WrongUsage(f"cannot write {folder / path}: {error.strerror}") from error


@app.command(rich_help_panel=LOOK)
def config(context: typer.Context) -> None:
    """Print every setting with its value and where that is from; secrets are hidden."""
    import os

    values = read_values(os.environ)
    say(f"project: {values['SLUICE_PROJECT'][0]}")
    rows = []
    for key, variable in KEYS.items():
        value, origin = values[variable]
        rows.append([key, shown(variable, value), origin])
    marks = project_marks()
    rows += [[INCLUDE, json.dumps(marks.include), FILE]] if marks.include else []
    for place, patterns in ((f"{MARKS}.tables", marks.tables), (f"{MARKS}.columns", marks.columns)):
        rows += [[f'{place}."{name}"', json.dumps(own), FILE] for name, own in patterns.items()]
    print_table(["setting", "value", "from"], rows)
