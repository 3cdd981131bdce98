"""Schemas of all models. Written by `sluice generate`; do not edit."""

from __future__ import annotations

from models.generated.customer import (
    Customer,
    CustomerCreate,
    CustomerEvent,
    CustomerUpdate,
)
from models.generated.envelope import EventMetadata
from models.generated.order import (
    Order,
    OrderCreate,
    OrderEvent,
    OrderUpdate,
)
from models.generated.order_item import (
    OrderItem,
    OrderItemCreate,
    OrderItemEvent,
    OrderItemUpdate,
)
from models.generated.product import (
    Product,
    ProductCreate,
    ProductEvent,
    ProductUpdate,
)

PROFILE = "lossless"

__all__ = [
    "PROFILE",
    "Customer",
    "CustomerCreate",
    "CustomerEvent",
    "CustomerUpdate",
    "EventMetadata",
    "Order",
    "OrderCreate",
    "OrderEvent",
    "OrderItem",
    "OrderItemCreate",
    "OrderItemEvent",
    "OrderItemUpdate",
    "OrderUpdate",
    "Product",
    "ProductCreate",
    "ProductEvent",
    "ProductUpdate",
]
