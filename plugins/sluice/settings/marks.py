"""The marks of tables and columns in a project's sluice.toml, for models that cannot be edited."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sluice.errors import WrongUsage
from sluice.printable import nearest
from sluice.settings.project import FILE, INCLUDE, MARKS, document_of, find_project

TABLE_MARKS = frozenset(
    "star exclude order_by partition_by settings history rollups quality".split()
)
COLUMN_MARKS = frozenset(
    "star text exclude mask low_cardinality clickhouse_type codec expect".split()
)
_TABLES, _COLUMNS = "tables", "columns"

Patterns = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideMarks:
    """Marks by pattern, which win over those in the models.

    A pattern names a table (`orders`, `crm.*`) or a column (`*.ssn`, `crm.persons.note`), part by
    part, with `*`, `?` and `[...]` as in file names.

    Attributes:
        include: patterns of the tables to follow. Default: all.
        tables, columns: pattern -> marks, in the file's order; of several the last one wins.
    """

    include: tuple[str, ...] = ()
    tables: Patterns = field(default_factory=dict)
    columns: Patterns = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all of it; empty where there is nothing."""
        known = [self.include, list(self.tables.items()), list(self.columns.items())]
        return sha256(json.dumps(known, default=str).encode()).hexdigest() if any(known) else ""


def project_marks() -> OutsideMarks:
    """Read the marks in the present project's sluice.toml; none without the file."""
    return read_marks(find_project(os.environ))


def read_marks(project: Path) -> OutsideMarks:
    """Read the marks in a project's sluice.toml; none without the file.

    Raises:
        WrongUsage: the file cannot be read, or something in it is no pattern or no mark.
    """
    document, path = document_of(project), project / FILE
    include = document.get(INCLUDE, [])
    if not isinstance(include, list) or not all(isinstance(one, str) for one in include):
        raise WrongUsage(f'{path}: {INCLUDE} must be a list of texts, such as ["public.*"]')
    marks = document.get(MARKS, {})
    if not isinstance(marks, dict):
        raise WrongUsage(f"{path}: {MARKS} must be a table")
    for name in marks:
        _require_known(path, name, (_TABLES, _COLUMNS), f"{MARKS}.")
    for pattern in include:
        _require_parts(path, pattern, INCLUDE, (1, 2), "a table, such as orders or crm.*")
    return OutsideMarks(
        include=tuple(include),
        tables=_patterns(path, marks, _TABLES, TABLE_MARKS),
        columns=_patterns(path, marks, _COLUMNS, COLUMN_MARKS),
    )


def _patterns(path: Path, marks: Mapping[str, Any], name: str, known: Collection[str]) -> Patterns:
    """Return pattern -> marks of the tables or the columns."""
    place, patterns = f"{MARKS}.{name}", marks.get(name, {})
    parts, example = (
        ((1, 2), "a table, such as orders or crm.*")
        if name == _TABLES
        else ((2, 3), "table and column, such as *.ssn or crm.persons.note")
    )
    if not isinstance(patterns, dict):
        raise WrongUsage(f"{path}: {place} must be a table")
    for pattern, given in patterns.items():
        _require_parts(path, pattern, place, parts, example)
        if not isinstance(given, dict) or not given:
            raise WrongUsage(
                f"{path}: {place}.{pattern!r} has no marks",
                remedy=f'write: "{pattern}" = {{ exclude = true }}',
            )
        for mark in given:
            _require_known(path, mark, known, f"{place}.{pattern!r}: the mark ")
    return patterns


def _require_parts(
    path: Path, pattern: str, place: str, parts: Collection[int], example: str
) -> None:
    if len(pattern.split(".")) not in parts or not all(pattern.split(".")):
        raise WrongUsage(f"{path}: {place}: {pattern!r} does not name {example}")


def _require_known(path: Path, name: str, known: Collection[str], before: str) -> None:
    if name not in known:
        near = nearest(name, sorted(known))
        raise WrongUsage(f"{path}: {before}{name} does not exist", remedy=f"the nearest is {near}")
