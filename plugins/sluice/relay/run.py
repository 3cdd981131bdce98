"""The relay's life: prepare, snapshot where there is no slot, stream; again after each fault."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import FrameType

from sluice.adapters.postgres import HEARTBEAT_PREFIX, PostgresSource
from sluice.adapters.topics import SlotMark, Topics
from sluice.catalog import Catalog, Table
from sluice.errors import Retryable, Unreachable
from sluice.generate.files import topics as topic_names
from sluice.relay import publication as publications
from sluice.relay import slot as slots
from sluice.relay import snapshot as snapshots
from sluice.relay.aside import Aside
from sluice.relay.publisher import Publisher
from sluice.relay.stream import Stream
from sluice.relay.telemetry import (
    SNAPSHOT,
    STREAMING,
    WAITING,
    Progress,
    Telemetry,
    served,
)
from sluice.settings import Settings

log = logging.getLogger(__name__)

_BACK_OFF_SECONDS = (1, 2, 5, 10)
_INCARNATION_SECONDS = 1.0
_COMMITTED_SECONDS = 0.5
_MARK_SECONDS = 1.0
_HEARTBEAT_SECONDS = 10.0


class _Stopped(Exception):
    """The relay was asked to stop."""


class Relay:
    """One relay; `run` blocks until it is stopped or a person has to decide."""

    def __init__(
        self, settings: Settings, catalog: Catalog, stop: threading.Event, snapshot: bool
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._catalog = catalog
        self._stop = stop
        self._topics = Topics(settings.kafka)
        self._progress = Progress()
        self._streamed = False
        self._mark = SlotMark()
        self._beats_at = 0.0

    def run(self) -> None:
        """Relay until stopped. Retryable errors are waited out; others are raised."""
        metrics, source = self._settings.relay.metrics, PostgresSource(self._settings.postgres)
        if metrics is None:
            return self._run()
        state = partial(source.slot, self._settings.relay.slot)
        with served(Telemetry(self._progress, state), *metrics):
            return self._run()

    def _run(self) -> None:
        failures, said = 0, ""
        while not self._stop.is_set():
            self._streamed = False
            try:
                self._session()
            except _Stopped:
                return
            except Retryable as error:
                if self._streamed:
                    failures, said = 0, ""
                self._progress.state, self._progress.reason = WAITING, error.what
                if error.what != said:
                    log.warning("%s; trying again", error.what)
                    said = error.what
                self._stop.wait(_BACK_OFF_SECONDS[min(failures, len(_BACK_OFF_SECONDS) - 1)])
                failures += 1

    def _session(self) -> None:
        settings, catalog, topics = self._settings, self._catalog, self._topics
        topics.ensure(topic_names(catalog))
        incarnation = topics.incarnation(topic_names(catalog))
        ready = slots.prepare(
            settings.postgres, settings.relay, catalog, topics, snapshot=self._snapshot
        )
        self._mark, self._beats_at, self._progress.told_lsn = SlotMark(), 0.0, 0
        pool, ended = ThreadPoolExecutor(max_workers=4), threading.Event()
        publisher = Publisher(settings.kafka, lambda: None)
        added = pool.submit(self._add, ready.added, ended) if ready.added else None
        check = self._checks(pool, publisher, incarnation, added)
        publisher.wait = check
        try:
            progress = self._progress
            progress.reason = ""
            if ready.confirmed_lsn is None:
                progress.state = SNAPSHOT
                snapshots.take(
                    settings, catalog, publisher, topics, check, progress, again=self._snapshot
                )
                self._snapshot = False
            committed = None
            if settings.relay.ack == "drained":
                names = [table.topic for table in catalog.tables]
                committed = Aside(pool, lambda: topics.committed(names), _COMMITTED_SECONDS)
            with slots.replication(settings.postgres) as cursor:
                stream = Stream(
                    cursor, settings.relay, catalog, publisher, committed, check, progress
                )
                self._streamed, progress.state = True, STREAMING
                stream.run(ready.confirmed_lsn or 0)
        finally:
            ended.set()
            publisher.abandon()
            pool.shutdown(wait=False)

    def _add(self, tables: tuple[Table, ...], ended: threading.Event) -> None:
        """The snapshot of added tables, beside the stream, until the session ends."""

        def check() -> None:
            if self._stop.is_set() or ended.is_set():
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
            )
        finally:
            publisher.abandon()

    def _checks(
        self,
        pool: ThreadPoolExecutor,
        publisher: Publisher,
        incarnation: tuple[str, ...],
        added: Future[None] | None,
    ) -> Callable[[], None]:
        """What is called often while a session lasts; it takes no time and ends it by raising."""
        names = topic_names(self._catalog)
        broker = Aside(pool, lambda: self._topics.incarnation(names), _INCARNATION_SECONDS)
        marks = Aside(pool, self._note_mark, _MARK_SECONDS)

        def check() -> None:
            if self._stop.is_set():
                raise _Stopped
            publisher.require_working()
            if broker.answer() not in (None, incarnation):
                raise Unreachable("topics were made again; undrained changes are sent again")
            marks.answer()
            if added is not None and added.done():
                added.result()
            for aside in (broker, marks):
                if aside.due():
                    aside.begin()

        return check

    def _note_mark(self) -> None:
        """Note how far the slot can have been confirmed; every ten seconds with a heartbeat."""
        if time.monotonic() >= self._beats_at:
            self._beats_at = time.monotonic() + _HEARTBEAT_SECONDS
            self._heartbeat()
        elif self._progress.told_lsn > self._mark.wal:
            self._mark = self._mark._replace(wal=self._progress.told_lsn)
            self._topics.note_mark(self._settings.relay.slot, self._mark)

    def _heartbeat(self) -> None:
        """Let an idle database's slot move on, note where it is, and see that the publication
        is what it was.
        """
        settings = self._settings
        with slots.session(settings.postgres) as cursor:
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')::text", [HEARTBEAT_PREFIX])
            (lsn,) = cursor.fetchone()
            slot = settings.relay.slot
            self._mark = slots.mark(cursor, slot, lsn)
            self._topics.note_mark(slot, self._mark)
            noted = self._topics.slot_note(settings.relay.slot)
            if noted and noted["consistent_point"]:
                publications.require_unchanged(cursor, settings.relay, self._catalog, noted)


def run(
    settings: Settings,
    catalog: Catalog,
    *,
    snapshot: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Relay in the foreground until SIGTERM, SIGINT or `stop`.

    Args:
        snapshot: take a new snapshot although one was taken.

    Raises:
        NeedsPerson: slot lost or missing, publication incomplete, another server.
    """
    stopped = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            stopped.set()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
    Relay(settings, catalog, stopped, snapshot).run()
