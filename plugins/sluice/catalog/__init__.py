"""The catalog: the models as frozen descriptors, which every other module reads.

`load_catalog("models")` describes the tables and stars of the models, from the file that `sluice
generate` wrote or, in any doubt, from the imported models. Generators, the pipeline and the DAGs
know tables only through this package.
"""

from __future__ import annotations

from functools import lru_cache

from sluice.catalog.model_set import Catalog
from sluice.catalog.stars import Dimension, Fact, FactColumn
from sluice.catalog.stored import stored_catalog
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
    "load_catalog",
    "ordered_by",
    "read_models",
]


@lru_cache
def load_catalog(models: str, profile: str = "") -> Catalog:
    """Describe the declarative models of a module.

    Args:
        models: a module's dotted name, such as `models`.
        profile: `lossless` or `compact`. Default: that of the generated schemas.

    Raises:
        WrongUsage: the module cannot be imported, has no models, or a model cannot be mapped.
    """
    return stored_catalog(models, profile) or read_models(models, profile)


def read_models(models: str, profile: str = "") -> Catalog:
    """Describe the models as they are now; see load_catalog."""
    from sluice.catalog.models import read_models as read  # imports SQLAlchemy

    return read(models, profile)
