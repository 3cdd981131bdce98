"""Reads messages of a topic for people; texts are bounded, whatever a producer sent."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sluice.clients.topic_reader import Bounds, Message, TopicReader, Unreadable
from sluice.errors import WrongUsage
from sluice.events.event import DELETE, INSERT, READ, TRUNCATE, UPDATE
from sluice.operate.json_fields import json_fields

EVENT, JSON, OTHER, TOMBSTONE, UNREADABLE = "event", "json", "other", "tombstone", "unreadable"
LAST = 5
SHOWN_BYTES = 20_000  # of a value
_KEY_BYTES, _HEADER_BYTES, _HEADERS = 2_000, 500, 20
_DECODED_BYTES = 1 << 20  # a larger value is not examined
_OPERATIONS = frozenset({READ, INSERT, UPDATE, DELETE, TRUNCATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header of a message; `value` is shortened, and None for a null."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownMessage:
    r"""A message, or several that cannot be read.

    Attributes:
        next_offset: the offset after it.
        at: the time that its producer or the broker gave it; None without one.
        kind: `event`, `json` (another object), `other`, `tombstone` (a null value) or `unreadable`.
        operation: of an event; otherwise empty.
        key, value: shortened; bytes that are not UTF-8 as `\xff`; None for a null.
        key_bytes, value_bytes: the whole lengths.
        headers: the first of `header_count`.
        problem: why it cannot be read; otherwise empty.
    """

    offset: int
    next_offset: int
    at: datetime | None = None
    kind: str
    operation: str = ""
    key: str | None = None
    key_bytes: int = 0
    headers: tuple[Header, ...] = ()
    header_count: int = 0
    value: str | None = None
    value_bytes: int = 0
    problem: str = ""

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """Place, such as `payload.price`, and JSON text of each field of a whole object."""
        text = (self.value or "").encode()
        if self.kind not in {EVENT, JSON} or len(text) < self.value_bytes:
            return ()
        return tuple(json_fields(text))

    def without_values(self) -> ShownMessage:
        """The message for those who may not see rows."""
        return replace(self, key=None, headers=(), value=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMessages:
    """Messages of a topic, oldest first, and where all of its messages begin and end."""

    topic: str
    first_offset: int
    end_offset: int
    messages: tuple[ShownMessage, ...]

    def without_values(self) -> TopicMessages:
        """The messages for those who may not see rows."""
        return replace(self, messages=tuple(one.without_values() for one in self.messages))


def read_messages(
    reader: TopicReader,
    topic: str,
    last: int = LAST,
    offset: int | None = None,
    bounds: Bounds | None = None,
) -> TopicMessages:
    """Return the last messages of a topic, or those from an offset on.

    Args:
        last: the most messages.
        offset: that of the first. Default: None, for the last messages.
        bounds: those of the topic where they are known. Default: None, to ask the broker.

    Raises:
        WrongUsage: the topic has no such offset.
        NotReady: the topic does not exist.
    """
    bounds = bounds or reader.bounds(topic)
    first = max(bounds.beginning, bounds.end - last) if offset is None else offset
    if offset is not None and not bounds.beginning <= offset < bounds.end:
        raise WrongUsage(f"{topic} has no offset {offset}: {_extent(*bounds)}")
    end = min(bounds.end, first + last)
    read = reader.messages(topic, first, end) if first < end else iter(())
    return TopicMessages(
        topic=topic,
        first_offset=bounds.beginning,
        end_offset=bounds.end,
        messages=tuple(map(shown, read)),
    )


def _extent(beginning: int, end: int) -> str:
    return f"it has {beginning} to {end - 1}" if beginning < end else "it has no messages"


def shown(message: Message | Unreadable) -> ShownMessage:
    """Return a message as it is shown."""
    if isinstance(message, Unreadable):
        return ShownMessage(
            offset=message.offset,
            next_offset=message.next_offset,
            kind=UNREADABLE,
            problem=message.reason,
        )
    kind, operation = _classified(message.value)
    return ShownMessage(
        offset=message.offset,
        next_offset=message.offset + 1,
        at=message.at,
        kind=kind,
        operation=operation,
        key=_text(message.key, _KEY_BYTES),
        key_bytes=len(message.key or b""),
        headers=tuple(
            Header(name=name[:_HEADER_BYTES], value=_text(value, _HEADER_BYTES))
            for name, value in message.headers[:_HEADERS]
        ),
        header_count=len(message.headers),
        value=_text(message.value, SHOWN_BYTES),
        value_bytes=len(message.value or b""),
    )


def _classified(value: bytes | None) -> tuple[str, str]:
    """Return a value's kind, and the operation of an event."""
    if value is None:
        return TOMBSTONE, ""
    fields: Mapping[str, str] = dict(json_fields(value)) if len(value) <= _DECODED_BYTES else {}
    operation = fields.get("metadata.operation", "").strip('"')
    if operation in _OPERATIONS:
        return EVENT, operation
    return (JSON if fields else OTHER), ""


def _text(raw: bytes | None, most: int) -> str | None:
    """Return the text of the first bytes; a character that they cut is left out."""
    if raw is None:
        return None
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    return decoder.decode(raw[:most], final=len(raw) <= most)
