"""Which columns go in bulk, and the SQL of those that do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sluice.catalog import Table, load_catalog
from sluice.generate.bulk import Place, bulk_rows, topic_only

MODEL = """
from sqlalchemy import ARRAY, BigInteger, Date, DateTime, Integer, LargeBinary, Numeric, String
from sqlalchemy.dialects.postgresql import HSTORE
from sqlalchemy.orm import DeclarativeBase, mapped_column

class Base(DeclarativeBase): ...

class Thing(Base):
    __tablename__ = "things"
    id = mapped_column(Integer, primary_key=True)
    value = mapped_column({column})
"""
PLACE = Place(version=5, seq=6, committed_at=7)


@pytest.fixture
def declared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Table:
    """A table with the column that the test's first parameters declare."""
    column, profile = request.param
    name = f"bulk_rows_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODEL.format(column=column))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        return load_catalog(name, profile).table("things")
    finally:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (("ARRAY(LargeBinary), nullable=False", "lossless"), "BYTEA[]"),
        (("ARRAY(HSTORE), nullable=False", "lossless"), "HSTORE[]"),
        (("ARRAY(DateTime), nullable=False", "compact"), "TIMESTAMP WITHOUT TIME ZONE[]"),
        (("Numeric(10, 2), info={'clickhouse_type': 'Float32'}", "lossless"), "as Float32"),
        (("Numeric(10, 2), info={'clickhouse_type': 'Decimal(10, 1)'}", "lossless"), "(10, 1)"),
        (("Integer, info={'clickhouse_type': 'Float32'}", "lossless"), "as Float32"),
        (("DateTime, info={'clickhouse_type': 'DateTime'}", "lossless"), "as DateTime"),
        (("Date, info={'clickhouse_type': 'Date'}", "lossless"), "as Date"),
        (("String, info={'clickhouse_type': 'FixedString(3)'}", "lossless"), "FixedString(3)"),
        (("LargeBinary, info={'clickhouse_type': 'String'}", "lossless"), "as String"),
    ],
    indirect=["declared"],
)
def test_a_column_that_may_be_altered_on_the_way_goes_through_the_topic(
    declared: Table, reason: str
) -> None:
    assert topic_only(declared).startswith("column value is ")
    assert topic_only(declared).endswith(reason)


@pytest.mark.parametrize(
    ("declared", "selected", "fits"),
    [
        (("String", "lossless"), '"value"', ""),
        (("Numeric(10, 2), nullable=False", "lossless"), '"value"', "(\"value\" <> 'NaN')"),
        (
            ("DateTime(timezone=True), nullable=False", "lossless"),
            '"value"::timestamp',
            "(\"value\" >= '1900-01-01' AND \"value\" < '2300-01-01')",
        ),
        (
            ("BigInteger, info={'clickhouse_type': 'UInt32'}", "lossless"),
            '"value"',
            '("value" IS NULL OR ("value" BETWEEN 0 AND 4294967295))',
        ),
        (("LargeBinary", "lossless"), "encode(\"value\", 'hex')", ""),
        (("ARRAY(Integer)", "lossless"), '"value"', ""),  # nullable, so it is stored as its text
    ],
    indirect=["declared"],
)
def test_a_columns_expression_and_condition(declared: Table, selected: str, fits: str) -> None:
    assert topic_only(declared) == ""
    rows = bulk_rows(declared, PLACE)
    assert (rows.selected, rows.fits) == (f'"id", {selected}', fits)
    assert rows.insert.startswith(
        "INSERT INTO cdc.dim_thing (id, value, _version, _is_deleted, _seq, _committed_at)\n"
    )
    assert rows.insert.endswith(" FORMAT TabSeparated\n")
