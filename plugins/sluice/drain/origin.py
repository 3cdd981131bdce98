"""The origin of events and the upper bound of their positions.

The position of an event that was read is at or below the end of PostgreSQL's WAL, queried after
the read. A position beyond it is forged or corrupt, and would override every later change (ADR 24).
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
        server: system identifier and timeline; LSNs of different servers cannot be compared.
    """

    server: str
    lsn: int


AskEnd = Callable[[], WalEnd | None]


class Horizon:
    """Bounds positions by the end of the WAL, queried only when a position exceeds the known end.

    Positions are unbounded while PostgreSQL does not answer or is another server.

    Args:
        ask: returns the current end of the WAL, or None on a standby; without it positions are
            unbounded.
        server: the server of the positions; empty accepts whichever server answers.
    """

    def __init__(self, ask: AskEnd | None = None, server: str = "") -> None:
        self.server = server
        self._ask, self._end = ask, 0
        self._stale = self._bounded = ask is not None

    def events_read(self) -> None:
        """Note that more events were read: their commits may lie beyond the known end."""
        self._stale = True

    def require(self, lsn: int) -> None:
        """Raise Unfit when the position is beyond the end of the WAL."""
        if lsn <= self._end or not self._bounded:
            return
        if self._stale and self._ask is not None:
            self._refresh(self._ask)
        if lsn > self._end and self._bounded:
            raise Unfit(
                f"metadata.commit_lsn {format_lsn(lsn)} is beyond the end of PostgreSQL's WAL,"
                f" {format_lsn(self._end)}"
            )

    def _refresh(self, ask: AskEnd) -> None:
        self._stale = self._bounded = False
        try:
            end = ask()
        except SluiceError as error:
            return _warn(error.what)
        if end is None:
            return _warn("it is a standby")
        if self.server not in {"", end.server}:
            return _warn(f"positions are from server {self.server}, but {end.server} answers")
        self._bounded, self.server = True, end.server
        self._end = max(self._end, end.lsn)
        return None


def _warn(why: str) -> None:
    log.warning("positions of events are not checked against PostgreSQL's WAL now: %s", why)


UNBOUNDED = Horizon()


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The properties that all events of a chunk share.

    Attributes:
        epoch, base_seq: those of the checkpoint.
        source: the change source; empty for any.
        horizon: bounds the positions of the relay's events.
    """

    epoch: int
    base_seq: int
    source: str = ""
    horizon: Horizon = UNBOUNDED
