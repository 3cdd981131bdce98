"""The declarative base that every model shares."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """The base class of all models; `sluice generate` reads its registry."""
