"""Schemas of customers. Written by `sluice generate` from models.customer; do not edit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Required, TypedDict

from models.generated.envelope import EventMetadata


class Customer(BaseModel):
    """A customer of the store; the e-mail address is unique."""

    model_config = ConfigDict(from_attributes=True)

    id: Annotated[int, Field(ge=-2147483648, le=2147483647)]
    email: Annotated[str, Field(max_length=255)]
    name: Annotated[str, Field(max_length=255)]
    country: Annotated[str, Field(max_length=100)]
    city: Annotated[str, Field(max_length=100)]
    created_at: datetime


class CustomerCreate(BaseModel):
    """A new row of customers; the database fills in omitted columns."""

    model_config = ConfigDict(extra="forbid")

    email: Annotated[str, Field(max_length=255)]
    name: Annotated[str, Field(max_length=255)]
    country: Annotated[str, Field(max_length=100)]
    city: Annotated[str, Field(max_length=100)]
    created_at: datetime | None = None


class CustomerUpdate(BaseModel):
    """Changes to a row of customers; omitted columns keep their values."""

    model_config = ConfigDict(extra="forbid")

    email: Annotated[str, Field(max_length=255)] | None = None
    name: Annotated[str, Field(max_length=255)] | None = None
    country: Annotated[str, Field(max_length=100)] | None = None
    city: Annotated[str, Field(max_length=100)] | None = None
    created_at: datetime | None = None


class CustomerRow(TypedDict, total=False):
    """A row of customers in an event; a delete carries the key alone."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]

    id: Required[Annotated[int, Field(ge=-2147483648, le=2147483647)]]
    email: str
    name: str
    country: str
    city: str
    created_at: datetime


class CustomerEvent(TypedDict):
    """A change event of customers; a truncate has no payload."""

    metadata: EventMetadata
    payload: CustomerRow | None
    before: CustomerRow | None
