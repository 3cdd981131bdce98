"""Generated files: their paths, writing them, and finding stale ones."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from sluice.catalog import Catalog, read_models
from sluice.catalog.stored import CATALOG, same_catalog, stored_text
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

CLICKHOUSE, GENERATED = Path("sql/clickhouse/generated"), Path("sql/generated")
_STAR = GENERATED / "star.md"
_WRITTEN = "Written by `sluice generate`"
_HEADING = f"{_WRITTEN}; do not edit."
_OWNER = re.compile(rf"^{re.escape(_WRITTEN)} from (\S+);", re.MULTILINE)
_HEAD = 1_000  # characters, in which the heading of a file is


def generated_files(
    catalog: Catalog, cluster: Cluster = ONE_SERVER, within: str = ""
) -> dict[Path, str]:
    """Return path below the project -> text of every file generated from a catalog.

    The catalog's own file is not among them, as it depends on the sources of the models as well.

    Args:
        within: folder for the SQL below the usual ones. Default: none.
    """
    clickhouse, generated = CLICKHOUSE / within, GENERATED / within
    package = schemas_folder(catalog)
    files = {package / name: text for name, text in schema_modules(catalog).items()}
    for table in catalog.tables:
        heading = f"{table.storage} and its history, from {table.module}. {_HEADING}"
        path = clickhouse / f"{table.storage}.sql"
        files[path] = render_statements(heading, table_statements(table, cluster).items())
    for fact in catalog.facts:
        heading = f"{fact.name}: its table, its view and their upkeep. {_HEADING}"
        path = clickhouse / f"{fact.name}.sql"
        files[path] = render_statements(heading, star_statements(fact, cluster).named())
    files[generated / "topics.txt"] = _topics(catalog)
    files[generated / "tables.txt"] = _tables(catalog)
    files[generated / "publication.sql"] = publication(catalog)
    files[generated / "star.md"] = star_page(catalog)
    return files


def schemas_folder(catalog: Catalog) -> Path:
    """Return the folder of the generated schemas, below the project."""
    return Path(*catalog.schemas.split("."))


def _files(catalog: Catalog, out: Path, cluster: Cluster) -> dict[Path, str]:
    """Return all generated files, the catalog's own, and Connect's configuration if it exists."""
    files = generated_files(catalog, cluster, _within(catalog, out))
    stored = stored_text(catalog)
    if stored is not None:  # written last: until then the models are imported
        files[schemas_folder(catalog) / CATALOG] = stored
    if (out / CONFIGURATION).exists():
        files[CONFIGURATION] = configuration(catalog, (out / CONFIGURATION).read_text())
    return files


def _within(catalog: Catalog, out: Path) -> str:
    """Return the folder for the SQL of models; another one where other models have the usual."""
    owner = _OWNER.search(_present(out / _STAR) or "")
    return "" if owner is None or owner[1] == catalog.models else catalog.models


def write_files(catalog: Catalog, out: Path, cluster: Cluster = ONE_SERVER) -> list[Path]:
    """Write files that differ below `out` and remove orphans; return the changed paths."""
    changed = []
    files = _files(catalog, out, cluster)
    for relative, text in files.items():
        path = out / relative
        if _present(path) != text:
            _write(path, text)
            changed.append(relative)
    for relative in orphans(files, out):
        (out / relative).unlink(missing_ok=True)  # perhaps another run removed it
        changed.append(relative)
    return changed


def orphans(files: dict[Path, str], out: Path) -> list[Path]:
    """Return the files in the generated folders that were generated and are no longer.

    They are known by their heading: no other file is removed.
    """
    folders = {path.parent for path in files if path != CONFIGURATION}
    present = {
        path.relative_to(out)
        for folder in folders
        for path in (out / folder).glob("*")
        if path.is_file() and not path.name.startswith(".")  # as what another run is writing
    }
    return sorted(path for path in present - set(files) if _is_written(out / path))


def _is_written(path: Path) -> bool:
    """Whether `sluice generate` wrote a file; catalog.json has no heading."""
    head = (_present(path) or "")[:_HEAD]
    return _WRITTEN in head or (path.name == CATALOG and head.startswith('{\n"made_by": '))


def difference(catalog: Catalog, out: Path, cluster: Cluster = ONE_SERVER) -> str:
    """Return a unified diff from the files below `out` to the generated ones; empty if current."""
    files = _files(catalog, out, cluster)
    parts: list[str] = []
    for relative, text in files.items():
        parts += _diff(relative, _present(out / relative) or "", text)
    for relative in orphans(files, out):
        parts += _diff(relative, (out / relative).read_text(), "")
    return "".join(parts)


def require_current(catalog: Catalog, out: Path, cluster: Cluster = ONE_SERVER) -> None:
    """Raise StaleGenerated where a file differs from that of the models as they are now.

    A catalog's file of other versions of Sluice or of libraries may stay: it is not read.
    """
    files = _files(read_models(catalog.models, catalog.profile), out, cluster)
    stale = [
        str(relative)
        for relative, text in files.items()
        if (present := _present(out / relative)) != text
        and not (relative.name == CATALOG and present and same_catalog(present, text))
    ]
    if stale:
        raise StaleGenerated(
            f"generated files are stale: {', '.join(stale)}", remedy="run: sluice generate"
        )


def _present(path: Path) -> str | None:
    """Return a file's text; None without the file, or if it is no text."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, as a task may be reading it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        beside.replace(path)
    except OSError as error:
        raise WrongUsage(f"cannot write {path}: {error.strerror}") from error


def _diff(path: Path, present: str, wanted: str) -> list[str]:
    if present == wanted:  # to compare equal texts line by line takes longer than to generate them
        return []
    old, new = present.splitlines(keepends=True), wanted.splitlines(keepends=True)
    return list(difflib.unified_diff(old, new, f"present/{path}", f"generated/{path}"))


def _topics(catalog: Catalog) -> str:
    return "".join(f"{name}\n" for name in topics(catalog))


def topics(catalog: Catalog) -> list[str]:
    """Return all topics: one for each table, for dead letters, and Connect's control topic."""
    return [*(table.topic for table in catalog.tables), DEAD_LETTER_TOPIC, CONTROL_TOPIC]


def _tables(catalog: Catalog) -> str:
    return "".join(f"{table.schema}.{table.relation}\n" for table in catalog.tables)
