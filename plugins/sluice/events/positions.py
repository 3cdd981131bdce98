"""Where a change stands in the total order of its table.

The record LSN of a row is no order: a delete and re-insert of one key by two transactions can
give the row that is true at the end the smaller LSN, and rows of one COPY share an LSN. The
commit LSN with the ordinal inside the transaction is one, and replaying a change gives it the
same position again. That is what makes every write of the pipeline idempotent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LSN = re.compile(r"[0-9A-F]{1,8}/[0-9A-F]{1,8}")
_EPOCH_SHIFT = 112
_MAJOR_SHIFT = 48
MOST_ORDINAL = (1 << _MAJOR_SHIFT) - 1
MOST_EPOCH = (1 << 16) - 1


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """A point in a table's change stream.

    Attributes:
        epoch: 0 to 2**16 - 1; goes up when older positions stop being comparable (failover,
            another change source).
        major: 0 to 2**64 - 1; the commit LSN (relay) or the topic offset (Redpanda Connect).
        minor: 0 to 2**48 - 1; the ordinal of the change inside its transaction.
    """

    epoch: int
    major: int
    minor: int

    @property
    def version(self) -> int:
        """The position as one UInt128, in the same order; ClickHouse's `_version`."""
        return pack(self.epoch, self.major, self.minor)


def pack(epoch: int, major: int, minor: int) -> int:
    """`epoch << 112 | major << 48 | minor`; the parts must be in range (see Position)."""
    return epoch << _EPOCH_SHIFT | major << _MAJOR_SHIFT | minor


def before(epoch: int, offset: int, ordinal: int) -> int:
    """A version above every event before this offset and below it and all that follow.

    Args:
        ordinal: 0 or 1; 1 wins over 0.

    Raises:
        ValueError: nothing can stand there.
    """
    version = pack(epoch, offset, 0) - 2 + ordinal
    if offset < 0 or ordinal not in {0, 1} or version < 0:
        raise ValueError(f"no position before offset {offset} of epoch {epoch}")
    return version


def unpack(version: int) -> Position:
    """The position of a `_version`."""
    return Position(
        epoch=version >> _EPOCH_SHIFT,
        major=version >> _MAJOR_SHIFT & (1 << 64) - 1,
        minor=version & MOST_ORDINAL,
    )


def parse_lsn(text: str) -> int:
    """Postgres' `X/Y` as an integer; ValueError where PostgreSQL writes no LSN so."""
    if not _LSN.fullmatch(text):
        raise ValueError(f"not an LSN as PostgreSQL writes it: {text[:40]!r}")
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    """An integer as Postgres' `X/Y`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def beyond(epoch: int, lsn: int) -> int:
    """A version that no change near this point of the WAL has: a terabyte ahead of it."""
    return pack(epoch, min(lsn + (1 << 40), (1 << 64) - 1), 0)
