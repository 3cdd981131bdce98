"""Parking: a table whose changes cannot be sent is left out, and the others go on.

The order of effects keeps it safe: a hole is noted in ClickHouse before the first change is left
out, and it is noted to end at a point of the WAL that is read after the first change is sent again.
Where it cannot be noted, the relay ends with the table's fault instead: what is confirmed to
PostgreSQL and neither sent nor noted would be lost without a word.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from sluice.capture import publication as publications
from sluice.capture.standing import require_standing
from sluice.catalog import Catalog, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import HEARTBEAT_PREFIX
from sluice.clients.topics import Topics
from sluice.errors import SluiceError
from sluice.events.positions import parse_lsn
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.settings import Settings
from sluice.warehouse.parked import Hole, Holes

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 60.0


class Parking:
    """The parked tables of one session with PostgreSQL.

    Args:
        read: how far the stream has read.
        added: tables whose first rows are read beside the stream, which sends their changes from
            the session's beginning; see `added`.

    Attributes:
        tables: names of those whose changes are not sent.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        topics: Topics,
        read: Callable[[], int],
        added: Sequence[Table] = (),
    ) -> None:
        self.tables: frozenset[str] = frozenset()
        self._settings, self._catalog, self._topics, self._read = settings, catalog, topics, read
        self._added = {table.name for table in added}
        self._lock = threading.Lock()
        self._holes: dict[str, Hole] = {}
        # Changes that were written before this point may have been made while the fault was there.
        self._until: dict[str, int] = {}
        self._take_over_at: float | None = 0.0  # None when it is done

    def park(self, table: str, since: int, error: SluiceError) -> None:
        """Leave a table's changes out from here on, once that is noted.

        Raises:
            SluiceError: ClickHouse does not take the note, and why; Retryable where it may later.
        """
        with self._lock:
            self._until.pop(table, None)
            if table in self.tables:
                return
            try:
                with self._noted() as holes:
                    self._holes[table] = holes.begin(table, since, error)
            except SluiceError as refused:
                raise type(refused)(
                    f"{error.what}; its changes cannot be left out alone, as ClickHouse does not"
                    f" take the note of it: {refused.what}",
                    remedy=f"{error.remedy or refused.remedy}",
                ) from error
            self.tables |= {table}
        hole = self._holes[table]
        log.error("%s is parked: %s; %s", table, hole.sentence(), hole.repair())

    def look(self, cursor: Any) -> None:
        """Park what can no longer be sent, and send again what can.

        Raises:
            PublicationIncomplete: the publication no longer serves any table.
        """
        relay = self._settings.relay
        noted = self._topics.slot_note(relay.slot)
        if not noted or not noted["consistent_point"]:
            return
        standing = require_standing(cursor, relay, self._catalog, noted)
        cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
        now = parse_lsn(cursor.fetchone()[0])
        for table, error in {**standing.renewed, **standing.unsent}.items():
            if table not in self.tables:
                self.park(table, now, error)
        self._take_over()
        for table in sorted(self.tables - set(standing.unsent)):
            self._until.setdefault(table, now)
            if self._read() >= self._until[table]:
                self._send_again(cursor, table, noted)
        for table in standing.unsent:
            self._until.pop(table, None)
        if self.tables:  # an idle stream reads on
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')", [HEARTBEAT_PREFIX])

    def _take_over(self) -> None:
        """Once a session, go on with holes that an earlier one did not note to have ended."""
        if self._take_over_at is None or time.monotonic() < self._take_over_at:
            return
        self._take_over_at = time.monotonic() + _AGAIN_SECONDS  # a relay may have no way there
        with self._lock, suppress(SluiceError), self._noted() as holes:
            for hole in holes.open():
                if hole.sent is None and hole.table not in self.tables | self._added:
                    self._holes[hole.table] = hole
                    self.tables |= {hole.table}
            self._take_over_at = None

    def added(self, table: str, point: int) -> None:
        """Close the holes of a table whose rows were all read as of a point of this session.

        The stream sends what commits later, unless the table was parked since the session began.
        Where ClickHouse does not answer they stay, for a resync to close.
        """
        with self._lock:
            with suppress(SluiceError), self._noted() as holes:
                for hole in holes.open(table):
                    sent = hole.sent is not None and hole.sent <= point
                    if sent or (hole.sent is None and table not in self.tables):
                        holes.close(hole, point)
            self._added.discard(table)
            self._take_over_at = 0.0

    def _send_again(self, cursor: Any, table: str, noted: dict[str, Any]) -> None:
        """The table's changes are sent from here on, and its place in the publication is noted."""
        found = publications.find(cursor, self._settings.relay, self._catalog)
        if found is None or table not in found.identity["tables"]:
            return
        with self._lock:
            self.tables -= {table}
            # Read after the stream saw that: what commits later was not read before it.
            cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
            sent = parse_lsn(cursor.fetchone()[0])
            with self._noted() as holes:
                holes.end(self._holes[table], sent)
            known = noted.get("publication") or {"oid": found.identity["oid"], "tables": {}}
            place = found.identity["tables"][table]
            noted["publication"] = {**known, "tables": {**known["tables"], table: place}}
            self._topics.note_slot({k: v for k, v in noted.items() if k != "epoch"})
            hole = replace(self._holes.pop(table), sent=sent)
            del self._until[table]
        log.warning("%s is sent again: %s; %s", table, hole.sentence(), hole.repair())

    @contextmanager
    def _noted(self) -> Iterator[Holes]:
        with closing(ClickHouse(self._settings.clickhouse)) as clickhouse:
            yield Holes(clickhouse=clickhouse, queries=read_statements(PIPELINE))
