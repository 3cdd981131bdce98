"""The envelope of a change event, and the validated changes that the drain writes.

Every message on `cdc.<table>` has the primary key as a JSON object in its key, and as its value

    {"metadata": {"source": "relay", "table": "orders", "operation": "insert",
                  "lsn": "0/1A2B3C4", "commit_lsn": "0/1A2B4D0", "ordinal": 17,
                  "commit_ts_ms": 1730000000000},
     "payload": {"id": 1, ...}, "before": null}

- operation: `read` (snapshot), `insert`, `update`, `delete`, `truncate`.
- payload: all columns; for a delete the key's columns; for a truncate null. Also null for a row
  that is too large for a message: the drain makes it a dead letter, as every invalid event.
- before: the old key, where the key changed.
- values: integers and floats JSON numbers, NUMERIC a string, timestamps RFC 3339 in UTC,
  booleans JSON, bytea base64, everything else its text; NULL null. json and jsonb are text too,
  because a JSON parser alters numbers such as 1.10 or 1e400; the drain accepts native JSON as well.
- UNCHANGED stands for a large value that PostgreSQL left out because the update kept it.

Redpanda Connect's envelopes have `"source": "connect"` and neither commit_lsn nor ordinal: their
offset is their position. A resync's rows among them have an ordinal and `fence`, the offset that
they precede.

A snapshot ends with one `truncate` at (consistent point, 0), below its rows at (consistent
point, 1). It deletes rows that an earlier, unfinished snapshot left and that the source lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from sluice.events.positions import format_lsn, parse_lsn
from sluice.printable import printable

# PostgreSQL's text cannot contain NUL, so no real value equals this.
UNCHANGED = "\x00unchanged"

RELAY, CONNECT = "relay", "connect"
SOURCES = (RELAY, CONNECT)

READ = "read"
_READ_MARK = f'"operation":"{READ}"'
_READ_PLACE = re.compile(rb'"commit_lsn":"([0-9A-F]{1,8}/[0-9A-F]{1,8})","ordinal":1,')
INSERT = "insert"
UPDATE = "update"
DELETE = "delete"
TRUNCATE = "truncate"

# The reason of such a dead letter.
TOO_LARGE = "the row is too large"

DEAD_LETTER_TOPIC = "cdc.dead_letter"
# Events that Redpanda Connect could not assign to a table: a TRUNCATE, a row that is too large.
CONTROL_TOPIC = "cdc.control"
DRAIN_GROUP = "sluice-drain"


def place_of(lsn: int, fence: int | None = None) -> str:
    """Return the JSON of an envelope's position, without the ordinal that follows.

    Args:
        fence: the offset that a resync's rows precede, where offsets order the changes.
    """
    return f'"commit_lsn":"{format_lsn(lsn)}"' if fence is None else f'"fence":{fence}'


def is_row_of(value: bytes, place: str) -> bool:
    """Whether an envelope is a row of the snapshot or resync at this place.

    No value of a row contains these texts: JSON escapes its quotes.
    """
    return all(text.encode() in value for text in row_marks(place))


def is_read(value: bytes) -> bool:
    """Whether an envelope is a row of a snapshot or a resync."""
    return _READ_MARK.encode() in value


def snapshot_of(value: bytes) -> int | None:
    """Return the LSN of the snapshot of which an envelope is a row; None of other events."""
    place = _READ_PLACE.search(value) if is_read(value) else None
    return parse_lsn(place[1].decode()) if place else None


def row_marks(place: str) -> tuple[str, str]:
    """Return the texts that only envelopes of rows at this place contain; see `is_row_of`."""
    return _READ_MARK, f'{place},"ordinal":1,'


Key = tuple[Any, ...]
# A key's columns in PostgreSQL's text form.
KeyText = tuple[str, ...]


class Record(NamedTuple):
    """A message of a topic; `offset` is its offset in the only partition.

    A tuple, because it is created for every event and a frozen dataclass is slower.
    """

    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A validated change, with values as the warehouse stores them.

    Attributes:
        version: packed Position.
        seq: number of the change in the table, in order of arrival.
        committed_at: commit time, milliseconds since 1970.
    """

    version: int
    seq: int
    committed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FullRow(Change):
    """A row after the change, with every column in catalog order."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialRow(Change):
    """A row in which UNCHANGED stands for the value of the row at `former_key`."""

    values: tuple[Any, ...]
    former_key: Key
    key: Key
    key_text: KeyText
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class OutdatedRow(Change):
    """A row from before the table had all its columns; PostgreSQL has the missing values."""

    former_key: Key
    key: Key
    key_text: KeyText
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDeleted(Change):
    """A deleted row, by its key."""

    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated(Change):
    """A truncation: every row below this version is deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A record that is not a valid change, with the reason."""

    record: Record
    reason: str

    def __post_init__(self) -> None:
        """Make the reason printable: it may contain text from outside, and is logged and sent."""
        object.__setattr__(self, "reason", printable(self.reason))
