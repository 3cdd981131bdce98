"""Recovers from a lost slot: creates a new one and repairs all tables as of its start.

The changes between the two slots are unknown. So each table is compared with PostgreSQL as of the
new slot's start, and rows that differ are read again in the same snapshot. The permanent slot is
created when all of them are drained. An interrupted recovery starts again with another slot, and
skips what is equal by then. Redpanda Connect resumes from such a slot as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sluice.capture.fenced_snapshot import ExactSnapshot
from sluice.catalog import Table
from sluice.errors import (
    PublicationIncomplete,
    SlotLost,
    SlotMissing,
    SlotRecreated,
    SourceChanged,
)
from sluice.execution.outcomes import Outcomes
from sluice.quality.deep_check import DeepCheck
from sluice.repair.repair import DIFF, Repair, forecast

# Errors of a relay's preparation that a new slot fixes.
RECOVERABLE = (SlotMissing, SlotLost, SlotRecreated, SourceChanged, PublicationIncomplete)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Repairs tables after changes were lost.

    Attributes:
        drained: drains a table to its topic's end, skipping gaps.
        raise_epoch: begins a new epoch of a table's positions.
        by_offset: whether positions are Redpanda Connect's offsets, which restart with a topic.
        replacing: opens a new slot's snapshot; creates the permanent slot when the context ends.
        compare, repair: return the deep check and the repair in a snapshot.
    """

    drained: Callable[[Table], None]
    raise_epoch: Callable[[Table], None]
    by_offset: bool
    replacing: Callable[[], AbstractContextManager[ExactSnapshot]]
    compare: Callable[[ExactSnapshot], DeepCheck]
    repair: Callable[[ExactSnapshot], Repair]

    def run(self, tables: Sequence[Table], fault: Exception, outcomes: Outcomes) -> Iterator[str]:
        """Recover from an error of the relay's preparation; yield a line about each table.

        Errors of single tables go to `outcomes`, with a remedy: the slot, which all tables share,
        is created nevertheless.

        Raises:
            SluiceError: positions restart, and a table could not be drained before. With the new
                slot its older events would override newer ones.
        """
        # LSNs of another server, and offsets of a recreated topic, start over.
        restarts = self.by_offset or isinstance(fault, SourceChanged)
        for table in tables:
            with outcomes.of(table.name):
                self.drained(table)
                if restarts:
                    self.raise_epoch(table)
        if restarts:
            outcomes.require()
        sound = outcomes.sound(tables)
        with self.replacing() as snapshot:
            repair = self.repair(snapshot)
            for table, findings in self.compare(snapshot).tables(sound, outcomes):
                with outcomes.of(table.name):
                    report = repair.run(table, findings, DIFF)
                    yield report.sentence() if report else forecast(table, findings)
                    if report:
                        report.require_stored()
        for name, error in outcomes.troubles.items():
            resync = f"sluice resync {name}"
            if resync not in str(error):
                error.remedy = f"{error.remedy or 'remove the cause'}; then run: {resync}"
