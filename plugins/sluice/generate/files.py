"""Generated files: their paths, writing them, and finding stale ones."""

from __future__ import annotations

import difflib
from pathlib import Path

from sluice.catalog import Catalog
from sluice.errors import StaleGenerated, WrongUsage
from sluice.events.event import CONTROL_TOPIC, DEAD_LETTER_TOPIC
from sluice.generate.clickhouse import table_statements
from sluice.generate.connect import CONFIGURATION, configuration
from sluice.generate.publication import publication
from sluice.generate.schemas import schema_modules
from sluice.generate.sql_files import render_statements
from sluice.generate.star import star_statements
from sluice.generate.star_page import star_page
from sluice.settings import ONE_SERVER, Cluster

CLICKHOUSE = Path("sql/clickhouse/generated")
_HEADING = "Written by `sluice generate`; do not edit."


def generated_files(catalog: Catalog, cluster: Cluster = ONE_SERVER) -> dict[Path, str]:
    """Return path below the project -> text of every file generated from the models."""
    package = Path(*catalog.schemas.split("."))
    files = {package / name: text for name, text in schema_modules(catalog).items()}
    for table in catalog.tables:
        heading = f"{table.storage} and its history, from {table.module}. {_HEADING}"
        path = CLICKHOUSE / f"{table.storage}.sql"
        files[path] = render_statements(heading, table_statements(table, cluster).items())
    for fact in catalog.facts:
        heading = f"{fact.name}: its table, its view and their upkeep. {_HEADING}"
        path = CLICKHOUSE / f"{fact.name}.sql"
        files[path] = render_statements(heading, star_statements(fact, cluster).named())
    files[Path("sql/generated/topics.txt")] = _topics(catalog)
    files[Path("sql/generated/tables.txt")] = _tables(catalog)
    files[Path("sql/generated/publication.sql")] = publication(catalog)
    files[Path("sql/generated/star.md")] = star_page(catalog)
    return files


def _files(catalog: Catalog, out: Path, cluster: Cluster) -> dict[Path, str]:
    """Return all generated files, and Connect's configuration where there is one."""
    files = generated_files(catalog, cluster)
    if (out / CONFIGURATION).exists():
        files[CONFIGURATION] = configuration(catalog, (out / CONFIGURATION).read_text())
    return files


def write_files(catalog: Catalog, out: Path, cluster: Cluster = ONE_SERVER) -> list[Path]:
    """Write files that differ below `out` and remove orphans; return the changed paths."""
    changed = []
    files = _files(catalog, out, cluster)
    for relative, text in files.items():
        path = out / relative
        if not path.exists() or path.read_text() != text:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            except OSError as error:
                raise WrongUsage(f"cannot write {path}: {error.strerror}") from error
            changed.append(relative)
    for relative in orphans(files, out):
        (out / relative).unlink()
        changed.append(relative)
    return changed


def orphans(files: dict[Path, str], out: Path) -> list[Path]:
    """Return the files in the generated folders that are no longer generated."""
    folders = {path.parent for path in files if path != CONFIGURATION}
    present = {
        path.relative_to(out)
        for folder in folders
        for path in (out / folder).glob("*")
        if path.is_file()
    }
    return sorted(present - set(files))


def difference(catalog: Catalog, out: Path, cluster: Cluster = ONE_SERVER) -> str:
    """Return a unified diff from the files below `out` to the generated ones; empty if current."""
    files = _files(catalog, out, cluster)
    parts: list[str] = []
    for relative, text in files.items():
        path = out / relative
        present = path.read_text() if path.exists() else ""
        parts += _diff(relative, present, text)
    for relative in orphans(files, out):
        parts += _diff(relative, (out / relative).read_text(), "")
    return "".join(parts)


def require_current(catalog: Catalog, out: Path, cluster: Cluster = ONE_SERVER) -> None:
    """Raise StaleGenerated where a file differs from the generated one."""
    files = _files(catalog, out, cluster)
    stale = [
        str(relative)
        for relative, text in files.items()
        if not (out / relative).exists() or (out / relative).read_text() != text
    ]
    if stale:
        raise StaleGenerated(
            f"generated files are stale: {', '.join(stale)}", remedy="run: make generate"
        )


def _diff(path: Path, present: str, wanted: str) -> list[str]:
    old, new = present.splitlines(keepends=True), wanted.splitlines(keepends=True)
    return list(difflib.unified_diff(old, new, f"present/{path}", f"generated/{path}"))


def _topics(catalog: Catalog) -> str:
    return "".join(f"{name}\n" for name in topics(catalog))


def topics(catalog: Catalog) -> list[str]:
    """Return all topics: one for each table, for dead letters, and Connect's control topic."""
    return [*(table.topic for table in catalog.tables), DEAD_LETTER_TOPIC, CONTROL_TOPIC]


def _tables(catalog: Catalog) -> str:
    return "".join(f"{table.schema}.{table.relation}\n" for table in catalog.tables)
