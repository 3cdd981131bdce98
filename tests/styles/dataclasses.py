"""Models that are dataclasses, by a base class and by a decorator."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    mapped_column,
    registry,
    relationship,
)


class Dataclasses(MappedAsDataclass, DeclarativeBase): ...


class Author(Dataclasses):
    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(init=False, primary_key=True)
    name: Mapped[str]
    born: Mapped[int | None] = mapped_column(default=None)


_decorated = registry(metadata=Dataclasses.metadata)


@_decorated.mapped_as_dataclass
class Book:
    __tablename__ = "books"
    __table_args__ = {"info": {"star": "fact"}}  # noqa: RUF012

    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
    author: Mapped[Author] = relationship(Author, init=False)
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
