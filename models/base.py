"""The declarative base that every model shares."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """Models derive from this class; `sluice generate` reads what is registered on it."""
