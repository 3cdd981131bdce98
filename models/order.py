"""The orders of customers."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import DateTime, ForeignKey, Numeric, String, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base

if TYPE_CHECKING:
    from models.customer import Customer
    from models.order_item import OrderItem


class Order(Base):
    """An order of one customer."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    order_date: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), info={"star": "date"}
    )
    status: Mapped[str] = mapped_column(String(50), info={"low_cardinality": True})
    total: Mapped[Decimal] = mapped_column(
        Numeric(10, 2), info={"expect": {"range": [0, None], "severity": "warn"}}
    )

    customer: Mapped[Customer] = relationship()
    items: Mapped[list[OrderItem]] = relationship(back_populates="order", passive_deletes="all")
