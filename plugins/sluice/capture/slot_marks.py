"""The slot's mark on the broker, noted before PostgreSQL is told.

After a crash of the server the slot's position is all that tells it from another one of its name:
see slot.prepare. So no position may be told that is not on the broker. Between the two lie some
milliseconds, in which the relay reads on.
"""

from __future__ import annotations

import threading

from sluice.clients.topics import SlotMark, Topics


class Marks:
    """The mark of one session with PostgreSQL.

    Args:
        confirmed: what the slot has confirmed; that can be told again without a note. None where
            a snapshot makes the slot.

    Attributes:
        begun: the slot is there. What the server counts before is of another one.
        noted: how far PostgreSQL may be told.
        wanted: how far it is to be told; the relay's own thread writes it.
    """

    def __init__(self, topics: Topics, slot: str, confirmed: int | None) -> None:
        self.begun = confirmed is not None
        self.noted = self.wanted = confirmed or 0
        self._topics, self._slot = topics, slot
        self._counts: SlotMark | None = None
        self._lock = threading.Lock()

    def note(self) -> None:
        """Note what is wanted, once the server's counts of the slot are known."""
        with self._lock:
            if self._counts is not None and self.wanted > self.noted:
                self._note(self._counts._replace(wal=self.wanted))

    def count(self, mark: SlotMark) -> None:
        """Note what the server counts of the slot, and how far its WAL reached."""
        with self._lock:
            self._counts = mark
            self._note(mark._replace(wal=max(mark.wal, self.noted, self.wanted)))

    def begin(self) -> None:
        """The snapshot's slot is there, of which nothing is noted or counted."""
        with self._lock:
            self.noted, self.begun = 0, True

    def _note(self, mark: SlotMark) -> None:
        self._topics.note_mark(self._slot, mark)
        self.noted = mark.wal
