"""The schema of one table's events, from the generated module of that table alone.

Importing `models.generated.order` the usual way imports `models` and `models.generated` first, and
so all models and all schemas. A drain of one table needs one schema, so its module is loaded by its
file, under its own name: a later import of the package finds and uses it.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from threading import Lock
from types import ModuleType
from typing import Any

from sluice.catalog import Catalog, Table
from sluice.catalog.disk import Disk, folder_of
from sluice.errors import WrongUsage
from sluice.generate.schemas import module_name

_lock = Lock()  # another thread must not see a module that is half loaded


def event_schema(catalog: Catalog, table: Table) -> Any:
    """Return the generated schema of a table's events, such as `OrderEvent`.

    Raises:
        WrongUsage: there is none.
    """
    try:
        with _lock:
            _module(catalog, "envelope")  # which the table's module imports
            return getattr(_module(catalog, module_name(table)), f"{table.model}Event")
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise WrongUsage(
            f"{catalog.schemas} has no schema of {table.name}: {error}",
            remedy="run: sluice generate",
        ) from error


def _module(catalog: Catalog, name: str) -> ModuleType:
    full = f"{catalog.schemas}.{name}"
    start = Disk().located(catalog.models)
    path = folder_of(start) / f"{name}.py" if start else None
    if full in sys.modules or path is None or not path.is_file():
        return importlib.import_module(full)  # it may be in another folder of the package's path
    spec = spec_from_file_location(full, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[full] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full]
        raise
    return module
