"""What one look at the pipeline shows; the API answers with these as they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sluice.catalog.quality_options import MEASURES, Limit, Status
from sluice.errors import Unreachable

BAD, WARN = "bad", "warn"
POSTGRESQL, BROKER, CLICKHOUSE = "PostgreSQL", "broker", "ClickHouse"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRun:
    """One drain that found events; `freshness_s` is the age of the newest change it brought."""

    finished_at: datetime
    events: int
    rejected: int
    seconds: float
    freshness_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One result of a quality check: rows on both sides as of the LSN `fence`.

    Of `caught_up` both numbers are positions of the WAL in bytes.
    """

    table: str
    check: str
    status: Status
    checked_at: datetime
    postgres: int
    clickhouse: int
    fence: str
    keys: tuple[str, ...]
    repair: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildRun:
    """One rebuild of a fact."""

    finished_at: datetime
    mode: str
    rows: int
    deleted: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """A table now.

    Attributes:
        postgres_rows, clickhouse_rows: as the last row count found them, at `counted_at`.
        pending_events: events on the topic that are not drained.
        freshness_s: how long ago ClickHouse was known to have what Postgres had.
        freshness_limit: above which of that the table is late.
        dead_letters: rejected events that are open.
        last_check: the last result of the check that says most: one that failed, or the row count.
    """

    name: str
    topic: str
    storage: str
    postgres_rows: int | None
    clickhouse_rows: int | None
    counted_at: datetime | None
    pending_events: int | None
    freshness_s: float | None
    dead_letters: int | None
    last_drain: DrainRun | None
    last_check: CheckResult | None
    freshness_limit: Limit = MEASURES["freshness"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FactState:
    """A fact now; rows as its last check found them, at `counted_at`."""

    name: str
    rows: int | None
    expected_rows: int | None
    counted_at: datetime | None
    last_rebuild: RebuildRun | None
    last_check: CheckResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The replication slot; all but its name is None without a slot.

    Attributes:
        lag_bytes: WAL that is not confirmed.
        safe_wal_size: bytes that may be written before the slot is lost; None without a limit.
        invalidation: why PostgreSQL invalidated it; empty where it did not.
    """

    name: str
    wal_status: str | None = None
    active: bool | None = None
    lag_bytes: int | None = None
    safe_wal_size: int | None = None
    invalidation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service and, where it does not answer, why."""

    name: str
    answers: bool
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """What somebody should look at: `bad` is broken or differs, `warn` is not yet."""

    severity: str
    what: str
    remedy: str
    table: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One look at everything; healthy when no concern is `bad`."""

    at: datetime
    healthy: bool
    tables: tuple[TableState, ...]
    facts: tuple[FactState, ...]
    slot: Slot
    services: tuple[Service, ...]
    concerns: tuple[Concern, ...]
    findings: tuple[CheckResult, ...]

    def require_answer(self, service: str) -> None:
        """Raise Unreachable where the service did not answer: to ask it again would take long."""
        for one in self.services:
            if one.name == service and not one.answers:
                raise Unreachable(one.error)
