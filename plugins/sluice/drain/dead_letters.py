"""Selects, replays and dismisses dead letters.

A replayed event keeps its original position, so newer changes win and a second replay changes
nothing. Replayed, resolved (see resolution.py) and dismissed dead letters are kept with their
state and no longer count as open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from typing import Any

from sluice.clients.clickhouse import ClickHouse
from sluice.drain.decoder import Decoder
from sluice.drain.drain import Drain
from sluice.drain.letters import is_cut
from sluice.errors import WrongUsage
from sluice.events.event import Record
from sluice.execution.contention import until_done

_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|!=|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_TEXTS, _ORDERED = ("reason", "key", "value", "schema_version"), ("offset", "rejected_at")
_SIGNS = {
    **dict.fromkeys(_TEXTS, ("=", "!=", "~")),
    **dict.fromkeys(_ORDERED, (">=", "<=", "!=", "=", ">", "<")),
}
_BATCH = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A rejected event.

    Attributes:
        state: `open`, `resolved`, `replayed` or `dismissed`.
        broker_epoch: the broker incarnation that `offset` belongs to.
        epoch: the epoch of positions at the time of rejection.
        schema_version: the version of the schema that rejected the event.
        size, sha256: bytes and hash of the whole value; only head and tail of a large one are kept.
        replayed_by: who replayed it.
    """

    source_table: str
    broker_epoch: str
    epoch: int
    offset: int
    key: bytes
    value: bytes
    reason: str
    schema_version: str
    rejected_at: datetime
    state: str
    replayed_at: datetime | None
    resolved_at: datetime | None
    dismissed_at: datetime | None
    size: int = 0
    sha256: str = ""
    replayed_by: str = ""

    @property
    def whole(self) -> bool:
        """Whether the complete value is kept."""
        return self.size <= len(self.value)

    @property
    def left(self) -> str:
        """Say what is kept of a value that is not whole."""
        if is_cut(self.value):
            return f"only head and tail of its {self.size} bytes are kept"
        return f"its {self.size} bytes are older than SLUICE_DEAD_LETTER_DAYS and were deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition on dead letters: SQL text with `{p:...}` in place of the value."""

    text: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """The result of a replay of one table's dead letters.

    Attributes:
        rejected: offset and reason of each event that is still invalid.
    """

    table: str
    replayed: int
    rejected: tuple[tuple[int, str], ...]

    def sentence(self) -> str:
        """Return the result as one line."""
        text = f"{self.table}: {self.replayed} dead letters replayed"
        if not self.rejected:
            return text
        offset, reason = self.rejected[0]
        return f"{text}, {len(self.rejected)} still invalid, first at offset {offset}: {reason}"


def parse_condition(text: str) -> Condition:
    """Parse a condition: `offset>=100`, `reason~price` (contains), `rejected_at<2026-01-31`.

    Raises:
        WrongUsage: the text is not a condition.
    """
    match = _CONDITION.fullmatch(text)
    name, sign, value = match.groups() if match else ("", "", "")
    if sign not in _SIGNS.get(name, ()):
        raise WrongUsage(
            f"{text!r} is not a condition on dead letters",
            remedy=f"{', '.join(_ORDERED)} take = != < <= > >=; {', '.join(_TEXTS)} take = != and"
            " ~ (contains)",
        )
    try:
        if name == "offset":
            return Condition(text=f"offset {sign} {{p:UInt64}}", value=_offset(value))
        if name == "rejected_at":
            return Condition(
                text=f"rejected_at {sign} fromUnixTimestamp64Milli({{p:Int64}})",
                value=_milliseconds(value),
            )
    except ValueError as error:
        raise WrongUsage(f"{text!r}: {error}") from None
    if sign == "~":
        return Condition(text=f"positionCaseInsensitive({name}, {{p:String}}) > 0", value=value)
    return Condition(text=f"{name} {sign} {{p:String}}", value=value)


def _offset(text: str) -> int:
    offset = int(text)
    if not 0 <= offset < 1 << 63:
        raise ValueError("an offset is a number from 0")
    return offset


