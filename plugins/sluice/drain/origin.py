"""Where events come from, and how far their positions can reach.

An event that was read is of no later commit of PostgreSQL: its position is at or below
the end of the WAL, asked after the event was read. What lies beyond is forged or broken, and would
win over every change for ever; see ADR 24.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from sluice.data_types.values import Unfit
from sluice.errors import SluiceError
from sluice.events.positions import format_lsn

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalEnd:
    """The end of a server's WAL.

    Attributes:
        server: the system identifier and the timeline; LSNs of two servers cannot be compared.
    """

    server: str
    lsn: int


AskEnd = Callable[[], WalEnd | None]


class Horizon:
    """Bounds positions by the WAL's end, which it asks for only where a position lies beyond.

    Where PostgreSQL does not answer, or is not the server of the positions, nothing is bounded.

    Args:
        ask: gives the WAL's end now, or None where the server has none that bounds events; without
            it nothing is bounded.
        server: the server of the positions; empty where it is the one that answers.
    """

    def __init__(self, ask: AskEnd | None = None, server: str = "") -> None:
        self.server = server
        self._ask, self._end = ask, 0
        self._stale = self._bounded = ask is not None

    def events_read(self) -> None:
        """Note that more events were read: they may be of commits behind the known end."""
        self._stale = True

    def require(self, lsn: int) -> None:
        """Raise Unfit where no event that was read can have this position."""
        if lsn <= self._end or not self._bounded:
            return
        if self._stale and self._ask is not None:
            self._look(self._ask)
        if lsn > self._end and self._bounded:
            raise Unfit(
                f"metadata.commit_lsn {format_lsn(lsn)} is beyond the end of PostgreSQL's WAL,"
                f" {format_lsn(self._end)}"
            )

    def _look(self, ask: AskEnd) -> None:
        self._stale = self._bounded = False
        try:
            end = ask()
        except SluiceError as error:
            return _warn(error.what)
        if end is None:
            return _warn("it is a standby")
        if self.server not in {"", end.server}:
            return _warn(f"positions are of server and timeline {self.server}, not {end.server}")
        self._bounded, self.server = True, end.server
        self._end = max(self._end, end.lsn)
        return None


def _warn(why: str) -> None:
    log.warning("the end of PostgreSQL's WAL bounds no positions of events now: %s", why)


UNBOUNDED = Horizon()


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the events of a chunk have in common.

    Attributes:
        epoch, base_seq: of the checkpoint.
        source: the change source; empty for any.
        horizon: bounds the positions of the relay's events.
    """

    epoch: int
    base_seq: int
    source: str = ""
    horizon: Horizon = UNBOUNDED
