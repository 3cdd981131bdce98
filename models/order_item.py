"""The items of orders: the grain of the star."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, Numeric
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base

if TYPE_CHECKING:
    from models.order import Order
    from models.product import Product


class OrderItem(Base):
    """One product on one order, at the price it was sold for."""

    __tablename__ = "order_items"
    __table_args__ = {
        "info": {
            "star": "fact",
            "rollups": {
                "revenue_by_day": {
                    "by": {
                        "day": "toDate32(order_date)",
                        "country": "customer_country",
                        "category": "product_category",
                    },
                    "sum": {"units": "quantity", "revenue": "quantity * price"},
                }
            },
        }
    }

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"), index=True)
    quantity: Mapped[int] = mapped_column(info={"expect": {"range": [1, None]}})
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))

    order: Mapped[Order] = relationship(back_populates="items")
    product: Mapped[Product] = relationship()
