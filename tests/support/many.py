"""Models of any number of tables: every fourth is a fact with a dimension and a rollup."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sluice.catalog import Catalog, load_catalog

_HEAD = """
from __future__ import annotations
from datetime import datetime
from decimal import Decimal
from sqlalchemy import DateTime, ForeignKey, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

class Base(DeclarativeBase): ...
"""
_TABLE = """
class {model}(Base):
    __tablename__ = "{prefix}_{at}"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(9))
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
{more}
"""
_FACT = """
    __table_args__ = {{"info": {{"star": "fact", "rollups": {{
        "{prefix}_sums_{at}": {{"by": {{"day": "toDate(made_at)"}}, "sum": {{"total": "amount"}}}}
    }}}}}}
    made_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), info={{"star": "date"}})
    other_id: Mapped[int] = mapped_column(ForeignKey("{prefix}_{next}.id"))
    other: Mapped[{other}] = relationship()
"""


@contextmanager
def many_tables(folder: Path, prefix: str, count: int, more: str = "") -> Iterator[Catalog]:
    """The catalog of so many tables, whose names begin with the prefix.

    Args:
        more: further lines of each model.
    """

    def model(at: int) -> str:
        return f"{prefix.title()}{at:04d}"

    def table(at: int) -> str:
        fact = _FACT.format(prefix=prefix, at=at, next=at + 1, other=model(at + 1))
        lines = more + (fact if at % 4 == 0 else "")
        return _TABLE.format(model=model(at), prefix=prefix, at=at, more=lines)

    name = f"models_of_{prefix}_{count}_{len(more)}"
    (folder / f"{name}.py").write_text(_HEAD + "".join(map(table, range(count))))
    sys.path.insert(0, str(folder))
    try:
        yield load_catalog(name)
    finally:
        sys.path.remove(str(folder))
        del sys.modules[name]
        load_catalog.cache_clear()
