"""Tables without classes, with names that PostgreSQL allows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.types import UserDefinedType


class POINT(UserDefinedType[Any]):
    """A type that has no mapping."""

    def get_col_spec(self, **_: Any) -> str:
        return "point"


metadata = MetaData()
Table(
    "tags",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, key="label"),
)
Table(
    "notes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("parent_id", ForeignKey("notes.id")),
    Column("text", Text),
)
# An association table: it arrives, and its rows are counted as a fact.
Table(
    "note_tags",
    metadata,
    Column("note_id", ForeignKey("notes.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
    info={"star": "fact"},
)
# Names of the same letters and digits; the key is at the end, in another order.
ODD = ('Select "x" FROM `t`; --é🚢/%s {a:b} \\\n', 'Select "x" FROM `t`  --é🚢/%s {a:b} \\\n')
Table(
    ODD[0],
    metadata,
    Column("a b", String),
    Column("class", Integer),
    Column("%(x)s", Integer),
    Column("__private", Integer),
    Column("2nd", Integer, nullable=False),
    Column("1st", String, nullable=False),
    PrimaryKeyConstraint("1st", "2nd"),
    info={"star": "fact"},
)
Table(
    ODD[1],
    metadata,
    Column("id", Integer, primary_key=True),
    Column("second", Integer),
    Column("first", String),
    ForeignKeyConstraint(["first", "second"], [f"{ODD[0]}.1st", f"{ODD[0]}.2nd"]),
    info={"star": "fact"},
)
Table("я" * 31, metadata, Column("я" * 31, Integer, primary_key=True))
Table("2nd", metadata, Column("id", Integer, primary_key=True))
# Names that Sluice's own topics and tables have.
Table("control", metadata, Column("id", Integer, primary_key=True))
Table("dead_letter", metadata, Column("id", Integer, primary_key=True))
Table("tags_feed", metadata, Column("id", Integer, primary_key=True))
Table("checkpoints", metadata, Column("id", Integer, primary_key=True))
Table("schema", metadata, Column("schema", Integer, primary_key=True), schema="Odd schema.")
# Of one name where a schema is a prefix.
Table("b_c", metadata, Column("id", Integer, primary_key=True), schema="a")
Table("c", metadata, Column("id", Integer, primary_key=True), schema="a_b")
# A table and a column that stay in PostgreSQL.
Table("sessions", metadata, Column("id", Integer, primary_key=True), info={"exclude": True})
Table(
    "accounts",
    metadata,
    Column("password", String, nullable=False, info={"exclude": True}),
    Column("id", Integer, primary_key=True),
    Column("name", String),
)
# Tables and columns that cannot be followed; the others are.
Table("keyless", metadata, Column("note_id", ForeignKey("notes.id")), Column("text", Text))
Table("lists", metadata, Column("key", ARRAY(Integer), primary_key=True))
Table(
    "shapes_of_land",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("place", POINT),
    Column("center", POINT, info={"text": True}),
    Column("_version", Integer),
    Column("twice", Integer, Computed("id * 2", persisted=False)),
    Column("name", String),
)
