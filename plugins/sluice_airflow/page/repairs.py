"""The DAGs that the page can run, and the configuration of their runs."""

from __future__ import annotations

import json
from typing import Any

from sluice.catalog import Catalog
from sluice.operate.overview import CheckResult
from sluice.quality.checks import COMPARED

RESYNC, REPLAY, DISMISS = "sluice_resync", "sluice_replay", "sluice_dismiss"
MISSING_ROWS = frozenset({"row_count", "rows", "gap"})  # findings that a resync repairs


def repair(result: CheckResult, catalog: Catalog) -> dict[str, Any]:
    """Return a finding with the configuration of a resync run; None where that does not help."""
    tables = {table.name for table in catalog.tables}
    conf = None
    if result.table in tables and result.check in MISSING_ROWS:
        conf = {"tables": [result.table], "keys": list(result.keys) or None}
        conf |= {"from_key": None, "to_key": None}
    return {
        "finding": result,
        "compared": result.check in COMPARED,
        "conf": conf and json.dumps(conf, indent=2),
    }
