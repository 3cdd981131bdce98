"""Schemas of order_items. Written by `sluice generate` from models.order_item; do not edit."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Required, TypedDict

from models.generated.envelope import EventMetadata


class OrderItem(BaseModel):
    """One product on one order, at the price it was sold for."""

    model_config = ConfigDict(from_attributes=True)

    id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    order_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    product_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    quantity: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class OrderItemCreate(BaseModel):
    """A new row of order_items; the database fills in omitted columns."""

    model_config = ConfigDict(extra="forbid")

    order_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    product_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    quantity: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class OrderItemUpdate(BaseModel):
    """Changes to a row of order_items; omitted columns keep their values."""

    model_config = ConfigDict(extra="forbid")

    order_id: Annotated[int, Field(ge=-2147483648, le=2147483647)] | None = None
    product_id: Annotated[int, Field(ge=-2147483648, le=2147483647)] | None = None
    quantity: Annotated[int, Field(ge=-2147483648, le=2147483647)] | None = None
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)] | None = None


class OrderItemRow(TypedDict, total=False):
    """A row of order_items in an event; a delete carries the key alone."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]

    id: Required[Annotated[int, Field(ge=-2147483648, le=2147483647)]]
    order_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    product_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    quantity: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class OrderItemEvent(TypedDict):
    """A change event of order_items; a truncate has no payload."""

    metadata: EventMetadata
    payload: OrderItemRow | None
    before: OrderItemRow | None
