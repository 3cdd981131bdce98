"""Metrics of the relay over HTTP: for Prometheus, readiness probes and `sluice status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sluice.clients.postgres import SlotState
from sluice.errors import NotReady, SluiceError

STARTING, SNAPSHOT, STREAMING, WAITING = "starting", "snapshot", "streaming", "waiting"
_STATES = (STARTING, SNAPSHOT, STREAMING, WAITING)
_RATE_SECONDS = 0.5  # between the two scrapes of a rate
_WAL_STATES = ("reserved", "extended", "unreserved", "lost")


@dataclass(slots=True, kw_only=True)
class Progress:
    """Progress of a relay; written by its own thread, read by any.

    Attributes:
        state: starting, snapshot, streaming, or waiting (for a retry after an error).
        reason: the error for which it waits.
        events: events published since the present session with PostgreSQL began.
        snapshot_rows: published rows of the present or last snapshot.
        snapshot_tables, snapshot_done: its tables, and how many are finished.
        snapshot_ranges, snapshot_ranges_done: their ranges, and how many are read.
        read_lsn: end of the last transaction that was read.
        confirmed_lsn: LSN confirmed to PostgreSQL.
        published_lsn: LSN up to which all changes are on the broker; 0 unless `ack=drained`.
        oldest_ms: commit time of the oldest change that was read and is not durable by the
            relay's `ack`, milliseconds since 1970; None without one.
    """

    state: str = STARTING
    reason: str = ""
    events: int = 0
    snapshot_rows: int = 0
    snapshot_tables: int = 0
    snapshot_done: int = 0
    snapshot_ranges: int = 0
    snapshot_ranges_done: int = 0
    read_lsn: int = 0
    confirmed_lsn: int = 0
    published_lsn: int = 0
    oldest_ms: int | None = None

    def begin_snapshot(self, tables: int, ranges: int) -> None:
        """Reset the progress for a snapshot of this many tables and ranges."""
        self.snapshot_tables, self.snapshot_ranges = tables, ranges
        self.snapshot_rows = self.snapshot_done = self.snapshot_ranges_done = 0

    def seconds_behind(self) -> float:
        """Return the age of the oldest change that is not durable; 0 without one."""
        return max(0.0, time.time() - self.oldest_ms / 1000) if self.oldest_ms else 0.0


class Telemetry(Collector):
    """The metrics of one relay.

    Args:
        slot: reads the slot's state from PostgreSQL; if it fails, a scrape omits the slot.
    """

    def __init__(self, progress: Progress, slot: Callable[[], SlotState]) -> None:
        self._progress, self._slot = progress, slot

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that docs/monitoring.md lists."""
        now = self._progress
        state = GaugeMetricFamily("sluice_relay_state", "1 at the present one", labels=["state"])
        for name in _STATES:
            state.add_metric([name], float(now.state == name))
        yield state
        yield CounterMetricFamily("sluice_relay_events", "events published", now.events)
        for name, text, value in (
            ("seconds_behind", "age of the oldest change not durable", now.seconds_behind()),
            ("confirmed_lsn", "LSN confirmed to PostgreSQL", now.confirmed_lsn),
            ("snapshot_rows", "rows of the last snapshot", now.snapshot_rows),
            ("snapshot_tables", "tables of the last snapshot", now.snapshot_tables),
            ("snapshot_tables_done", "of them finished", now.snapshot_done),
            ("snapshot_ranges", "parts of those tables, equal in bytes", now.snapshot_ranges),
            ("snapshot_ranges_done", "of them read", now.snapshot_ranges_done),
        ):
            yield GaugeMetricFamily(f"sluice_relay_{name}", text, value)
        try:
            yield from _of_slot(self._slot())
        except SluiceError:
            return  # unknown values are omitted

    def application(self) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
        """Return the WSGI application of `/metrics` and of `/ready`, 503 while the relay waits."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        metrics = make_wsgi_app(registry)

        def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/metrics":
                exposition: Iterable[bytes] = metrics(environ, start)
                return exposition
            status, text = HTTPStatus.NOT_FOUND, "see /metrics and /ready"
            if environ["PATH_INFO"] == "/ready":
                now = self._progress
                ready = now.state in {SNAPSHOT, STREAMING}
                status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
                text = f"{now.state}: {now.reason}" if now.reason else now.state
            start(f"{status.value} {status.phrase}", [("Content-Type", "text/plain")])
            return [f"{text}\n".encode()]

        return answer


@contextmanager
def served(telemetry: Telemetry, host: str, port: int) -> Iterator[None]:
    """Serve the metrics on the port during the context.

    Raises:
        NotReady: the port is taken.
    """
    try:
        server = make_server(
            host, port, telemetry.application(), server_class=_Server, handler_class=_Handler
        )
    except OSError as error:
        raise NotReady(
            f"port {port} for the relay's metrics cannot be used: {error.strerror}",
            remedy="stop what uses it, or set SLUICE_RELAY_METRICS to another",
        ) from error
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def read_status(host: str, port: int) -> dict[str, Any]:
    """Read key `relay` of `sluice status --json` from a relay's metrics.

    Takes half a second to measure the rate; empty where no relay answers.
    """
    try:
        began, before = time.monotonic(), _scraped(host, port)
        time.sleep(_RATE_SECONDS)
        now, seconds = _scraped(host, port), time.monotonic() - began
        events = now["events_total"] - before["events_total"]
        return {
            "state": next(name for name in _STATES if now[f"state {name}"]),
            # A new session counts from 0.
            "events_per_second": round(max(0.0, events) / seconds, 1),
            "seconds_behind": round(now["seconds_behind"], 1),
            "snapshot": {
                "rows": int(now["snapshot_rows"]),
                "tables": int(now["snapshot_tables"]),
                "tables_done": int(now["snapshot_tables_done"]),
                "ranges": int(now["snapshot_ranges"]),
                "ranges_done": int(now["snapshot_ranges_done"]),
            },
        }
    except (OSError, HTTPException, ValueError, KeyError, StopIteration):
        return {}  # another program on the port counts as no relay


def _scraped(host: str, port: int) -> dict[str, float]:
    """Read a relay's samples, by name and label."""
    with closing(HTTPConnection(host, port, timeout=2)) as connection:
        connection.request("GET", "/metrics")
        with connection.getresponse() as answer:
            text = answer.read().decode()
    return {
        " ".join([sample.name.removeprefix("sluice_relay_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _of_slot(state: SlotState) -> Iterator[Metric]:
    yield GaugeMetricFamily("sluice_relay_slot_lag_bytes", "WAL not confirmed", state.lag_bytes)
    if state.safe_wal_size is not None:
        yield GaugeMetricFamily(
            "sluice_relay_slot_safe_wal_bytes",
            "WAL that may be written before the slot is lost",
            state.safe_wal_size,
        )
    status = GaugeMetricFamily(
        "sluice_relay_slot_wal_status", "1 at the present one", labels=["status"]
    )
    for name in _WAL_STATES:
        status.add_metric([name], float(state.wal_status == name))
    yield status


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *_: Any) -> None:
        """Log no scrapes."""
