"""Reads the dead letters of a table's page."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sluice.catalog import Table
from sluice.errors import SluiceError
from sluice.operate.monitor import Monitor
from sluice.operate.rejected import (
    EndedLetter,
    Message,
    RejectedEvent,
    read_ended,
    read_message,
    read_rejected,
    read_verdicts,
)
from sluice.wiring.drains import decoder_of


def letters_of(
    reading: Monitor, table: Table, offset: int | None, *, answers: bool
) -> dict[str, Any]:
    """Return the letters of the template: open and ended ones, verdicts, the chosen message.

    Without a generated schema nothing is judged, and no message is shown.

    Args:
        offset: of the chosen message; None for none.
        answers: whether ClickHouse answers; else there are none.
    """
    rejected: tuple[RejectedEvent, ...] = ()
    ended: tuple[EndedLetter, ...] = ()
    verdicts: dict[int, str] = {}
    message: Message | None = None
    if answers:
        with suppress(SluiceError):
            rejected = read_rejected(reading.clickhouse, reading.queries, table.name)
            ended = read_ended(reading.clickhouse, reading.queries, table.name)
            if rejected or offset is not None:
                decoder = decoder_of(reading.catalog, table)
                verdicts = read_verdicts(reading.clickhouse, decoder) if rejected else {}
                if offset is not None:
                    message = read_message(reading.clickhouse, decoder, offset)
    judged = [verdicts.get(letter.offset) for letter in rejected]
    return {
        "rejected": rejected,
        "ended": ended,
        "verdicts": verdicts,
        "message": message,
        "letter": offset,
        "accepted": judged.count(""),
        "replayable": "" in judged or None in judged,
    }
