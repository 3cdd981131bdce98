"""The slot's mark on the broker, noted before an LSN is confirmed to PostgreSQL.

After a crash of the server only the slot's position distinguishes it from another of its name: see
slot.prepare. So no LSN may be confirmed that is not on the broker. The relay reads on while it is
being noted, for some milliseconds.
"""

from __future__ import annotations

import threading

from sluice.clients.topics import SlotMark, Topics


class Marks:
    """The marks of one session with PostgreSQL.

    Args:
        confirmed: the slot's confirmed LSN, which can be confirmed again without a note. None
            where a snapshot creates the slot.

    Attributes:
        begun: whether the slot exists; earlier counts of the server are of another one.
        noted: LSN up to which PostgreSQL may get confirmations.
        wanted: LSN to note next; written by the relay's own thread.
    """

    def __init__(self, topics: Topics, slot: str, confirmed: int | None) -> None:
        self.begun = confirmed is not None
        self.noted = self.wanted = confirmed or 0
        self._topics, self._slot = topics, slot
        self._counts: SlotMark | None = None
        self._lock = threading.Lock()

    def note(self) -> None:
        """Note the wanted LSN, once the server's counts of the slot are known."""
        with self._lock:
            if self._counts is not None and self.wanted > self.noted:
                self._note(self._counts._replace(wal=self.wanted))

    def count(self, mark: SlotMark) -> None:
        """Note the server's counts of the slot and the end of its WAL."""
        with self._lock:
            self._counts = mark
            self._note(mark._replace(wal=max(mark.wal, self.noted, self.wanted)))

    def begin(self) -> None:
        """Start over with the snapshot's new slot, which has no notes or counts."""
        with self._lock:
            self.noted, self.begun = 0, True

    def _note(self, mark: SlotMark) -> None:
        self._topics.note_mark(self._slot, mark)
        self.noted = mark.wal
