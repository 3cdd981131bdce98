"""A star whose dimensions and rollups have the names of steps of its rebuild."""

from __future__ import annotations

from datetime import date

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase): ...


class Date(Base):
    """Of days, as many stars have it."""

    __tablename__ = "dates"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Range(Base):
    """Of products."""

    __tablename__ = "ranges"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Touched(Base):
    """By whom."""

    __tablename__ = "touches"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Table(Base):
    """In a restaurant."""

    __tablename__ = "tables"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def _by(column: str) -> dict[str, dict[str, str]]:
    return {"by": {"named": column}, "sum": {"total": "amount"}}


class Sale(Base):
    """What the star is of."""

    __tablename__ = "sales"
    __table_args__ = {  # noqa: RUF012
        "info": {
            "star": "fact",
            "rollups": {
                "fact": _by("date_name"),
                "stage": _by("range_name"),
                "touched_by": _by("table_name"),
            },
        }
    }

    id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(info={"star": "date"})
    amount: Mapped[int]
    date_id: Mapped[int] = mapped_column(ForeignKey("dates.id"))
    range_id: Mapped[int] = mapped_column(ForeignKey("ranges.id"))
    touched_id: Mapped[int] = mapped_column(ForeignKey("touches.id"))
    table_id: Mapped[int] = mapped_column(ForeignKey("tables.id"))

    date: Mapped[Date] = relationship()
    range: Mapped[Range] = relationship()
    touched: Mapped[Touched] = relationship()
    table: Mapped[Table] = relationship()
