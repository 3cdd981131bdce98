"""Parking: a table whose changes cannot be sent is left out, and the others continue.

The order of effects makes it safe. A hole is noted in ClickHouse before the first change is left
out, and its end is an LSN that is read after the first change is sent again. Where it cannot be
noted, the relay stops with the table's error: changes that are confirmed to PostgreSQL and neither
sent nor noted would be lost silently.
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

_RETRY_SECONDS = 60.0


class Parking:
    """The parked tables of one session with PostgreSQL.

    Args:
        read: returns the LSN up to which the stream has read.
        added: tables whose first snapshot runs beside the stream, which sends their changes from
            the beginning of the session; see `added`. Default: none.

    Attributes:
        tables: names of the parked tables.
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
        # Table -> LSN; changes before it may date from before the fault was removed.
        self._until: dict[str, int] = {}
        self._take_over_at: float | None = 0.0  # None once it is done

    def park(self, table: str, since: int, error: SluiceError) -> None:
        """Note a hole, then leave out the table's changes.

        Raises:
            SluiceError: ClickHouse does not accept the note; Retryable where a retry may help.
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
                    f" accept the note of it: {refused.what}",
                    remedy=f"{error.remedy or refused.remedy}",
                ) from error
            self.tables |= {table}
        hole = self._holes[table]
        log.error("%s is parked: %s; %s", table, hole.sentence(), hole.repair())

    def look(self, cursor: Any) -> None:
        """Park tables that can no longer be sent, and resume those that can again.

        Raises:
            PublicationIncomplete: the publication can no longer serve any table.
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
        if self.tables:  # lets an idle stream advance
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')", [HEARTBEAT_PREFIX])

    def _take_over(self) -> None:
        """Take over, once in a session, the holes that earlier sessions left open."""
        if self._take_over_at is None or time.monotonic() < self._take_over_at:
            return
        self._take_over_at = time.monotonic() + _RETRY_SECONDS  # ClickHouse may be unreachable
        with self._lock, suppress(SluiceError), self._noted() as holes:
            for hole in holes.open():
                if hole.sent is None and hole.table not in self.tables | self._added:
                    self._holes[hole.table] = hole
                    self.tables |= {hole.table}
            self._take_over_at = None

    def added(self, table: str, point: int) -> None:
        """Close the holes of a table whose rows were all read as of an LSN of this session.

        The stream sends later commits, unless the table was parked in this session. Where
        ClickHouse does not answer, the holes stay open until a resync.
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
        """Resume a table's changes, note the hole's end and the table's membership."""
        publication = publications.find(cursor, self._settings.relay, self._catalog)
        if publication is None or table not in publication.identity["tables"]:
            return
        with self._lock:
            self.tables -= {table}
            # Read after the stream saw the change of `tables`: it did not leave out later commits.
            cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
            sent = parse_lsn(cursor.fetchone()[0])
            with self._noted() as holes:
                holes.end(self._holes[table], sent)
            known = noted.get("publication") or {"oid": publication.identity["oid"], "tables": {}}
            place = publication.identity["tables"][table]
            noted["publication"] = {**known, "tables": {**known["tables"], table: place}}
            self._topics.note_slot({k: v for k, v in noted.items() if k != "epoch"})
            hole = replace(self._holes.pop(table), sent=sent)
            del self._until[table]
        log.warning("%s is sent again: %s; %s", table, hole.sentence(), hole.repair())

    @contextmanager
    def _noted(self) -> Iterator[Holes]:
        with closing(ClickHouse(self._settings.clickhouse)) as clickhouse:
            yield Holes(clickhouse=clickhouse, queries=read_statements(PIPELINE))
