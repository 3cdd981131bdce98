"""A decoded chunk as changes alone."""

from __future__ import annotations

from sluice.catalog import Table
from sluice.drain.blocks import rows_of
from sluice.drain.decoder import Decoded
from sluice.events.event import Change


def changes(table: Table, decoded: Decoded) -> list[Change]:
    """Plain rows as changes, then everything else."""
    places = [at for at, column in enumerate(table.columns) if column.primary_key]
    keys = set(zip(*(decoded.rows[at] for at in places), strict=True)) if decoded.rows else set()
    return [*rows_of(table, decoded.rows, keys), *decoded.changes]
