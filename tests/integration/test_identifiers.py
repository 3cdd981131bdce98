"""Names that would be SQL, if they were not quoted, work or are refused."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import pytest

from sluice.catalog import load_catalog
from sluice.errors import WrongUsage
from sluice.settings import Settings
from tests.support.harbour import NARROW, harbour

# A keyword, quotes of every kind, an end of statement, a comment, a placeholder, an emoji; 63
# bytes, PostgreSQL's most, in two-byte letters.
NAMES = (
    "select",
    "a`b",
    'c"d',
    "e'f",
    "g\\nh\\",
    "i;DROP TABLE ferries;--",
    "j{k:String}",
    "🚢",
    "я" * 31,
)


@pytest.mark.services
def test_columns_of_any_name_come_through_the_whole_loop(
    services: Settings, tmp_path: Path
) -> None:
    declared = [
        f"    odd_{at}: Mapped[str] = mapped_column({name!r}, String(20))"
        for at, name in enumerate(NAMES)
    ]
    quoted = ['"' + name.replace('"', '""') + '"' for name in NAMES]
    columns = ", ".join(f"{name} text NOT NULL" for name in quoted)
    values = ", ".join(f"'value {at}'" for at in range(len(NAMES)))
    tables = (
        f"CREATE TABLE ferries (id int PRIMARY KEY, {columns})",
        "CREATE TABLE crossings (id int PRIMARY KEY, ferry_id int NOT NULL, cars int NOT NULL)",
        f"INSERT INTO ferries VALUES (1, {values})",
        "INSERT INTO crossings VALUES (10, 1, 5)",
    )
    with harbour(services, tmp_path, tables, declared, [NARROW]) as made:
        made.postgres(f"UPDATE ferries SET {quoted[-1]} = 'changed'")
        made.settle()
        (fact,) = made.rows("SELECT * FROM olap.fact_crossing")
        expected = [f"value {at}" for at in range(len(NAMES) - 1)] + ["changed"]
        assert set(expected) <= set(fact)


MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): ...

class Odd(Base):
    __tablename__ = {name!r}
    id: Mapped[int] = mapped_column(primary_key=True)
"""


LONG = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): ...

class {model}(Base):
    __tablename__ = {table!r}
    __table_args__ = {{"schema": {schema!r}, "info": {{"star": "fact", "rollups": {rollups}}}}}
    id: Mapped[int] = mapped_column(primary_key=True)
    cars: Mapped[int] = mapped_column({column!r})
"""
LONGEST: dict[str, str] = {
    "model": "M" * 177,
    "table": "t" * 63,
    "schema": "s" * 63,
    "column": "я" * 31,
    "rollup": "r" * 194,
}


def long_names(folder: Path, names: dict[str, str]) -> str:
    """A module of a model with these names."""
    mark = {names["rollup"]: {"by": {"cars": names["column"]}, "sum": {"all": "1"}}}
    text = LONG.format(rollups=mark, **{k: v for k, v in names.items() if k != "rollup"})
    module = f"long_{uuid4().hex}"
    (folder / f"{module}.py").write_text(text)
    return module


def test_the_longest_names_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert load_catalog(long_names(tmp_path, LONGEST)).tables[0].relation == "t" * 63


@pytest.mark.parametrize(
    ("what", "name", "says"),
    [
        ("model", "M" * 178, "at most 210"),
        ("model", "Ü" * 30, "at most 210"),
        ("table", "t" * 64, "64 bytes; PostgreSQL truncates it to 63"),
        ("schema", "s" * 64, "64 bytes; PostgreSQL truncates it to 63"),
        ("column", "я" * 32, "64 bytes; PostgreSQL truncates it to 63"),
        ("rollup", "r" * 195, "at most 210"),
    ],
)
def test_a_name_that_a_database_would_cut_or_refuse_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, name: str, says: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WrongUsage, match=says):
        load_catalog(long_names(tmp_path, {**LONGEST, what: name}))


@pytest.mark.parametrize("name", ["a`b", 'c"d', "e f", "g;--", "я"])
def test_a_table_whose_name_makes_no_topic_gets_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module = f"odd_{uuid4().hex}"
    (tmp_path / f"{module}.py").write_text(MODELS.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    (table,) = load_catalog(module).tables
    assert table.relation == name
    assert re.fullmatch(r"cdc\.[a-z_-]+_[0-9a-f]{8}", table.topic)
