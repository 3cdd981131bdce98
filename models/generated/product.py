"""Schemas of products. Written by `sluice generate` from models.product; do not edit."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Required, TypedDict

from models.generated.envelope import EventMetadata


class Product(BaseModel):
    """A product of the store at its present list price."""

    model_config = ConfigDict(from_attributes=True)

    id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    name: Annotated[str, Field(max_length=255)]
    category: Annotated[str, Field(max_length=100)]
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]
    created_at: datetime


class ProductCreate(BaseModel):
    """A new row of products; the database fills in omitted columns."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=255)]
    category: Annotated[str, Field(max_length=100)]
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]
    created_at: datetime | None = None


class ProductUpdate(BaseModel):
    """Changes to a row of products; omitted columns keep their values."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=255)] | None = None
    category: Annotated[str, Field(max_length=100)] | None = None
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)] | None = None
    created_at: datetime | None = None


class ProductRow(TypedDict, total=False):
    """A row of products in an event; a delete carries the key alone."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]

    id: Required[Annotated[int, Field(ge=-2147483648, le=2147483647)]]
    name: str
    category: str
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]
    created_at: datetime


class ProductEvent(TypedDict):
    """A change event of products; a truncate has no payload."""

    metadata: EventMetadata
    payload: ProductRow | None
    before: ProductRow | None
