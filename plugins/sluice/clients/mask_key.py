"""The key of masked columns: required where a table has some, and never shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sluice.catalog import Table
from sluice.data_types.masks import HASH, Mask, fingerprint, mask_of
from sluice.errors import NeedsPerson
from sluice.settings import PostgresSettings

_REMEDY = (
    "set SLUICE_MASK_KEY to the same secret for every command, the relay and Airflow, such as of:"
    " openssl rand -hex 32"
)


def no_key(columns: str = "masked columns") -> NeedsPerson:
    """Return the error of a run without the key."""
    return NeedsPerson(f"SLUICE_MASK_KEY is not set, but {columns} are hashed", remedy=_REMEDY)


def require_mask_key(settings: PostgresSettings, tables: Iterable[Table]) -> None:
    """Require the key if a column is hashed.

    Raises:
        NeedsPerson: it is not set.
    """
    if settings.mask_key.get_secret_value():
        return
    hashed = [f"{t.name}.{c.name}" for t in tables for c in t.masked if c.mask == HASH]
    if hashed:
        more = f" and {len(hashed) - 1} more" if len(hashed) > 1 else ""
        raise no_key(f"{hashed[0]}{more}")


def masks_of(settings: PostgresSettings, table: Table) -> Mapping[str, Mask]:
    """Return the masks of a table's columns by name."""
    key = settings.mask_key.get_secret_value()
    return {column.name: mask_of(column.mask, key) for column in table.masked}


def masked_as(settings: PostgresSettings, table: Table) -> str:
    """Return how a table's rows are masked, in a text that changes with the columns and the key."""
    key = settings.mask_key.get_secret_value()
    by = {HASH: f" by key {fingerprint(key)}"}
    return ", ".join(f"{c.name}: {c.mask}{by.get(c.mask, '')}" for c in table.masked)
