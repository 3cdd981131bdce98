"""Drains a closed range of a table's topic into its current state, then writes a checkpoint.

Every effect is idempotent: rows carry the version of their change, so a range that is read twice
writes the same rows. Only the checkpoint moves progress, and it is written last. Two concurrent
drains of one table are harmless; the slower one raises StaleCheckpoint.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from sluice.catalog import Table
from sluice.drain.blocks import joined, mark_truncated, renumbered
from sluice.drain.decoder import Decoded, Decoder
from sluice.drain.fast_decoder import Columns
from sluice.drain.letters import kept
from sluice.drain.origin import UNBOUNDED, AskEnd, Horizon
from sluice.drain.partial_rows import Reread, completed
from sluice.drain.poison import Poison
from sluice.drain.ports import Checkpoint, DrainReport, Passed, Standing
from sluice.drain.resolution import resolve
from sluice.drain.resume import Resumption
from sluice.drain.row_form import RowForm
from sluice.errors import NeedsPerson, PoisonedTopic, Refused, SluiceError, WrongUsage
from sluice.events.event import (
    CONNECT,
    DEAD_LETTER_TOPIC,
    RELAY,
    Record,
    Reject,
    Truncated,
    is_row_of,
    place_of,
)
from sluice.events.positions import format_lsn, pack, unpack
from sluice.execution.failpoints import Reached, ignore
from sluice.execution.progress import Pace
from sluice.printable import named

log = logging.getLogger(__name__)

# Failpoints passed to `Drain.reached`, each after the effect it names, in order.
POINTS = (
    "chunk read",
    "rows written",
    "truncated",
    "rejects kept",
    "dead letters published",
    "checkpoint written",
    "offset committed",
    "run recorded",
)
# Seconds between attempts of an insert that ClickHouse refuses: enough for merges and memory of
# other queries, short enough for a task that runs every minute.
_WAITS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
_SMALLEST = 1_000  # rows; an insert of this size or below is not split


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """The result of storing a chunk.

    Attributes:
        unresolved: rows that could not be completed.
        truncated: the version of the newest truncation.
        committed_at: commit time of the newest stored change, ms since 1970; 0 where unknown.
    """

    unresolved: list[Reject]
    truncated: int
    committed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Resumption):
    """Drains tables from a change log into a state store, within limits.

    Attributes:
        reread: reads rows whose event is incomplete; without it such events are dead letters.
        pass_rejects: whether to accept any number of invalid events as dead letters.
        wal_end: returns the end of PostgreSQL's WAL; without it positions have no bound.
        announced: returns the change source for a table whose checkpoint names none.
        reached: called with each of POINTS as it is passed.
    """

    reread: Reread | None = None
    pass_rejects: bool = False
    wal_end: AskEnd | None = None
    announced: Callable[[], str] = lambda: RELAY
    reached: Reached = ignore

    def run(self, decoder: Decoder, standing: Standing | None = None) -> DrainReport:
        """Drain one table until its topic's end or a limit is reached.

        Args:
            standing: the state of the drain, if it was read before. Default: read it now.

        Raises:
            StaleCheckpoint: another drain advanced this table; nothing is lost.
            TopicGap, TopicPartitioned, PoisonedTopic: a person has to decide.
            Unreachable, NotReady: the same call may succeed later.
        """
        table, started = decoder.table, time.monotonic()
        standing = standing or self._standing(table)
        first = checkpoint = self._resume(table, standing)
        horizon = Horizon(self.wal_end, checkpoint.server)
        events = rejected = 0
        caught_up = False
        pace = Pace(
            log,
            f"{table.name}: {{}} events",
            lambda: self.changes.end(table.topic) - first.next_offset,
        )
        with ThreadPoolExecutor(1) as writer, _collector_off():
            writing: Future[tuple[Checkpoint, int]] | None = None
            for records in self._read(table, checkpoint):
                if not records:
                    caught_up = True
                    break
                if not first.source:
                    first = checkpoint = replace(first, source=self.announced())
                _require_masked(table, first.source)
                horizon.events_read()
                decoded = decoder.decode(
                    records,
                    epoch=first.epoch,
                    base_seq=first.base_seq,
                    source=first.source,
                    horizon=horizon,
                )
                if writing is not None:  # one chunk is written while the next is read
                    checkpoint, rejects = writing.result()
                    rejected += rejects
                checkpoint = replace(checkpoint, server=horizon.server)
                writing = writer.submit(self._advance, decoder, checkpoint, records, decoded)
                events += len(records)
                pace.at(events)
                if events >= self.limits.events:
                    break
            if writing is not None:
                checkpoint, rejects = writing.result()
                rejected += rejects
        if caught_up and checkpoint.next_offset < standing.end:
            checkpoint = self._pass_markers(table, checkpoint)
        report = DrainReport(
            table=table.name,
            broker_epoch=checkpoint.broker_epoch,
            events=events,
            rejected=rejected,
            first_offset=first.next_offset,
            next_offset=checkpoint.next_offset,
            seconds=time.monotonic() - started,
            freshness_s=_age(checkpoint.committed_at, first.committed_at),
            caught_up=caught_up,
            waiting=0 if caught_up else self.changes.end(table.topic) - checkpoint.next_offset,
        )
        if events:
            self.store.record([report])
            self.reached("run recorded")
        elif checkpoint.next_offset:  # a drain may have been killed before it committed the offset
            self.changes.commit({table.topic: checkpoint.next_offset})
        if rejected or standing.rejecting:
            resolve(self.store, decoder, checkpoint.truncated)
        return report

    def replay(self, decoder: Decoder, records: Sequence[Record], epoch: int) -> list[Reject]:
        """Store rejected records at their original positions.

        Args:
            records: in the order of their offsets.
            epoch: the epoch of positions when they were rejected.

        Returns:
            The records that are still invalid.

        Raises:
            StaleCheckpoint: a drain advanced this table meanwhile; repeat the call.
        """
        table = decoder.table
        present = self.store.checkpoint(table.name) or Checkpoint(source_table=table.name)
        current = epoch == present.epoch  # records of an earlier epoch may be of another source
        decoded = decoder.decode(
            records,
            epoch=epoch,
            base_seq=0,
            source=present.source if current else "",
            horizon=Horizon(self.wal_end, present.server) if current else UNBOUNDED,
        )
        # Rebuilds have passed the original numbers; only a new one makes them read these rows.
        newest = renumbered(decoded, present.last_seq + 1)
        stored = self._store(decoder, newest, present.truncated)
        if decoded.rows or decoded.changes:
            self.store.advance(
                present.following(base_seq=present.base_seq + 1, truncated=stored.truncated)
            )
        return decoded.rejects + stored.unresolved

    def skip(self, decoder: Decoder, offset: int, person: str, noted: Callable[[str], None]) -> str:
        """Advance past the next record, and keep it as a dead letter.

        Args:
            offset: the record's offset, given by the person who skips it.
            noted: called with a line about the skipped record before the checkpoint moves.

        Returns:
            One line about the skipped record.

        Raises:
            WrongUsage: the next record has another offset, or there is none.
            StaleCheckpoint: a drain advanced this table meanwhile.
        """
        table = decoder.table
        present = self._resume(table)
        passed = self.changes.one(table.topic, present.next_offset)
        if passed is None or offset not in {present.next_offset, passed.record.offset}:
            at = "the topic's end" if passed is None else f"offset {present.next_offset}"
            already = " was drained already" if offset < present.next_offset else ""
            raise WrongUsage(
                f"{table.name}: offset {offset}{already or ' cannot be skipped'}: the drain is"
                f" at {at} of {table.topic}",
                remedy="nothing was skipped",
            )
        line = _skipped(passed, person)
        self._keep_rejects(decoder, present, [Reject(record=passed.record, reason=line)])
        noted(line)
        self.store.advance(present.following(next_offset=passed.next_offset))
        self.changes.commit({table.topic: passed.next_offset})
        return f"{table.name}: {line}"

    def _advance(
        self,
        decoder: Decoder,
        checkpoint: Checkpoint,
        records: Sequence[Record],
        decoded: Decoded,
    ) -> tuple[Checkpoint, int]:
        """Store a chunk, write its checkpoint, commit the offset; return it and the rejects."""
        table = decoder.table
        self.reached("chunk read")
        self._refuse_poison(table, checkpoint.epoch, records, decoded.rejects)
        stored = self._store(decoder, decoded, checkpoint.truncated)
        rejects = decoded.rejects + stored.unresolved
        if rejects:
            self._keep_rejects(decoder, checkpoint, rejects)
        following = checkpoint.following(
            next_offset=records[-1].offset + 1,
            truncated=stored.truncated,
            committed_at=min(max(checkpoint.committed_at, stored.committed_at), _now()),
        )
        self._move_to(table, following)
        return following, len(rejects)

    def _pass_markers(self, table: Table, checkpoint: Checkpoint) -> Checkpoint:
        """Move the checkpoint behind markers at the topic's end; see ports.ChangeLog."""
        end = self.changes.after_markers(table.topic, checkpoint.next_offset)
        if end <= checkpoint.next_offset:
            return checkpoint
        following = checkpoint.following(next_offset=end)
        self._move_to(table, following)
        return following

    def _move_to(self, table: Table, following: Checkpoint) -> None:
        """Write a checkpoint, then commit its offset."""
        self.store.advance(following)
        self.reached("checkpoint written")
        self.changes.commit({table.topic: following.next_offset})
        self.reached("offset committed")

    def _refuse_poison(
        self, table: Table, epoch: int, records: Sequence[Record], rejects: Sequence[Reject]
    ) -> None:
        """Raise PoisonedTopic for a chunk of which too many events are invalid."""
        judge = Poison(store=self.store, limits=self.limits, table=table, epoch=epoch)
        what = judge.found(records, rejects)
        if not what:
            return
        if self.pass_rejects:
            log.warning("%s; they go to the dead letters", what)
            return
        raise PoisonedTopic(
            what,
            remedy="the drain stopped before them. If the models are wrong, run: sluice generate,"
            f" sluice init; otherwise run: sluice drain {table.name} --pass-rejects --until-empty,"
            f" which makes them dead letters, then: sluice resync {table.name}",
        )

    def _keep_rejects(
        self, decoder: Decoder, checkpoint: Checkpoint, rejects: list[Reject]
    ) -> None:
        name = decoder.table.name
        for reject in rejects[:3]:
            log.warning("%s: offset %d rejected: %s", name, reject.record.offset, reject.reason)
        self.store.reject(checkpoint, decoder.schema_version, rejects)
        self.reached("rejects kept")
        try:
            self.changes.publish_dead_letters(name, rejects)
        except SluiceError as error:  # cdc.dead_letters has them
            log.warning("%s: no dead letters sent to %s: %s", name, DEAD_LETTER_TOPIC, error.what)
        self.reached("dead letters published")

    def _store(self, decoder: Decoder, decoded: Decoded, truncated: int) -> _Stored:
        """Write rows and changes.

        Args:
            truncated: the version of the newest truncation before them.
        """
        table = decoder.table
        changes, rejects = completed(decoder, decoded, self.store, self.reread)
        truncations = [change for change in changes if isinstance(change, Truncated)]
        form = RowForm(table)
        rows = [form.stored(change) for change in changes if not isinstance(change, Truncated)]
        columns = joined(decoded.rows, rows)
        if columns:
            mark_truncated(columns, truncated)
            self._append(table, columns)
            self.reached("rows written")
        taken = list[Truncated]()
        for change in truncations:  # after the rows: a truncation deletes exactly the older ones
            if self._in_doubt(table, change, decoded.rejects + rejects):
                continue
            self._patiently(table, partial(self.store.truncate, table, change))
            self.reached("truncated")
            taken.append(change)
        return _Stored(
            unresolved=rejects,
            truncated=max([truncated, *(change.version for change in taken)]),
            committed_at=max(
                [*(columns[-1] if columns else ()), *(change.committed_at for change in taken)],
                default=0,
            ),
        )

    def _in_doubt(self, table: Table, change: Truncated, rejects: Sequence[Reject]) -> bool:
        """Whether a truncation ends a snapshot of which a row could not be stored, or of which rows
        were stored in bulk in an earlier epoch.

        An older row that the snapshot did not send may be the last valid version of a row that
        could not be stored, and must not be deleted (ADR 22). Rows of an earlier epoch are those
        of the snapshot itself.
        """
        end = unpack(change.version)
        if end.minor:
            return False
        place, what = place_of(end.major), ""
        if any(is_row_of(reject.record.value or b"", place) for reject in rejects) or bool(
            self.store.unstored(table.name, place)
        ):
            what = "could not be stored"
        elif end.epoch and self._stored_at(table, pack(end.epoch - 1, end.major, 1)):
            what = "were stored before a new epoch of positions began"
        if what:
            log.warning(
                "%s: some rows of the snapshot of %s %s, so no older rows are deleted; run: sluice"
                " resync %s",
                table.name,
                format_lsn(end.major),
                what,
                table.name,
            )
        return bool(what)

    def _stored_at(self, table: Table, version: int) -> bool:
        return self.store.rows_between(table, version, version) > 0

    def _append(self, table: Table, columns: Columns) -> None:
        """Insert columns, in halves where ClickHouse lacks the memory for all at once."""
        try:
            self._patiently(table, lambda: self.store.append(table, columns))
        except Refused as error:
            rows = len(columns[0])
            if not error.too_large or rows <= _SMALLEST:
                raise
            for half in (slice(rows // 2), slice(rows // 2, None)):
                self._append(table, [column[half] for column in columns])

    def _patiently(self, table: Table, write: Callable[[], None]) -> None:
        """Write, retrying while ClickHouse refuses; an insert that is too large is not retried."""
        for wait in _WAITS:
            try:
                return write()
            except Refused as error:
                if error.too_large:
                    raise
                log.warning("%s: %s; trying again in %.1f s", table.name, error, wait)
                time.sleep(wait)
        return write()


def _require_masked(table: Table, source: str) -> None:
    """Require that the changes of a table with masked columns are masked.

    Raises:
        NeedsPerson: they come from Redpanda Connect, which cannot mask.
    """
    if table.masked and source == CONNECT:
        raise NeedsPerson(
            f"{table.topic} has changes from Redpanda Connect, which does not mask"
            f" {named(column.name for column in table.masked)}",
            remedy="stop it, then run: sluice source relay; see docs/masking.md",
        )


@contextmanager
def _collector_off() -> Iterator[None]:
    """Disable the cycle collector: events contain no cycles, and searching them takes time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _skipped(passed: Passed, person: str) -> str:
    first, last = passed.record.offset, passed.next_offset - 1
    which = f"offset {first} was" if first >= last else f"offsets {first} to {last} were"
    letter = kept(passed.record)
    what = passed.unreadable or f"{letter.size} bytes, sha256 {letter.sha256}"
    return f"{which} skipped by {person}: {what}"


def _age(committed_at: int, before: int) -> float | None:
    """Return the age in seconds of the newest stored change; None where no newer one was stored."""
    return max(0.0, (_now() - committed_at) / 1000) if committed_at > before else None


def _now() -> int:
    """Return milliseconds since 1970; a commit time after it is wrong and would hide delays."""
    return int(time.time() * 1000)