def _milliseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(aware.timestamp() * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    """Reads and marks the dead letters in ClickHouse."""

    clickhouse: ClickHouse

    def newest(
        self, table: str, conditions: Sequence[Condition], *, every: bool, limit: int
    ) -> list[DeadLetter]:
        """Return the newest dead letters that meet all conditions.

        Args:
            table: the source table; empty for all tables.
            every: whether to include those that are not open.
        """
        open_only = [] if every else [_OPEN]
        order = "rejected_at DESC, source_table, offset DESC"
        return self._select(table, [*open_only, *conditions], order, limit)

    def open(self, table: str, conditions: Sequence[Condition]) -> Iterator[list[DeadLetter]]:
        """Yield batches of a table's open dead letters that meet all conditions, by position."""
        last: DeadLetter | None = None
        while True:
            after = [] if last is None else [_after(last)]
            batch = self._select(
                table, [_OPEN, *after, *conditions], "broker_epoch, offset", _BATCH
            )
            if not batch:
                return
            yield batch
            last = batch[-1]

    def mark(self, letters: Sequence[DeadLetter], state: str = "replayed") -> None:
        """Mark dead letters of one table and one broker epoch as replayed or dismissed.

        A replay is stored with its person; `cdc.dead_letter_dismissals` has that of a dismissal.
        """
        person = ", {person:String} AS replayed_by" if state == "replayed" else ""
        if letters:
            self.clickhouse.execute(
                f"INSERT INTO cdc.dead_letters SELECT * REPLACE (now64(3) AS {state}_at{person})"
                " FROM cdc.dead_letters FINAL WHERE source_table = {table:String}"
                " AND broker_epoch = {broker_epoch:String} AND offset IN {offsets:Array(UInt64)}",
                table=letters[0].source_table,
                broker_epoch=letters[0].broker_epoch,
                offsets=[letter.offset for letter in letters],
                person=self.clickhouse.person,
            )

    def dismiss(self, table: str, conditions: Sequence[Condition], *, reason: str) -> int:
        """Dismiss the open dead letters of a table that meet all conditions; return their number.

        Person and reason are recorded in `cdc.dead_letter_dismissals` before the mark is set.
        """
        dismissed = 0
        for batch in self.open(table, conditions):
            self.clickhouse.insert(
                "cdc.dead_letter_dismissals",
                [
                    "source_table",
                    "broker_epoch",
                    "offset",
                    "dismissed_by",
                    "reason",
                    "rejected_for",
                ],
                [
                    [letter.source_table for letter in batch],
                    [letter.broker_epoch for letter in batch],
                    [letter.offset for letter in batch],
                    [self.clickhouse.person] * len(batch),
                    [reason] * len(batch),
                    [letter.reason for letter in batch],
                ],
            )
            for _, group in groupby(batch, lambda letter: letter.broker_epoch):
                self.mark(list(group), "dismissed")
            dismissed += len(batch)
        return dismissed

    def _select(
        self, table: str, conditions: Sequence[Condition], order: str, limit: int
    ) -> list[DeadLetter]:
        texts = ["{table:String} IN ('', source_table)"]
        values: dict[str, Any] = {"table": table, "limit": limit}
        for at, condition in enumerate(conditions):
            texts.append(condition.text.replace("{p:", f"{{p{at}:"))
            values[f"p{at}"] = condition.value
        rows = self.clickhouse.execute(
            "SELECT source_table, broker_epoch, epoch, offset, hex(key), hex(value), reason,"
            " schema_version, rejected_at, state, replayed_at, resolved_at, dismissed_at, size,"
            " sha256, replayed_by"
            " FROM cdc.dead_letters FINAL"
            f" WHERE {' AND '.join(texts)} ORDER BY {order} LIMIT {{limit:UInt32}}",
            **values,
        )
        return [_letter(row) for row in rows]


_OPEN = Condition(text="state = {p:String}", value="open")


def _after(letter: DeadLetter) -> Condition:
    text = f"(broker_epoch, offset) > ({{p:String}}, {letter.offset})"
    return Condition(text=text, value=letter.broker_epoch)


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    table, broker_epoch, epoch, offset, key, value, reason, schema, rejected, state, *ended = row
    replayed, resolved, dismissed, size, sha256, replayed_by = ended
    return DeadLetter(
        source_table=table,
        broker_epoch=broker_epoch,
        epoch=epoch,
        offset=offset,
        key=bytes.fromhex(key),
        value=bytes.fromhex(value),
        reason=reason,
        schema_version=schema,
        rejected_at=rejected,
        state=state,
        replayed_at=replayed,
        resolved_at=resolved,
        dismissed_at=dismissed,
        size=size,
        sha256=sha256,
        replayed_by=replayed_by,
    )


def replay(
    letters: DeadLetters, drain: Drain, decoder: Decoder, conditions: Sequence[Condition]
) -> ReplayReport:
    """Replay a table's open dead letters, and mark those that its schema accepts now.

    Raises:
        StaleCheckpoint: other drains kept advancing the table; nothing is lost.
    """
    replayed, rejected = 0, []
    for batch in letters.open(decoder.table.name, conditions):
        for (_, epoch), group in groupby(batch, lambda letter: (letter.broker_epoch, letter.epoch)):
            chosen = list(group)
            invalid = _replay_group(drain, decoder, chosen, epoch)
            letters.mark([letter for letter in chosen if letter.offset not in invalid])
            replayed += len(chosen) - len(invalid)
            rejected += sorted(invalid.items())
    return ReplayReport(table=decoder.table.name, replayed=replayed, rejected=tuple(rejected))


def _replay_group(
    drain: Drain, decoder: Decoder, letters: Sequence[DeadLetter], epoch: int
) -> dict[int, str]:
    """Replay dead letters of one epoch; return offset -> reason of those still invalid."""
    records = [
        Record(offset=letter.offset, key=letter.key, value=letter.value)
        for letter in letters
        if letter.whole
    ]
    rejects = until_done(lambda: drain.replay(decoder, records, epoch)) if records else []
    cut = {
        letter.offset: f"{letter.left}; run: sluice resync {decoder.table.name}"
        for letter in letters
        if not letter.whole
    }
    return {**cut, **{reject.record.offset: reject.reason for reject in rejects}}
