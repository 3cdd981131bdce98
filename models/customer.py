"""The customers of the store."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DateTime, String, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Customer(Base):
    """A customer of the store; the e-mail address is unique."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(
        String(255), unique=True, info={"expect": {"unique": True, "severity": "warn"}}
    )
    name: Mapped[str] = mapped_column(String(255))
    country: Mapped[str] = mapped_column(String(100), info={"low_cardinality": True})
    city: Mapped[str] = mapped_column(String(100), info={"low_cardinality": True})
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
