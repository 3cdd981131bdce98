"""The relay: prepare, take a snapshot where there is no slot, stream; retry after errors."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from types import FrameType

from sluice.capture import initial_copy as snapshots
from sluice.capture import slot as slots
from sluice.capture.background_call import BackgroundCall
from sluice.capture.bulk import OpenLoads, no_loads
from sluice.capture.duties import Duties, Duty
from sluice.capture.metrics import (
    SNAPSHOT,
    STREAMING,
    WAITING,
    Progress,
    Telemetry,
    served,
)
from sluice.capture.parking import Parking
from sluice.capture.publisher import Publisher
from sluice.capture.slot_marks import Marks
from sluice.capture.stream import Stream
from sluice.catalog import Catalog, Table
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.mask_key import hashed, masks_of, require_mask_key, require_noted_key
from sluice.clients.postgres import HEARTBEAT_PREFIX, PostgresSource
from sluice.clients.topics import Topics
from sluice.errors import Retryable, SluiceError, Unreachable
from sluice.generate.files import topics as topic_names
from sluice.settings import Settings
from sluice.warehouse.masked import noted_key

log = logging.getLogger(__name__)

_BACK_OFF_SECONDS = (1, 2, 5, 10)
_COMMITTED_SECONDS = 0.5
# The relay's duties, and their intervals in seconds.
TOPICS, MARK, HEARTBEAT, PUBLICATION = "topics", "mark", "heartbeat", "publication"
DUTIES = {TOPICS: 1.0, MARK: 0.1, HEARTBEAT: 10.0, PUBLICATION: 5.0}
# One more, of a relay that hashes columns.
KEY, KEY_SECONDS = "key", 60.0


class _Stopped(Exception):
    """The relay was asked to stop."""


class Relay:
    """One relay; `run` blocks until it is stopped or a person has to decide."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        stop: threading.Event,
        snapshot: bool,
        loads: OpenLoads = no_loads,
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._catalog = catalog
        self._stop = stop
        self._loads = loads
        self._topics = Topics(settings.kafka)
        self._progress = Progress()
        self._streamed = False
        self._uncompared = False
        self.duties = Duties(())
        self._published = 0

    def run(self) -> None:
        """Run until stopped; retry after Retryable errors, raise others."""
        metrics, source = self._settings.relay.metrics, PostgresSource(self._settings.postgres)
        if metrics is None:
            return self._run()
        state = partial(source.slot, self._settings.relay.slot)
        with served(Telemetry(self._progress, state), *metrics):
            return self._run()

    def _run(self) -> None:
        failures, logged = 0, ""
        while not self._stop.is_set():
            self._streamed = False
            try:
                self._session()
            except _Stopped:
                return
            except Retryable as error:
                if self._streamed:
                    failures, logged = 0, ""
                self._progress.state, self._progress.reason = WAITING, error.what
                if error.what != logged:
                    log.warning("%s; retrying", "; ".join(str(error).splitlines()))
                    logged = error.what
                self._stop.wait(_BACK_OFF_SECONDS[min(failures, len(_BACK_OFF_SECONDS) - 1)])
                failures += 1

    def _session(self) -> None:
        settings, catalog, topics = self._settings, self._catalog, self._topics
        require_mask_key(settings.postgres, catalog.tables)
        self._compare_key()
        topics.ensure(topic_names(catalog))
        incarnation = topics.incarnation(topic_names(catalog))
        ready = slots.prepare(
            settings.postgres,
            settings.relay,
            catalog,
            topics,
            snapshot=self._snapshot,
            check=self._require_running,
        )
        self._published = self._progress.published_lsn = 0
        pool, ended = ThreadPoolExecutor(max_workers=1), threading.Event()
        publisher = Publisher(settings.kafka, lambda: None)
        marks = Marks(topics, settings.relay.slot, ready.confirmed_lsn)
        self._progress.read_lsn = 0
        parking = Parking(settings, catalog, topics, lambda: self._progress.read_lsn, ready.added)
        for table, error in ready.unsent.items():
            parking.park(table, ready.confirmed_lsn or 0, error)
        self.duties = Duties(self._session_duties(incarnation, marks, parking), topics.keeping)
        added = pool.submit(self._add, ready.added, parking, ended) if ready.added else None
        check = self._checks(publisher, added)
        publisher.wait = check
        try:
            with self.duties.running():
                self._relay(ready, publisher, check, marks, parking)
        finally:
            ended.set()
            publisher.abandon()
            pool.shutdown(wait=False)

    def _relay(
        self,
        ready: slots.Ready,
        publisher: Publisher,
        check: Callable[[], None],
        marks: Marks,
        parking: Parking,
    ) -> None:
        """Take the snapshot if it is due, then stream, until an error or a stop."""
        settings, catalog, topics = self._settings, self._catalog, self._topics
        progress = self._progress
        progress.reason = ""
        if ready.confirmed_lsn is None:
            progress.state = SNAPSHOT
            snapshots.take(settings, catalog, publisher, topics, check, progress, self._loads)
            self._snapshot = False
            marks.begin()
            self._heartbeat(marks)  # a mark without counts would seem to be another server's
        with self._committed() as committed, slots.replication(settings.postgres) as cursor:
            stream = Stream(
                cursor,
                settings.relay,
                catalog,
                publisher,
                committed,
                check,
                marks,
                parking,
                progress,
                partial(masks_of, settings.postgres),
            )
            self._streamed, progress.state = True, STREAMING
            stream.run(ready.confirmed_lsn or 0)

    @contextmanager
    def _committed(self) -> Iterator[BackgroundCall[dict[str, int]] | None]:
        """Ask how far the topics are drained; None where that does not matter."""
        topics, names = self._topics, [table.topic for table in self._catalog.tables]
        if self._settings.relay.ack != "drained":
            yield None
            return
        ask = partial(topics.committed, names)
        with closing(BackgroundCall(ask, _COMMITTED_SECONDS, topics.keeping())) as call:
            yield call

    def _add(self, tables: tuple[Table, ...], parking: Parking, ended: threading.Event) -> None:
        """Take the snapshot of added tables, beside the stream, until the session ends."""

        def check() -> None:
            self._require_running()
            if ended.is_set():
                raise _Stopped
            publisher.require_working()

        publisher = Publisher(self._settings.kafka, check)
        try:
            snapshots.add(
                self._settings,
                self._catalog,
                tables,
                publisher,
                self._topics,
                check,
                self._progress,
                parking.added,
                self._loads,
            )
        finally:
            publisher.abandon()

    def _checks(self, publisher: Publisher, added: Future[None] | None) -> Callable[[], None]:
        """Return the check that a session calls often; it raises to end the session."""

        def check() -> None:
            self._require_running()
            publisher.require_working()
            self.duties.require_done()
            if added is not None and added.done():
                added.result()

        return check

    def _require_running(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _session_duties(
        self, incarnation: tuple[str, ...], marks: Marks, parking: Parking
    ) -> tuple[Duty, ...]:
        """Return the duties of a session."""
        calls: dict[str, Callable[[], None]] = {
            TOPICS: lambda: self._require_topics(incarnation),
            MARK: lambda: self._note(marks),
            HEARTBEAT: lambda: self._heartbeat(marks),
            PUBLICATION: lambda: self._examine(parking),
        }
        duties = [Duty(name=name, every=every, call=calls[name]) for name, every in DUTIES.items()]
        if any(map(hashed, self._catalog.tables)):
            duties.append(Duty(name=KEY, every=KEY_SECONDS, call=self._compare_key))
        return tuple(duties)

    def _compare_key(self) -> None:
        """Compare the key of masked columns with the noted one; without ClickHouse, later.

        Raises:
            NeedsPerson: it is another key.
        """
        if not any(map(hashed, self._catalog.tables)):
            return
        try:
            with closing(ClickHouse(self._settings.clickhouse)) as clickhouse:
                noted = noted_key(clickhouse)
        except SluiceError as error:
            if not self._uncompared:
                log.warning("the key of masked columns cannot be compared yet: %s", error.what)
            self._uncompared = True
            return
        self._uncompared = False
        require_noted_key(self._settings.postgres, self._catalog.tables, noted)

    def _note(self, marks: Marks) -> None:
        """Note how far the stream is published, and the LSN to confirm to PostgreSQL."""
        if self._progress.published_lsn > self._published:
            self._published = self._progress.published_lsn
            self._topics.note_published(self._settings.relay.slot, self._published)
        marks.note()

    def _require_topics(self, incarnation: tuple[str, ...]) -> None:
        if self._topics.incarnation(topic_names(self._catalog)) != incarnation:
            raise Unreachable("topics were recreated; undrained changes are sent again")

    def _heartbeat(self, marks: Marks) -> None:
        """Let an idle database's slot advance, and note the server's counts of it."""
        with slots.session(self._settings.postgres) as cursor:
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')::text", [HEARTBEAT_PREFIX])
            (lsn,) = cursor.fetchone()
            if marks.begun:
                marks.count(slots.mark(cursor, self._settings.relay.slot, lsn))

    def _examine(self, parking: Parking) -> None:
        """Check the tables' standing in the publication; see Parking.look."""
        with slots.session(self._settings.postgres) as cursor:
            parking.look(cursor)


def run(
    settings: Settings,
    catalog: Catalog,
    *,
    snapshot: bool = False,
    stop: threading.Event | None = None,
    loads: OpenLoads = no_loads,
) -> None:
    """Run the relay in the foreground until SIGTERM, SIGINT or `stop`.

    Args:
        snapshot: whether to take a new snapshot even if there was one. Default: false.
        loads: opens the loads of first copies; see wiring/bulk.py. Default: all rows go through the
            topics.

    Raises:
        NeedsPerson: the slot is lost or missing, the publication incomplete, the server another, or
            the key of masked columns.
    """
    stopped = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            stopped.set()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
    Relay(settings, catalog, stopped, snapshot, loads).run()
