"""The store of drains that run side by side in threads of one process.

Rows are inserted table by table. Checkpoints that wait at the same time are written by one insert,
and reports by one insert at the end, so that many small tables do not make many small parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock

from sluice.clients.clickhouse import ClickHouse
from sluice.drain.clickhouse_store import ClickHouseStore, stale
from sluice.drain.ports import Checkpoint, DrainReport


class Books:
    """Writes checkpoints and reports for several threads, on a session of its own."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._store, self._turn = ClickHouseStore(clickhouse), Lock()
        self._waiting: deque[tuple[Checkpoint, Future[None]]] = deque()
        self._reports: list[DrainReport] = []

    def advance(self, checkpoint: Checkpoint) -> None:
        """See ports.StateStore; writes the checkpoints of all waiting threads."""
        written: Future[None] = Future()
        self._waiting.append((checkpoint, written))
        with self._turn:
            if not written.done():
                self._write()
        written.result()

    def _write(self) -> None:
        together: list[tuple[Checkpoint, Future[None]]] = []
        while self._waiting:
            together.append(self._waiting.popleft())
        try:
            refused = self._store.advance_all([checkpoint for checkpoint, _ in together])
        except BaseException as error:
            for _, written in together:
                written.set_exception(error)
            raise
        for checkpoint, written in together:
            if checkpoint in refused:
                written.set_exception(stale(checkpoint))
            else:
                written.set_result(None)

    def record(self, reports: Sequence[DrainReport]) -> None:
        """See ports.StateStore; `flush` writes them."""
        self._reports += reports

    def flush(self) -> None:
        """Write the reports."""
        self._store.record(self._reports)
        self._reports = []


class SideBySideStore(ClickHouseStore):
    """A store that leaves checkpoints and reports to the books that it shares with others."""

    def __init__(self, clickhouse: ClickHouse, books: Books) -> None:
        super().__init__(clickhouse)
        self._books = books

    def advance(self, checkpoint: Checkpoint) -> None:
        """See ports.StateStore."""
        self._books.advance(checkpoint)

    def record(self, reports: Sequence[DrainReport]) -> None:
        """See ports.StateStore."""
        self._books.record(reports)
