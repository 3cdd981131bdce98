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
    names = [f"{table.name}.{name}" for table in tables for name in hashed(table)]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise no_key(f"{names[0]}{more}")


def hashed(table: Table) -> list[str]:
    """Return the names of a table's columns whose values are hashed with the key."""
    return [column.name for column in table.masked if column.mask == HASH]


def key_fingerprint(settings: PostgresSettings, tables: Iterable[Table]) -> str:
    """Return the fingerprint of the key if a column of these tables is hashed; else empty.

    Raises:
        NeedsPerson: there is no key.
    """
    tables = list(tables)
    require_mask_key(settings, tables)
    if not any(map(hashed, tables)):
        return ""
    return fingerprint(settings.mask_key.get_secret_value())


def require_noted_key(settings: PostgresSettings, tables: Iterable[Table], noted: str) -> None:
    """Require that the key has the noted fingerprint, if a column of these tables is hashed.

    Args:
        noted: see warehouse/masked.py; empty where none is noted.

    Raises:
        NeedsPerson: it is another key, or there is none.
    """
    own = key_fingerprint(settings, tables)
    if not own or noted in {"", own}:
        return
    raise NeedsPerson(
        f"SLUICE_MASK_KEY is another key here (fingerprint {own}) than the one with which masked"
        f" columns are hashed (fingerprint {noted})",
        remedy="set the same key as for the other processes. If you changed it on purpose: set the"
        " new one everywhere, run: sluice init --new-mask-key, then sluice resync of each table"
        " that it names",
    )


def masks_of(settings: PostgresSettings, table: Table) -> Mapping[str, Mask]:
    """Return the masks of a table's columns by name."""
    key = settings.mask_key.get_secret_value()
    return {column.name: mask_of(column.mask, key) for column in table.masked}


def masked_as(settings: PostgresSettings, table: Table) -> str:
    """Return how a table's rows are masked, in a text that changes with the columns and the key."""
    key = settings.mask_key.get_secret_value()
    by = {HASH: f" by key {fingerprint(key)}"}
    return ", ".join(f"{c.name}: {c.mask}{by.get(c.mask, '')}" for c in table.masked)
