"""Masks: hash and constant, what they are possible on, and where rows are read."""

from __future__ import annotations

import hmac
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sluice.capture.json_rows import RowEncoder
from sluice.capture.pgoutput import MISSING, RelationColumn
from sluice.catalog import Catalog, load_catalog, read_models
from sluice.clients.mask_key import (
    key_fingerprint,
    masked_as,
    require_mask_key,
    require_noted_key,
)
from sluice.data_types.masks import INNER, OUTER, REDACTED, mask_of, session_options
from sluice.errors import NeedsPerson, WrongUsage
from sluice.generate.connect import configuration
from sluice.generate.files import generated_files
from sluice.settings import FILE, PROJECT, PostgresSettings, read_settings

KEY = "sixteen characters or more"
MODELS = """
from sqlalchemy import Boolean, Column, Computed, Date, Enum, ForeignKey, Integer, Numeric, String
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase): ...


class Person(Base):
    __tablename__ = "persons"
    id = Column(Integer, primary_key=True)
    email = Column(String, unique=True)
    name = Column(String)
    born = Column(Date)
    active = Column(Boolean)
    colour = Column(Enum("red", "green", name="colours"))
    initials = Column(String, Computed("left(name, 1)", persisted=True))


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = {"info": {"star": "fact", "rollups": {
        "by_place": {"by": {"place": "place"}, "sum": {"total": "price"}},
        "by_length": {"by": {"size": "length(street)"}, "sum": {"total": "price"}},
    }}}
    id = Column(Integer, primary_key=True)
    person_id = Column(ForeignKey("persons.id"))
    place = Column(String)
    street = Column(String)
    price = Column(Numeric(10, 2))
    placed = Column(Date, info={"star": "date"})
    copy_to = Column(ForeignKey("persons.email"))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project, and nothing of it imported afterwards."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    yield tmp_path
    load_catalog.cache_clear()
    sys.modules.pop("shop", None)


def catalog_of(folder: Path, marks: str) -> Catalog:
    (folder / "shop.py").write_text(MODELS)
    (folder / FILE).write_text(f"[marks.columns]\n{marks}\n")
    return read_models("shop")


@pytest.mark.parametrize("length", [16, 63, 64, 65, 200])
@given(value=st.binary())
def test_a_sessions_settings_give_the_hmac_of_the_key(length: int, value: bytes) -> None:
    key = "k" * length
    inner, outer = (bytes.fromhex(session_options(key)[name]) for name in (INNER, OUTER))
    nested = sha256(outer + sha256(inner + value).digest()).hexdigest().encode()
    assert mask_of("hash", key)(value) == nested
    assert nested == hmac.new(key.encode(), value, sha256).hexdigest().encode()
    assert key not in str(session_options(key))


def test_the_stream_masks_values_and_neither_null_nor_what_is_unchanged() -> None:
    columns = [RelationColumn(name=n, type_oid=o, in_key=False) for n, o in (("id", 23), ("a", 23))]
    for kind, text in (("hash", mask_of("hash", KEY)(b"42")), ("redact", REDACTED.encode())):
        encoder = RowEncoder("t", columns, ["id"], masks={"a": mask_of(kind, KEY)})
        assert encoder.row([b"1", b"42"]) == b'{"id":1,"a":"%b"}' % text
        assert encoder.row([b"1", None]) == b'{"id":1,"a":null}'
        assert b"42" not in encoder.row([b"1", MISSING])


def test_masked_columns_arrive_as_texts_and_keep_their_type_in_the_api(folder: Path) -> None:
    table = catalog_of(folder, '"persons.born" = { mask = "hash" }').table("persons")
    born = table.column("born")
    assert (born.mask, born.clickhouse_type) == ("hash", "Nullable(String)")
    assert (born.postgres_type, born.type.api.text) == ("DATE", "date")
    assert table.masked == (born,)


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ('"persons.name" = { mask = "md5" }', "class Person: column name cannot be masked: 'md5'"),
        ('"persons.id" = { mask = "hash" }', "column id cannot be masked: it is part of the prim"),
        ('"orders.person_id" = { mask = "hash" }', "class Order: column person_id cannot be"),
        ('"persons.email" = { mask = "hash" }', "email cannot be masked: orders.copy_to refers"),
        ('"persons.active" = { mask = "hash" }', "class Person: column active cannot be masked"),
        ('"persons.colour" = { mask = "hash" }', "class Person: column colour cannot be masked"),
        ('"orders.placed" = { mask = "hash" }', "placed cannot be masked: it is the date of a"),
        ('"persons.name" = { mask = "hash" }', "initials has to be masked: it is computed from n"),
        ('"orders.price" = { mask = "redact" }', "by_place of class Order computes with price"),
        ('"orders.street" = { mask = "hash" }', "by_length of class Order computes with street"),
        (
            '"orders.place" = { mask = "hash", clickhouse_type = "FixedString(9)" }',
            "class Order: column place cannot be masked: its masked values are texts",
        ),
        (
            '"orders.place" = { mask = "hash", expect = { values = ["Rome"] } }',
            "class Order: column place cannot be masked: its values are expected",
        ),
        (
            '"orders.place" = { mask = "hash", expect = { relationship = "persons.name" } }',
            "class Order: column place is masked in another way",
        ),
    ],
)
def test_a_mask_that_is_not_possible_is_an_error_of_one_line(
    folder: Path, marks: str, says: str
) -> None:
    with pytest.raises(WrongUsage) as caught:
        catalog_of(folder, marks)
    assert says in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.remedy


def test_masks_that_are_possible_stay_possible_in_the_stored_catalog(folder: Path) -> None:
    marks = """
