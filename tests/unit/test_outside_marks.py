"""Marks in sluice.toml: as those in the models, for models that cannot be edited."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice.catalog import Catalog, load_catalog, read_models
from sluice.catalog.stored import stored_catalog
from sluice.errors import WrongUsage
from sluice.generate.files import write_files
from sluice.settings import FILE, read_values
from sluice.settings.marks import COLUMN_MARKS, TABLE_MARKS

MODELS = """
from sqlalchemy import Column, Date, ForeignKey, Integer, MetaData, Numeric, String, Table
from sqlalchemy.types import UserDefinedType


class Point(UserDefinedType):
    def get_col_spec(self):
        return "point"


metadata = MetaData()
persons = Table(
    "persons", metadata, Column("id", Integer, primary_key=True), Column("name", String),
    Column("ssn", String), Column("found", Point), schema="crm",
)
orders = Table(
    "orders", metadata, Column("id", Integer, primary_key=True),
    Column("tenant", Integer, primary_key=True), Column("person_id", ForeignKey("crm.persons.id")),
    Column("status", String), Column("placed", Date), Column("total", Numeric(10, 2)),
)
audit_log = Table("audit_log", metadata, Column("id", Integer, primary_key=True))
"""
# Mark -> a value of it, on the table orders or on the column that is named.
ON_TABLE: dict[str, Any] = {
    "star": "fact",
    "exclude": True,
    "order_by": "tenant, id",
    "partition_by": "intDiv(id, 1000)",
    "settings": "index_granularity = 1024",
    "history": "7 DAY",
    "rollups": {"by_status": {"by": {"status": "status"}, "sum": {"total": "total"}}},
    "quality": {"freshness": {"fail": 3600}},
}
ON_COLUMN: dict[str, tuple[str, Any]] = {
    "star": ("orders.placed", "date"),
    "text": ("crm.persons.found", True),
    "exclude": ("crm.persons.ssn", True),
    "mask": ("crm.persons.ssn", "hash"),
    "low_cardinality": ("orders.status", True),
    "clickhouse_type": ("orders.person_id", "Int64"),
    "codec": ("orders.total", "ZSTD(3)"),
    "expect": ("orders.status", {"values": ["paid", "open"]}),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project, and nothing of it imported afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    load_catalog.cache_clear()
    for name in ("plain", "inside", "outside", "acme"):
        sys.modules.pop(name, None)


def catalog_of(folder: Path, name: str, text: str, marks: str = "") -> Catalog:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)
    (folder / FILE).write_text(marks)
    return read_models(name)


def toml(value: Any) -> str:
    """Write a value as TOML has it, tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def described(catalog: Catalog) -> Any:
    """Return a catalog's tables without the name of their module."""
    kept = [
        (t.name, t.columns, t.is_fact, t.in_star, t.engine, t.rollups, t.quality, t.excluded)
        for t in catalog.tables
    ]
    return (
        kept,
        [(t.quality, t.excluded) for t in catalog.tables],
        [str(x) for x in catalog.left_out],
    )


def test_every_mark_has_a_sample() -> None:
    assert set(ON_TABLE) == TABLE_MARKS
    assert set(ON_COLUMN) == COLUMN_MARKS


@pytest.mark.parametrize("mark", sorted(TABLE_MARKS))
def test_a_mark_of_a_table_is_as_in_the_models(mark: str, folder: Path) -> None:
    value = ON_TABLE[mark]
    given = {"star": "fact", mark: value} if mark == "rollups" else {mark: value}
    plain = catalog_of(folder, "plain", MODELS)
    inside = catalog_of(folder, "inside", f"{MODELS}\norders.info.update({given!r})\n")
    outside = catalog_of(folder, "outside", MODELS, f'[marks.tables]\n"orders" = {toml(given)}\n')
    assert described(outside) == described(inside) != described(plain)


