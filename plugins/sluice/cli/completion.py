"""Values that the shell completes; empty where they cannot be read."""

from __future__ import annotations

import os

from sluice.errors import SluiceError
from sluice.settings import read_models_name, read_settings


def tables(incomplete: str) -> list[str]:
    """Return the source tables that begin with a text."""
    from sluice.catalog import load_catalog

    try:
        catalog = load_catalog(read_models_name(os.environ))
    except SluiceError:
        return []
    return [table.name for table in catalog.tables if table.name.startswith(incomplete)]


def topics(incomplete: str) -> list[str]:
    """Return the topics and source tables that begin with a text."""
    from sluice.catalog import load_catalog
    from sluice.operate.topic_overview import topic_names

    try:
        names = topic_names(load_catalog(read_models_name(os.environ)))
    except SluiceError:
        return []
    return [*tables(incomplete), *(name for name in names if name.startswith(incomplete))]


def logs(incomplete: str) -> list[str]:
    """Return the services with a log whose names begin with a text."""
    try:
        folder = read_settings(os.environ).home / "logs"
    except SluiceError:
        return []
    return sorted(path.stem for path in folder.glob("*.log") if path.stem.startswith(incomplete))
