"""Pydantic schemas created at run time, equal to those that `sluice generate` writes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, create_model
from sqlalchemy.orm import Mapper

from sluice.catalog.models import describe
from sluice.data_types.mapping import LOSSLESS
from sluice.errors import WrongUsage
from sluice.generate.schemas import config, first_line, read_fields


def sqlalchemy_to_pydantic(
    model: type[Any], *, exclude: Collection[str] = (), profile: str = LOSSLESS
) -> type[BaseModel]:
    """Create the schema of a model's rows, equal to the generated `X`.

    Args:
        model: a declarative SQLAlchemy model.
        exclude: attributes to leave out.

    Raises:
        WrongUsage: a column has no mapping.
    """
    mapper: Mapper[Any] = sa.inspect(model)
    catalog = describe(model.__module__, [mapper], profile)
    for left in catalog.left_out:
        if left.column not in exclude:
            raise WrongUsage(str(left))
    (table,) = catalog.tables
    fields: Any = {
        field.name: (field.annotation.resolve(), ...)
        for field in read_fields(table)
        if field.attribute not in exclude
    }
    options: Any = config(table, from_attributes=True)
    return create_model(table.model, __config__=options, __doc__=first_line(table), **fields)
