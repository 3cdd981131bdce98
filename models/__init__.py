"""The models, which alone declare tables, columns and relationships.

Every module of this folder is imported; to add a table, add a file and run `make generate`.
Marks that Sluice reads from `info`, among others (docs/models.md):

- table `{"star": "fact"}`: the grain of a fact; its dimensions are all tables that its many-to-one
  relationships reach.
- column `{"low_cardinality": True}`: few distinct values, stored as a dictionary in ClickHouse.
- table `{"quality": {...}}` and column `{"expect": {...}}`: limits and expectations of checks.
- column `{"clickhouse_type": "..."}`: the ClickHouse type, instead of the default.
"""

from __future__ import annotations

import importlib
import pkgutil

from models.base import Base

for _module in pkgutil.iter_modules(__path__):
    if not _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Base"]
