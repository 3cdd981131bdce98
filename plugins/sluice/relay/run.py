"""The relay's life: prepare, snapshot where there is no slot, stream; again after each fault."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType

from sluice.adapters.topics import Topics
from sluice.catalog import Catalog
from sluice.errors import Retryable, Unreachable
from sluice.generate.files import topics as topic_names
from sluice.relay import slot as slots
from sluice.relay import snapshot as snapshots
from sluice.relay.publisher import Publisher
from sluice.relay.stream import Stream
from sluice.settings import Settings

log = logging.getLogger(__name__)

_BACK_OFF_SECONDS = (1, 2, 5, 10)
_EPOCH_SECONDS = 2.0
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
        self._epoch = ""
        self._epoch_seen = self._beat = 0.0
        self._publisher: Publisher | None = None

    def run(self) -> None:
        """Relay until stopped. Retryable errors are waited out; others are raised."""
        failures, said = 0, ""
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._session()
            except _Stopped:
                return
            except Retryable as error:
                failures = 0 if time.monotonic() - started > 60 else failures + 1
                if error.what != said:
                    log.warning("%s; trying again", error.what)
                    said = error.what
                self._stop.wait(_BACK_OFF_SECONDS[min(failures, len(_BACK_OFF_SECONDS)) - 1])

    def _session(self) -> None:
        settings = self._settings
        self._epoch = self._topics.ensure(topic_names(self._catalog))
        ready = slots.prepare(
            settings.postgres, settings.relay, self._catalog, self._topics, snapshot=self._snapshot
        )
        publisher = Publisher(settings.kafka, self._check)
        self._publisher = publisher
        try:
            confirmed = ready.confirmed_lsn
            if confirmed is None:
                snapshots.take(
                    settings.postgres,
                    settings.relay,
                    self._catalog,
                    publisher,
                    self._topics,
                    self._check,
                )
                self._snapshot, confirmed = False, 0
            with slots.replication(settings.postgres) as cursor:
                stream = Stream(
                    cursor, settings.relay, self._catalog, publisher, self._topics, self._check
                )
                stream.run(confirmed)
        finally:
            publisher.abandon()

    def _check(self) -> None:
        """Called often while a session lasts: stop, broker wiped, broker refusing, heartbeat."""
        if self._stop.is_set():
            raise _Stopped
        failed = self._publisher.failed if self._publisher else None
        if failed is not None:
            raise Unreachable(f"the broker did not take an event: {failed.str()}")
        now = time.monotonic()
        if now - self._epoch_seen > _EPOCH_SECONDS:
            self._epoch_seen = now
            if self._topics.epoch() != self._epoch:
                raise Unreachable("the broker lost its topics; undrained changes are sent again")
        if now - self._beat > _HEARTBEAT_SECONDS:
            self._beat = now
            with slots.session(self._settings.postgres) as cursor:
                cursor.execute("SELECT pg_logical_emit_message(true, 'sluice-heartbeat', '')")


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
