"""Bounds the size of rejected records that are kept, with size and hash of the whole value.

A message of a few kilobytes can decompress to a hundred megabytes, which no topic accepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from sluice.events.event import Record

# Below a broker's default limit of a message, 1 MiB, with room for the headers.
MOST_BYTES = 900_000
_MOST_KEY_BYTES = 65_536
_END_BYTES = 4_096
_CUT = b" ... "


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The kept part of a record.

    Attributes:
        key, value: complete, or head and tail where they are too large.
        size, sha256: bytes and hash of the complete value.
    """

    key: bytes | None
    value: bytes | None
    size: int
    sha256: str


def kept(record: Record) -> Kept:
    """Return the part of a record to keep."""
    value = record.value or b""
    return Kept(
        key=record.key and _cut(record.key, _MOST_KEY_BYTES),
        value=record.value and _cut(record.value, MOST_BYTES),
        size=len(value),
        sha256=sha256(value).hexdigest(),
    )


def is_cut(value: bytes) -> bool:
    """Whether it is the head and tail of a large value."""
    return len(value) == 2 * _END_BYTES + len(_CUT)


def _cut(text: bytes, most: int) -> bytes:
    return text if len(text) <= most else text[:_END_BYTES] + _CUT + text[-_END_BYTES:]