@pytest.mark.parametrize("mark", sorted(COLUMN_MARKS))
def test_a_mark_of_a_column_is_as_in_the_models(mark: str, folder: Path) -> None:
    place, value = ON_COLUMN[mark]
    table, column = place.split(".")[-2:]
    plain = catalog_of(folder, "plain", MODELS)
    own = f"\n{table}.columns.{column}.info[{mark!r}] = {value!r}\n"
    inside = catalog_of(folder, "inside", MODELS + own)
    marks = f'[marks.columns]\n"{place}" = {toml({mark: value})}\n'
    outside = catalog_of(folder, "outside", MODELS, marks)
    assert described(outside) == described(inside) != described(plain)


@pytest.mark.parametrize(
    ("marks", "followed"),
    [
        ("", ["crm_persons", "audit_log", "orders"]),
        ('include = ["orders"]', ["orders"]),
        ('include = ["public.*"]', ["audit_log", "orders"]),
        ('include = ["*"]', ["crm_persons", "audit_log", "orders"]),
        ('include = ["*.persons", "audit_*"]', ["crm_persons", "audit_log"]),
        ('[marks.tables]\n"*_log" = { exclude = true }', ["crm_persons", "orders"]),
        ('[marks.tables]\n"crm.*" = { exclude = true }', ["audit_log", "orders"]),
        (
            '[marks.tables]\n"*" = { exclude = true }\n"orders" = { exclude = false }',
            ["orders"],
        ),
    ],
)
def test_patterns_choose_the_tables(marks: str, followed: list[str], folder: Path) -> None:
    catalog = catalog_of(folder, "acme", MODELS, marks)
    assert sorted(table.name for table in catalog.tables) == sorted(followed)


def test_patterns_choose_columns_of_any_schema(folder: Path) -> None:
    marks = '[marks.columns]\n"*.ssn" = { exclude = true }\n"crm.*.found" = { exclude = true }'
    catalog = catalog_of(folder, "acme", MODELS, marks)
    assert [column.name for column in catalog.table("crm_persons").columns] == ["id", "name"]
    assert set(catalog.table("crm_persons").excluded) == {"ssn", "found"}
    assert not catalog.left_out


def test_the_stored_catalog_holds_while_the_marks_are_the_same(folder: Path) -> None:
    marks = '[marks.tables]\n"*_log" = { exclude = true }\n'
    made = catalog_of(folder, "acme", MODELS, marks)
    assert made.sources is not None
    write_files(made, folder)
    assert stored_catalog("acme") == made
    (folder / FILE).write_text(f'slot = "another"\n{marks}')
    assert stored_catalog("acme") == made
    for other in ("", f'{marks}"orders" = {{ star = "fact" }}\n', f'include = ["*"]\n{marks}'):
        (folder / FILE).write_text(other)
        assert stored_catalog("acme") is None


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ('include = "orders"', "must be a list"),
        ('include = ["a.b.c"]', "does not name a table"),
        ('include = ["order"]', "no order\nthe nearest is orders"),
        ('[marks.table]\norders = { star = "fact" }', "the nearest is tables"),
        ('[marks.tables]\norders = { stars = "fact" }', "the nearest is star"),
        ('[marks.tables]\norders = "fact"', "has no marks"),
        ('[marks.tables]\n"crm.person" = { star = "fact" }', "the nearest is crm.persons"),
        ("[marks.columns]\nssn = { exclude = true }", "table and column"),
        ('[marks.columns]\n"persons.sn" = { exclude = true }', "the nearest is persons.ssn"),
        ('[marks.columns]\n"*.ssn" = { exclud = true }', "the nearest is exclude"),
        ('[marks.columns]\n"orders.id" = { exclude = true }', "is part of the key"),
        ("marks = 1", "must be a table"),
        ("includes = []", "the nearest is include"),
    ],
)
def test_what_is_no_mark_or_names_nothing_is_an_error(marks: str, says: str, folder: Path) -> None:
    def read() -> None:
        catalog_of(folder, "acme", MODELS, marks)
        read_values({})

    with pytest.raises(WrongUsage) as caught:
        read()
    assert says in f"{caught.value.what}\n{caught.value.remedy}", caught.value
