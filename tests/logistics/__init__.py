"""A second set of models, as different from the example as a user's may be.

Composite, UUID and string keys, two schemas, two facts, a self-reference, two ways to one
dimension, nullable foreign keys, enums, arrays, json, computed columns, odd names.
"""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Computed,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Text,
    Time,
)
from sqlalchemy.dialects.postgresql import ENUM, INET, INT4RANGE, INTERVAL, JSONB, REAL
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column, relationship

Tenant = Annotated[int, mapped_column(Integer, primary_key=True)]


class Mode(enum.Enum):
    """How goods travel."""

    road = "by road"
    sea = "by sea"


class Base(DeclarativeBase):
    """With a naming convention, as Alembic users have."""

    metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s"})


class Stamped:
    """A mixin."""

    stamped_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Person(Base):
    """Who drives, and for whom; in a schema of its own."""

    __tablename__ = "people"
    __table_args__ = {"schema": "crm"}  # noqa: RUF012

    code: Mapped[str] = mapped_column(String(10), primary_key=True)
    name: Mapped[str]
    born: Mapped[date | None]
    boss_code: Mapped[str | None] = mapped_column(ForeignKey("crm.people.code"))
    secret: Mapped[str | None] = mapped_column(Text, info={"star": "skip"})

    boss: Mapped[Person | None] = relationship(remote_side=[code])


class Depot(Base):
    """A place, one of many tenants'."""

    __tablename__ = "depots"

    tenant_id: Mapped[Tenant]
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    title: Mapped[str] = mapped_column("select", String(40))
    address: Mapped[str | None] = mapped_column(INET)
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))
    opening: Mapped[time | None] = mapped_column(Time)
    date: Mapped[date | None]
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSONB)


class Shipment(Stamped, Base):
    """Goods on the way from one depot to another."""

    __tablename__ = "shipments"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "from_id"], ["depots.tenant_id", "depots.id"]),
        ForeignKeyConstraint(["tenant_id", "to_id"], ["depots.tenant_id", "depots.id"]),
        {"info": {"star": "fact"}},
    )

    tenant_id: Mapped[Tenant]
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    from_id: Mapped[int] = mapped_column(BigInteger)
    to_id: Mapped[int | None] = mapped_column(BigInteger)
    driver_code: Mapped[str | None] = mapped_column(ForeignKey("crm.people.code"))
    mode: Mapped[Mode] = mapped_column(Enum(Mode, name="mode"))
    urgency: Mapped[str | None] = mapped_column(ENUM("low", "high", name="urgency"))
    weight: Mapped[Decimal | None] = mapped_column(Numeric)
    price: Mapped[Decimal] = mapped_column(Numeric(38, 10))
    speed: Mapped[float | None] = mapped_column(REAL)
    ratio: Mapped[float | None] = mapped_column(Float)
    taken: Mapped[timedelta | None] = mapped_column(INTERVAL)
    photo: Mapped[bytes | None] = mapped_column(LargeBinary)
    stops: Mapped[list[int | None]] = mapped_column(ARRAY(Integer))
    grid: Mapped[list[list[Decimal]] | None] = mapped_column(ARRAY(Numeric(8, 2), dimensions=2))
    seats: Mapped[Any | None] = mapped_column(INT4RANGE)
    doubled: Mapped[Decimal | None] = mapped_column(
        Numeric(38, 9), Computed("price * 2", persisted=True)
    )

    sender: Mapped[Depot] = relationship(
        primaryjoin="and_(Shipment.tenant_id == Depot.tenant_id, Shipment.from_id == Depot.id)",
        foreign_keys="[Shipment.tenant_id, Shipment.from_id]",
        viewonly=True,
    )
    receiver: Mapped[Depot | None] = relationship(
        primaryjoin="and_(Shipment.tenant_id == Depot.tenant_id, Shipment.to_id == Depot.id)",
        foreign_keys="[Shipment.tenant_id, Shipment.to_id]",
        viewonly=True,
    )
    driver: Mapped[Person | None] = relationship()


class Shift(Base):
    """A person's day at work: a second fact, sharing a dimension; old style columns."""

    __tablename__ = "shifts"
    __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012

    id: MappedColumn[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    person_code = Column(String(10), ForeignKey("crm.people.code"))
    hours = Column(SmallInteger, nullable=False, server_default="8")

    person: Mapped[Person | None] = relationship()
