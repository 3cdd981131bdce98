"""Reads dead letters for people: the list, a whole message with what is wrong in it, the verdict.

The verdict is what the models say of the message now. A replay stores what they accept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sluice.clients.clickhouse import ClickHouse
from sluice.drain.dead_letters import Condition, DeadLetter, DeadLetters, parse_condition
from sluice.drain.decoder import Decoder
from sluice.events.event import Record
from sluice.operate.json_fields import json_fields

LISTED, ENDED = 50, 20
_JUDGED_BYTES = 20_000  # messages that are judged in the list; a larger one on its own
_LONGEST = 20_000  # characters of a field, or of a message that is no JSON object


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedEvent:
    """A dead letter.

    Attributes:
        key, value, reason: shortened.
        value_bytes: the full length of the value.
    """

    table: str
    offset: int
    rejected_at: datetime
    key: str
    value: str
    value_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedLetter:
    """A dead letter that is no longer open.

    Attributes:
        state: `replayed`, `resolved` or `dismissed`.
        ended_by: who replayed or dismissed it; empty where nobody did or it is not recorded.
        dismissed_for: the reason of a dismissal.
    """

    offset: int
    state: str
    ended_at: datetime
    ended_by: str
    dismissed_for: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of a message.

    Attributes:
        place: such as `payload.price`.
        value: as JSON, shortened; None where the field is missing.
        postgres_type: of a column of the models; otherwise empty.
        wrong: whether the reason names it.
    """

    place: str
    value: str | None
    postgres_type: str
    wrong: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A dead letter with its whole message.

    Attributes:
        fields: those of a JSON object, the wrong ones first, metadata last; empty for other
            messages.
        text: of other messages, shortened.
        refusal: why it is still invalid; empty where the models accept it now.
    """

    letter: DeadLetter
    fields: tuple[Field, ...]
    text: str
    refusal: str


def read_rejected(
    clickhouse: ClickHouse, queries: Mapping[str, str], table: str = ""
) -> tuple[RejectedEvent, ...]:
    """Return the newest open dead letters of a table, or of all tables."""
    rows = clickhouse.execute(queries["rejected"], table=table, limit=LISTED)
    names = RejectedEvent.__slots__
    return tuple(RejectedEvent(**dict(zip(names, row, strict=True))) for row in rows)


def read_ended(
    clickhouse: ClickHouse, queries: Mapping[str, str], table: str
) -> tuple[EndedLetter, ...]:
    """Return the dead letters of a table that ended last."""
    rows = clickhouse.execute(queries["ended_letters"], table=table, limit=ENDED)
    return tuple(EndedLetter(**dict(zip(EndedLetter.__slots__, row, strict=True))) for row in rows)


def read_verdicts(clickhouse: ClickHouse, decoder: Decoder) -> dict[int, str]:
    """Return offset -> why it is still invalid, or an empty text, of the newest open letters.

    Large messages are left out.
    """
    small = Condition(text="length(value) <= {p:UInt32}", value=_JUDGED_BYTES)
    letters = DeadLetters(clickhouse=clickhouse).newest(
        decoder.table.name, [small], every=False, limit=LISTED
    )
    return {letter.offset: _refusal(decoder, letter) for letter in letters}


def read_message(clickhouse: ClickHouse, decoder: Decoder, offset: int) -> Message | None:
    """Return the newest dead letter of the decoder's table with this offset; None without one."""
    at = [parse_condition(f"offset={offset}")]
    letters = DeadLetters(clickhouse=clickhouse).newest(decoder.table.name, at, every=True, limit=1)
    return message_of(decoder, letters[0]) if letters else None


def message_of(decoder: Decoder, letter: DeadLetter) -> Message:
    """Return a dead letter with its message in fields."""
    fields = tuple(sorted(_fields(decoder, letter), key=_order))
    text = "" if fields else _text(letter.value)
    return Message(letter=letter, fields=fields, text=text, refusal=_refusal(decoder, letter))


def _order(field: Field) -> tuple[bool, bool]:
    return not field.wrong, field.place.startswith("metadata")


def _refusal(decoder: Decoder, letter: DeadLetter) -> str:
    if not letter.whole:
        return letter.left
    record = Record(offset=letter.offset, key=letter.key, value=letter.value)
    rejects = decoder.decode([record], epoch=letter.epoch, base_seq=0).rejects
    return rejects[0].reason if rejects else ""


def _fields(decoder: Decoder, letter: DeadLetter) -> Iterator[Field]:
    """Yield the fields of a message, and columns that the reason says are missing."""
    values = {place: text[:_LONGEST] for place, text in json_fields(letter.value)}
    types = {f"payload.{column.name}": column.postgres_type for column in decoder.table.columns}
    wrong = _named(letter.reason, {**types, **values}) if values else set()
    for place in dict.fromkeys([*values, *wrong]):
        column = place.replace("before.", "payload.", 1)
        yield Field(
            place=place,
            value=values.get(place),
            postgres_type=types.get(column, ""),
            wrong=place in wrong,
        )


def _named(reason: str, places: Collection[str]) -> set[str]:
    """Return the places that the reasons begin with; of several, the longest."""
    named = set()
    for one in reason.split("; "):
        begins = [place for place in places if one.startswith((f"{place}:", f"{place} "))]
        named |= {max(begins, key=len)} if begins else set()
    return named


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")[:_LONGEST]
