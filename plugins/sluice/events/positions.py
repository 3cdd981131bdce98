"""Positions: the total order of a table's changes.

The record LSN of a row does not order changes: if two transactions delete and reinsert a key, the
final row can have the smaller LSN, and rows of one COPY share an LSN. The commit LSN with the
ordinal inside the transaction does. A replayed change has the same position again, which makes
every write of the pipeline idempotent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LSN = re.compile(r"[0-9A-F]{1,8}/[0-9A-F]{1,8}")
_EPOCH_SHIFT = 112
_MAJOR_SHIFT = 48
MOST_ORDINAL = (1 << _MAJOR_SHIFT) - 1
MOST_EPOCH = (1 << 16) - 1
MOST_VERSION = (1 << 128) - 1


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """A point in a table's change stream.

    Attributes:
        epoch: 0 to 2**16 - 1; increases when older positions are no longer comparable (failover,
            another change source).
        major: 0 to 2**64 - 1; the commit LSN (relay) or the topic offset (Redpanda Connect).
        minor: 0 to 2**48 - 1; the ordinal of the change inside its transaction.
    """

    epoch: int
    major: int
    minor: int

    @property
    def version(self) -> int:
        """Return the position as one UInt128, in the same order; ClickHouse's `_version`."""
        return pack(self.epoch, self.major, self.minor)


def is_lsn(value: object) -> bool:
    """Whether it is a position of the WAL as PostgreSQL writes it."""
    return isinstance(value, str) and _LSN.fullmatch(value) is not None


def pack(epoch: int, major: int, minor: int) -> int:
    """Return `epoch << 112 | major << 48 | minor`; the parts must be in range (see Position)."""
    return epoch << _EPOCH_SHIFT | major << _MAJOR_SHIFT | minor


def before(epoch: int, offset: int, ordinal: int) -> int:
    """Return a version above all events before this offset and below all others.

    Args:
        ordinal: 0 or 1; 1 is above 0.

    Raises:
        ValueError: there is no such version.
    """
    version = pack(epoch, offset, 0) - 2 + ordinal
    if offset < 0 or ordinal not in {0, 1} or version < 0:
        raise ValueError(f"no position before offset {offset} of epoch {epoch}")
    return version


def unpack(version: int) -> Position:
    """Return the position of a `_version`."""
    return Position(
        epoch=version >> _EPOCH_SHIFT,
        major=version >> _MAJOR_SHIFT & (1 << 64) - 1,
        minor=version & MOST_ORDINAL,
    )


def parse_lsn(text: str) -> int:
    """Convert PostgreSQL's `X/Y` to an integer; ValueError where it is no LSN."""
    if not _LSN.fullmatch(text):
        raise ValueError(f"not an LSN as PostgreSQL writes it: {text[:40]!r}")
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    """Convert an integer to PostgreSQL's `X/Y`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def beyond(epoch: int, lsn: int) -> int:
    """Return a version a terabyte ahead of a point of the WAL, which no change near it has."""
    return pack(epoch, min(lsn + (1 << 40), (1 << 64) - 1), 0)
