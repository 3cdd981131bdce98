"""Models by `registry.mapped`, without a base class."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, registry, relationship

decorated = registry()


@decorated.mapped
class Country:
    __tablename__ = "countries"

    name: Mapped[str]
    code: Mapped[str] = mapped_column(primary_key=True)


@decorated.mapped
class Town:
    __tablename__ = "towns"
    __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012

    people: Mapped[int | None]
    country_code: Mapped[str | None] = mapped_column(ForeignKey("countries.code"))
    id: Mapped[int] = mapped_column(primary_key=True)
    country: Mapped[Country | None] = relationship()
