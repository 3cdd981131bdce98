"""The models: the one place where tables, columns and relationships are declared.

Every module of this folder is imported, so a new table is a new file and `make generate`.
Marks that Sluice reads from `info`:

- table `{"star": "fact"}`: the grain of a fact; its dimensions are what its many-to-one
  relationships reach.
- column `{"low_cardinality": True}`: few distinct values, stored as a dictionary in ClickHouse.
- table `{"quality": {...}}` and column `{"expect": {...}}`: what is checked; docs/quality.md.
- column `{"clickhouse_type": "..."}`: the ClickHouse type, where the default is not wanted.
"""

from __future__ import annotations

import importlib
import pkgutil

from models.base import Base

for _module in pkgutil.iter_modules(__path__):
    if not _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Base"]
