"""The catalog: the models as frozen descriptors, which every other module reads.

`load_catalog("models")` imports the models and describes their tables and stars. Generators,
the pipeline and the DAGs know tables only through this package.
"""

from __future__ import annotations

from sluice.catalog.model_set import Catalog, describe, load_catalog
from sluice.catalog.stars import Dimension, Fact, FactColumn
from sluice.catalog.tables import Column, Reference, Rollup, Table, ordered_by

__all__ = [
    "Catalog",
    "Column",
    "Dimension",
    "Fact",
    "FactColumn",
    "Reference",
    "Rollup",
    "Table",
    "describe",
    "load_catalog",
    "ordered_by",
]
