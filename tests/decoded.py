"""A decoded chunk as changes alone."""

from __future__ import annotations

from sluice.decoding import Decoded
from sluice.events import Change, FullRow


def changes(decoded: Decoded) -> list[Change]:
    """Plain rows as FullRows, then everything else."""
    rows: list[Change] = [
        FullRow(values=tuple(values), version=version, seq=seq, committed_at=committed_at)
        for *values, version, _, seq, committed_at in zip(*decoded.rows, strict=True)
    ]
    return rows + decoded.changes
