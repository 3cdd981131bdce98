"""Declarative models with every name that the generated Python could trip over."""

from __future__ import annotations

import enum

from sqlalchemy import JSON, Enum, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Hostile(DeclarativeBase): ...


class Envelope(Hostile):
    __doc__ = 'A \\d and a \\N, """ and "'

    __tablename__ = "envelopes"

    class Status(enum.Enum):
        OPEN = "open"
        SHUT = "shut"

    status: Mapped[Status] = mapped_column()
    schema: Mapped[str | None]
    copy: Mapped[int | None]
    json: Mapped[dict[str, int] | None] = mapped_column(JSON)
    model_config: Mapped[int | None]
    model_fields: Mapped[int | None]
    _hidden: Mapped[int | None]
    date: Mapped[int | None]
    date_: Mapped[int | None]
    int_: Mapped[int | None] = mapped_column("int")
    kind: Mapped[str | None] = mapped_column(Enum("int", "str", 'Literal"', name="kinds"))
    schema_: Mapped[int | None]
    id: Mapped[int] = mapped_column(primary_key=True)


class Return(Hostile):
    __tablename__ = "returns"
    __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012

    class_: Mapped[int | None] = mapped_column("class")
    envelope_id: Mapped[int] = mapped_column(ForeignKey("envelopes.id"))
    id: Mapped[int] = mapped_column(primary_key=True)
    envelope: Mapped[Envelope] = relationship()


class ReturnEvent(Hostile):
    __tablename__ = "return_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[int | None]


class BaseModel(Hostile):
    __tablename__ = "base_models"

    id: Mapped[int] = mapped_column(primary_key=True)


class TypedDict(Hostile):
    __tablename__ = "typed_dicts"

    id: Mapped[int] = mapped_column(primary_key=True)


class EventMetadata(Hostile):
    __tablename__ = "event_metadata"

    id: Mapped[int] = mapped_column(primary_key=True)


def _local() -> type[enum.Enum]:
    class Local(enum.Enum):
        A = "a"

    return Local


class Enums(Hostile):
    __tablename__ = "enums"

    local: Mapped[str | None] = mapped_column(Enum(_local(), name="locals"))
    id: Mapped[int] = mapped_column(primary_key=True)
