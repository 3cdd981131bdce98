"""Classes of one name: in two schemas, and of two tables of one schema."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Twins(DeclarativeBase): ...


def _person(table: str, schema: str | None) -> type[DeclarativeBase]:
    class Base(DeclarativeBase):
        metadata = Twins.metadata

    class Person(Base):
        __tablename__ = table
        __table_args__ = {"schema": schema}  # noqa: RUF012

        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]

    return Person


sales, hr = _person("persons", "sales"), _person("persons", "hr")
people, humans = _person("people", None), _person("humans", None)


class Meeting(Twins):
    __tablename__ = "meetings"
    __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    one_id: Mapped[int | None] = mapped_column(ForeignKey("sales.persons.id"))
    two_id: Mapped[int | None] = mapped_column(ForeignKey("hr.persons.id"))
    one = relationship(sales)
    two = relationship(hr)
