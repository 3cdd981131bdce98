"""Fences: points of the WAL that each table's drain is brought past before it is compared.

A table is past a point when the change source has published everything up to it and the drain then
reached the end of the table's topic. So a table that cannot be drained keeps back no other, though
it keeps back the slot, which waits for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice.catalog import Table
from sluice.clients.postgres import Fence, SlotState
from sluice.errors import Lagging, NotReady, SluiceError
from sluice.events.positions import format_lsn

_PAUSE = 0.2


class Source(Protocol):
    """PostgreSQL."""

    def slot(self, name: str) -> SlotState:
        """The slot's state; NotReady when there is none."""

    def fence(self, tables: Sequence[Table]) -> Fence:
        """A point at or after everything that was committed until now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUp:
    """What one look at all topics brought.

    Attributes:
        ended: source tables that are drained to an end of their topic.
        troubles: source table or fact -> why it could not be drained or rebuilt.
    """

    ended: frozenset[str]
    troubles: Mapping[str, SluiceError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fences:
    """Brings drain and facts past points of the WAL.

    Attributes:
        slot: the replication slot's name.
        had_slot: whether there was one, so that one that is not there is gone.
        published: up to where the relay noted that everything is on the topics. Where the slot
            does not wait for the drain, what it confirmed says the same.
        catch_up: drains the tables and rebuilds the facts.
        seconds: how long a point may take to be passed.
    """

    source: Source
    slot: str
    had_slot: Callable[[], bool]
    published: Callable[[], int]
    catch_up: Callable[[], CaughtUp]
    seconds: float

    def behind(self, lsn: int, tables: Sequence[Table]) -> dict[str, SluiceError]:
        """Drain until these tables are past the point.

        Returns:
            Those that are not in time, as Lagging, and tables and facts in trouble; and why.

        Raises:
            NotReady: there is no replication slot yet.
            Unreachable: a service does not answer.
        """
        try:
            return self._behind(lsn, tables)
        except NotReady:
            if not self.had_slot():
                raise
        try:  # it may have been made between the two looks
            return self._behind(lsn, tables)
        except NotReady:
            if self._has_slot():
                raise  # something else is not set up
            gone = f"replication slot {self.slot!r} is gone"
            return {table.name: Lagging(gone, remedy="run: sluice recover") for table in tables}

    def _behind(self, lsn: int, tables: Sequence[Table]) -> dict[str, SluiceError]:
        deadline, names = time.monotonic() + self.seconds, {table.name for table in tables}
        step = CaughtUp(ended=frozenset(), troubles={})
        while True:
            slot = self.source.slot(self.slot)
            published = slot.confirmed_lsn >= lsn or self.published() >= lsn
            late = slot.wal_status == "lost" or time.monotonic() > deadline
            if published or not late:
                step = self.catch_up()
            waiting = names - step.troubles.keys() - (step.ended if published else frozenset())
            if late or (not waiting and (published or names)):
                what = f"changes up to {format_lsn(lsn)} were not drained in {self.seconds:.0f} s"
                remedy = "see: sluice status, sluice logs relay"
                return {**step.troubles, **{n: Lagging(what, remedy=remedy) for n in waiting}}
            time.sleep(_PAUSE)

    def _has_slot(self) -> bool:
        try:
            self.source.slot(self.slot)
        except NotReady:
            return False
        return True