"persons.name" = { mask = "hash" }
"persons.initials" = { exclude = true }
"persons.active" = { mask = "redact" }
"orders.place" = { mask = "hash", expect = { relationship = "persons.name" } }
"""
    catalog = catalog_of(folder, marks)
    assert [c.mask for c in catalog.table("persons").masked] == ["hash", "redact"]
    assert [c.name for c in catalog.table("orders").masked] == ["place"]
    assert "String" in generated_files(catalog)[Path("sql/clickhouse/generated/dim_person.sql")]


def test_a_table_that_hides_columns_sends_only_those_of_the_model(folder: Path) -> None:
    hidden = catalog_of(folder, '"orders.place" = { mask = "hash" }')
    assert not hidden.table("orders").sends("formerly_place")
    assert hidden.table("orders").sends("place")
    assert hidden.table("persons").sends("nickname")


def test_redpanda_connect_is_refused(folder: Path) -> None:
    catalog = catalog_of(folder, '"orders.place" = { mask = "hash" }')
    with pytest.raises(WrongUsage, match="class Order: column place is masked, and Redpanda"):
        configuration(catalog, (PROJECT / "redpanda-connect.yaml").read_text())


def settings_with(key: str) -> PostgresSettings:
    return read_settings({"SLUICE_MASK_KEY": key}).postgres


def test_the_key_is_required_where_a_column_is_hashed_and_never_shown(folder: Path) -> None:
    hashed = catalog_of(folder, '"orders.place" = { mask = "hash" }').tables
    require_mask_key(settings_with(KEY), hashed)
    with pytest.raises(NeedsPerson, match=r"SLUICE_MASK_KEY is not set, but orders\.place"):
        require_mask_key(settings_with(""), hashed)
    assert KEY not in repr(settings_with(KEY))
    with pytest.raises(WrongUsage, match="at least 16") as caught:
        settings_with("short")
    assert "short" not in caught.value.what.replace("SLUICE_MASK_KEY", "")


def test_a_constant_needs_no_key(folder: Path) -> None:
    load_catalog.cache_clear()
    constant = catalog_of(folder, '"orders.place" = { mask = "redact" }')
    require_mask_key(settings_with(""), constant.tables)


def test_what_is_noted_of_masks_changes_with_the_key_and_does_not_tell_it(folder: Path) -> None:
    table = catalog_of(folder, '"orders.place" = { mask = "hash" }').table("orders")
    one, other = (masked_as(settings_with(key), table) for key in (KEY, f"{KEY}!"))
    assert one != other
    assert one.startswith("place: hash by key ")
    assert KEY not in one
    assert isinstance(settings_with(KEY).mask_key, SecretStr)


def test_another_key_than_the_noted_one_is_refused_where_a_column_is_hashed(folder: Path) -> None:
    tables = catalog_of(folder, '"orders.place" = { mask = "hash" }').tables
    own, others = settings_with(KEY), [table for table in tables if table.name != "orders"]
    noted = key_fingerprint(own, tables)
    require_noted_key(own, tables, noted)
    require_noted_key(own, tables, "")
    with pytest.raises(
        NeedsPerson, match=rf"another key here .* \(fingerprint {noted}\)"
    ) as caught:
        require_noted_key(settings_with(f"{KEY}!"), tables, noted)
    assert KEY not in str(caught.value)
    with pytest.raises(NeedsPerson, match="SLUICE_MASK_KEY is not set"):
        require_noted_key(settings_with(""), tables, noted)
    require_noted_key(settings_with(""), others, noted)


# Modules that read from a source table as it is, and only keys or counts of it.
KEYS_ALONE = {
    "capture/fenced_snapshot.py",
    "capture/row_reader.py",
    "clients/postgres.py",
    "clients/source_tables.py",
}


def modules_with(*words: str) -> set[str]:
    root = PROJECT / "plugins/sluice"
    return {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if any(word in path.read_text() for word in words)
    }


def test_rows_are_read_by_one_expression() -> None:
    """A new reader of rows has to decide whether it reads values, which `own_rows` masks."""
    named = modules_with("Identifier(table.schema")
    assert named == {"clients/source_tables.py", "capture/shapes.py"}
    assert modules_with("own_table(", "from_table(") == KEYS_ALONE
    assert modules_with(".copy_expert(") == {"capture/bulk.py", "capture/row_reader.py"}
