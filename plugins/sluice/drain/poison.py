"""Judges a chunk's rejects: too many suggest wrong models or a wrong source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sluice.catalog import Table
from sluice.drain.ports import StateStore
from sluice.events.event import TOO_LARGE, Record, Reject, is_read, place_of, snapshot_of
from sluice.events.positions import MOST_VERSION, pack
from sluice.settings import DrainSettings

# Fewer rejects than this become dead letters whatever their share.
_FEW = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison:
    """Judges the rejects of a table's chunks.

    Attributes:
        epoch: the epoch of the records' positions.
    """

    store: StateStore
    limits: DrainSettings
    table: Table
    epoch: int

    def found(self, records: Sequence[Record], rejects: Sequence[Reject]) -> str:
        """Return what is wrong with a chunk and where it begins; empty where rejects are few.

        Rows that are too large do not count; see `_unexpected` for others that do not.
        """
        rejects = [reject for reject in rejects if reject.reason != TOO_LARGE]
        what = self._exceeded(records, rejects)
        if what:
            rejects = self._unexpected(rejects, records[0].offset)
            what = self._exceeded(records, rejects)
        if not what:
            return ""
        first = rejects[0]
        where = f"first at offset {first.record.offset}"
        return f"{self.table.topic}: {what}, {where}: {first.reason}"

    def _exceeded(self, records: Sequence[Record], rejects: Sequence[Reject]) -> str:
        """Return a description of the exceeded limit; empty where none is."""
        if len(rejects) > max(_FEW - 1, len(records) * self.limits.reject_ratio):
            return f"{len(rejects)} of {len(records)} events are invalid"
        if (run := _longest_run(records, rejects)) > self.limits.reject_run:
            return f"{run} events in a row are invalid"
        return ""

    def _unexpected(self, rejects: Sequence[Reject], first: int) -> Sequence[Reject]:
        """Return rejects without those of a resync, and of a snapshot that is mostly stored.

        A resync sends every row that PostgreSQL has, also those rejected before, and reports what
        could not be stored. Of a snapshot in bulk, the topic has only the rows that do not fit.

        Args:
            first: the chunk's first offset.
        """
        if self.store.resyncing(self.table.name):
            return [reject for reject in rejects if not is_read(reject.record.value or b"")]
        snapshots = [snapshot_of(reject.record.value or b"") for reject in rejects]
        stored = {
            lsn
            for lsn, count in Counter(snapshots).items()
            if lsn is not None and self._mostly_stored(lsn, count, first)
        }
        return [reject for reject, lsn in zip(rejects, snapshots, strict=True) if lsn not in stored]

    def _mostly_stored(self, lsn: int, rejected: int, first: int) -> bool:
        """Whether a snapshot's rejects, with these new ones, are few beside rows stored since."""
        # Also newer ones: a killed snapshot is replaced by a later one, and its rows with it.
        stored = self.store.rows_between(self.table, pack(self.epoch, lsn, 1), MOST_VERSION)
        if not stored:
            return False
        # A killed drain may have kept this chunk's own.
        reasons = self.store.unstored(self.table.name, place_of(lsn), below=first)
        rejected += sum(n for why, n in reasons.items() if not why.startswith(TOO_LARGE))
        return rejected <= (stored + rejected) * self.limits.reject_ratio


def _longest_run(records: Sequence[Record], rejects: Sequence[Reject]) -> int:
    """Return the length of the longest run of rejected records."""
    if not rejects:
        return 0
    rejected = {reject.record.offset for reject in rejects}
    runs = groupby(record.offset in rejected for record in records)
    return max(sum(1 for _ in run) for was_rejected, run in runs if was_rejected)
