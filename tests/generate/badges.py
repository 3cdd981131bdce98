"""The models that the expected text of test_text.py stands beside."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase): ...


class Guest(Base):
    """Somebody with a badge."""

    __tablename__ = "guests"
    __table_args__ = {"schema": "crm", "info": {"history": "7 DAY"}}  # noqa: RUF012

    site: Mapped[str] = mapped_column(String(3), primary_key=True, info={"low_cardinality": True})
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    nick: Mapped[str | None] = mapped_column(String(20))


class Visit(Base):
    """A guest at a door."""

    __tablename__ = "visits"
    __table_args__ = (
        ForeignKeyConstraint(["site", "guest_number"], ["crm.guests.site", "crm.guests.number"]),
        {"info": {"star": "fact"}},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(String(3))
    guest_number: Mapped[int | None]
    after_id: Mapped[int | None] = mapped_column(ForeignKey("visits.id"))
    fee: Mapped[Decimal] = mapped_column(Numeric(6, 2))

    guest: Mapped[Guest | None] = relationship()
