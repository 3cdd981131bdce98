"""Fences: points of the WAL that the drain has to pass before tables are compared.

A table has passed a point when the change source has published everything up to it and the drain
then reached the end of the table's topic. So a table that cannot be drained delays no other,
although it holds back the slot, which waits for all tables.
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

_PAUSE = 0.2  # seconds
# The least seconds of a catch-up: time is up, but what is published may only need to be read.
_LEAST = 5.0


class Source(Protocol):
    """PostgreSQL as the source of fences."""

    def slot(self, name: str) -> SlotState:
        """Return the slot's state; raise NotReady when it does not exist."""

    def fence(self, tables: Sequence[Table]) -> Fence:
        """Return a point at or after every commit until now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUp:
    """The result of one drain of all topics.

    Attributes:
        ended: source tables that are drained to an end of their topic.
        troubles: errors by source table or fact that could not be drained or rebuilt.
    """

    ended: frozenset[str]
    troubles: Mapping[str, SluiceError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fences:
    """Drains and rebuilds past points of the WAL.

    Attributes:
        slot: the replication slot's name.
        had_slot: whether the slot existed earlier, so that a missing one was dropped.
        published: returns the LSN up to which the relay has published everything. The slot's
            confirmed LSN says the same where it does not wait for the drain.
        catch_up: drains the tables and rebuilds the facts, for about the given seconds at most.
        seconds: the most time to pass a point. A catch-up that begins late ends 5 s later.
    """

    source: Source
    slot: str
    had_slot: Callable[[], bool]
    published: Callable[[], int]
    catch_up: Callable[[float], CaughtUp]
    seconds: float

    def behind(self, lsn: int, tables: Sequence[Table]) -> dict[str, SluiceError]:
        """Drain until these tables are past the point.

        Returns:
            Errors by table or fact: Lagging for those not in time, and those of failed ones.

        Raises:
            NotReady: there is no replication slot yet.
            Unreachable: a service does not answer.
        """
        try:
            return self._behind(lsn, tables)
        except NotReady:
            if not self.had_slot():
                raise
        try:  # the slot may have been created in between
            return self._behind(lsn, tables)
        except NotReady:
            if self._has_slot():
                raise  # something else is not set up
            what = f"replication slot {self.slot!r} is gone"
            return {table.name: Lagging(what, remedy="run: sluice recover") for table in tables}

    def _behind(self, lsn: int, tables: Sequence[Table]) -> dict[str, SluiceError]:
        deadline, names = time.monotonic() + self.seconds, {table.name for table in tables}
        step = CaughtUp(ended=frozenset(), troubles={})
        while True:
            slot = self.source.slot(self.slot)
            published = slot.confirmed_lsn >= lsn or self.published() >= lsn
            late = slot.wal_status == "lost" or time.monotonic() > deadline
            if published or not late:
                step = self.catch_up(max(_LEAST, deadline - time.monotonic()))
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
