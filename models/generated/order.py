"""Schemas of orders. Written by `sluice generate` from models.order; do not edit."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Required, TypedDict

from models.generated.envelope import EventMetadata


class Order(BaseModel):
    """An order of one customer."""

    model_config = ConfigDict(from_attributes=True)

    id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    customer_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    order_date: datetime
    status: Annotated[str, Field(max_length=50)]
    total: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class OrderCreate(BaseModel):
    """A new row of orders; the database fills in omitted columns."""

    model_config = ConfigDict(extra="forbid")

    customer_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    order_date: datetime | None = None
    status: Annotated[str, Field(max_length=50)]
    total: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class OrderUpdate(BaseModel):
    """Changes to a row of orders; omitted columns keep their values."""

    model_config = ConfigDict(extra="forbid")

    customer_id: Annotated[int, Field(ge=-2147483648, le=2147483647)] | None = None
    order_date: datetime | None = None
    status: Annotated[str, Field(max_length=50)] | None = None
    total: Annotated[Decimal, Field(max_digits=10, decimal_places=2)] | None = None


class OrderRow(TypedDict, total=False):
    """A row of orders in an event; a delete carries the key alone."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]

    id: Required[Annotated[int, Field(ge=-2147483648, le=2147483647)]]
    customer_id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    order_date: datetime
    status: str
    total: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class OrderEvent(TypedDict):
    """A change event of orders; a truncate has no payload."""

    metadata: EventMetadata
    payload: OrderRow | None
    before: OrderRow | None
