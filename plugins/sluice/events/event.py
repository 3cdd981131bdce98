"""The envelope of a change event, and what a validated change is to the drain.

Every message on `cdc.<table>` has the primary key as a JSON object in its key, and as its value

    {"metadata": {"source": "relay", "table": "orders", "operation": "insert",
                  "lsn": "0/1A2B3C4", "commit_lsn": "0/1A2B4D0", "ordinal": 17,
                  "commit_ts_ms": 1730000000000},
     "payload": {"id": 1, ...}, "before": null}

- operation: `read` (snapshot), `insert`, `update`, `delete`, `truncate`.
- payload: all columns; of a delete the key's columns; of a truncate null. Null also of a row
  that is too large to be a message: the drain makes a dead letter of it, as of what does not fit.
- before: the old key, where the key changed.
- values: integers and floats JSON numbers, NUMERIC a string, timestamps RFC 3339 in UTC,
  booleans JSON, bytea base64, everything else its text; NULL null. json and jsonb are text too,
  because a JSON number such as 1.10 or 1e400 does not come out of a JSON parser as it went in;
  the drain takes them as native JSON as well.
- UNCHANGED stands for a large value that Postgres left out because the update kept it.

Redpanda Connect's envelopes have `"source": "connect"` and neither commit_lsn nor ordinal: their
place is their offset. A resync's rows among them have `fence`, the offset they stand before, and
an ordinal.

A snapshot ends with one `truncate` at (consistent point, 0), below its rows at (consistent
point, 1): what an earlier, unfinished snapshot left and the source no longer has is deleted by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from sluice.events.positions import format_lsn
from sluice.printable import printable

# Postgres text cannot hold NUL, so no real value is ever equal to this.
UNCHANGED = "\x00unchanged"

RELAY, CONNECT = "relay", "connect"
SOURCES = (RELAY, CONNECT)

READ = "read"
_READ_MARK = f'"operation":"{READ}"'
INSERT = "insert"
UPDATE = "update"
DELETE = "delete"
TRUNCATE = "truncate"

# Why such a row is a dead letter.
TOO_LARGE = "the row is too large"

DEAD_LETTER_TOPIC = "cdc.dead_letter"
# What Redpanda Connect could not place: a TRUNCATE, a row that is too large.
CONTROL_TOPIC = "cdc.control"
DRAIN_GROUP = "sluice-drain"


def place_of(lsn: int, fence: int | None = None) -> str:
    """The fields of an envelope that say where it stands, but for the ordinal that comes next.

    Args:
        fence: the offset that a resync's rows stand before, where offsets are the order.
    """
    return f'"commit_lsn":"{format_lsn(lsn)}"' if fence is None else f'"fence":{fence}'


def is_row_of(value: bytes, place: str) -> bool:
    """Whether an envelope is a row of the snapshot or resync of this place.

    No value of a row has these texts in it: JSON escapes its quotes.
    """
    return all(text.encode() in value for text in row_marks(place))


def is_read(value: bytes) -> bool:
    """Whether an envelope is a row of a snapshot or a resync."""
    return _READ_MARK.encode() in value


def row_marks(place: str) -> tuple[str, str]:
    """The texts that an envelope of a row of this place has, and no other; see `is_row_of`."""
    return _READ_MARK, f'{place},"ordinal":1,'


Key = tuple[Any, ...]
# A key's parts in Postgres' text form.
KeyText = tuple[str, ...]


class Record(NamedTuple):
    """A message as it lies on the topic; `offset` is its place in the one partition.

    A tuple, because one is made for every event: a frozen dataclass takes three times as long.
    """

    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A validated change, its values as the warehouse stores them.

    Attributes:
        version: the packed Position.
        seq: the change's number in the table, growing by arrival.
        committed_at: milliseconds since 1970.
    """

    version: int
    seq: int
    committed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FullRow(Change):
    """The row as it is after the change, every column in catalog order."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialRow(Change):
    """A row in which UNCHANGED stands where the value is that of the row at `former_key`."""

    values: tuple[Any, ...]
    former_key: Key
    key: Key
    key_text: KeyText
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class OutdatedRow(Change):
    """A row of before the table had all its columns; Postgres has what it lacks."""

    former_key: Key
    key: Key
    key_text: KeyText
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDeleted(Change):
    """The row of this key is gone."""

    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated(Change):
    """Every row below this version is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A record that is not a valid change, and why."""

    record: Record
    reason: str

    def __post_init__(self) -> None:
        """Make the reason printable: it may name what others wrote, and is logged and sent."""
        object.__setattr__(self, "reason", printable(self.reason))
