"""Recovery: a new slot where the old one is of no use, and everything as it is at its point.

What was lost between the two nobody knows. So each table is compared with PostgreSQL as of the
point where the new slot begins, and what differs is read again in the same snapshot. When all of it
is drained, the slot is there. Killed before, recovery starts again with another slot; what it
brought is equal by then and is not read twice. Redpanda Connect goes on from such a slot as well.
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

# Errors of a relay's preparation that a new slot mends.
MENDED = (SlotMissing, SlotLost, SlotRecreated, SourceChanged, PublicationIncomplete)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Brings tables back after changes were lost.

    Attributes:
        drained: drains a table to its topic's end, whatever the topic lacks.
        raise_epoch: of a table's positions.
        by_offset: whether positions are Redpanda Connect's, which begin anew with a topic.
        replacing: opens a new slot's snapshot; the slot is there when the context ends.
        compare, repair: in a snapshot.
    """

    drained: Callable[[Table], None]
    raise_epoch: Callable[[Table], None]
    by_offset: bool
    replacing: Callable[[], AbstractContextManager[ExactSnapshot]]
    compare: Callable[[ExactSnapshot], DeepCheck]
    repair: Callable[[ExactSnapshot], Repair]

    def run(self, tables: Sequence[Table], fault: Exception, outcomes: Outcomes) -> Iterator[str]:
        """Recover from what the relay's preparation raised; what was done, a line each.

        A table that cannot be brought back is left to `outcomes`, and what to do for it later: the
        slot that it shares with the others begins all the same.

        Raises:
            SluiceError: positions begin anew, and a table is not drained up to where they do. With
                a new slot its older events would win over newer ones.
        """
        # LSNs of another server, or offsets of another topic, do not go on where they were.
        anew = self.by_offset or isinstance(fault, SourceChanged)
        for table in tables:
            with outcomes.of(table.name):
                self.drained(table)
                if anew:
                    self.raise_epoch(table)
        if anew:
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
            again = f"sluice resync {name}"
            if again not in str(error):
                error.remedy = f"{error.remedy or 'remove the cause'}; then run: {again}"
