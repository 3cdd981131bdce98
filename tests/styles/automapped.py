"""Classes that automap makes of tables."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table
from sqlalchemy.ext.automap import automap_base

_metadata = MetaData()
Table(
    "harbors",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
)
Table(
    "landings",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("harbor_id", ForeignKey("harbors.id")),
    Column("tons", Integer),
    info={"star": "fact"},
)
Base = automap_base(metadata=_metadata)
Base.prepare()
