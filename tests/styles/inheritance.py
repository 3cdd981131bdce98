"""Single-table, joined and concrete inheritance."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Inherited(DeclarativeBase): ...


class Company(Inherited):
    __tablename__ = "companies"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Employee(Inherited):
    """The parent of a joined hierarchy."""

    __tablename__ = "employees"
    __mapper_args__ = {"polymorphic_on": "type", "polymorphic_identity": "employee"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    name: Mapped[str]
    company_id: Mapped[int | None] = mapped_column(ForeignKey("companies.id"))
    company: Mapped[Company | None] = relationship()


class Manager(Employee):
    __tablename__ = "managers"
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(ForeignKey("employees.id"), primary_key=True)
    level: Mapped[int]


class Director(Manager):
    __tablename__ = "directors"
    __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012
    __mapper_args__ = {"polymorphic_identity": "director"}  # noqa: RUF012

    bonus: Mapped[int | None]
    director_id: Mapped[int] = mapped_column(ForeignKey("managers.id"), primary_key=True)


class Project(Inherited):
    """A fact whose dimension is a child of joined inheritance, reached by its parent's key, too."""

    __tablename__ = "projects"
    __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    manager_id: Mapped[int] = mapped_column(ForeignKey("managers.id"))
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("employees.id"))
    manager: Mapped[Manager] = relationship(foreign_keys=[manager_id])
    boss: Mapped[Employee | None] = relationship(foreign_keys=[boss_id])


class Vehicle(Inherited):
    """The table of a single-table hierarchy, with columns and relationships of its subclasses."""

    __tablename__ = "vehicles"
    __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}  # noqa: RUF012

    kind: Mapped[str]
    id: Mapped[int] = mapped_column(primary_key=True)


class Truck(Vehicle):
    __mapper_args__ = {"polymorphic_identity": "truck"}  # noqa: RUF012

    payload: Mapped[int | None]
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("companies.id"))
    owner: Mapped[Company | None] = relationship()


class BigTruck(Truck):
    __mapper_args__ = {"polymorphic_identity": "big truck"}  # noqa: RUF012

    axles: Mapped[int | None] = mapped_column("number of axles")


class Shape(Inherited):
    __tablename__ = "shapes"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]


class Circle(Shape):
    """A table of its own, by concrete inheritance."""

    __tablename__ = "circles"
    __mapper_args__ = {"concrete": True}  # noqa: RUF012

    radius: Mapped[int | None]
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
