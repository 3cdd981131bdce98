"""Defines the values of an overview of the pipeline, which the API returns unchanged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import TypeVar

from sluice.catalog.quality_options import MEASURES, Limit, Status
from sluice.errors import Unreachable

POSTGRESQL, BROKER, CLICKHOUSE = "PostgreSQL", "broker", "ClickHouse"
RATE_MINUTES = 5
_BY_KEY = " --key "
S = TypeVar("S", "TableState", "FactState")


class Severity(str, Enum):
    """How well a stage, a table or a service does, the best first."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRun:
    """One drain that read events; `freshness_s` is the age of the newest change it stored."""

    finished_at: datetime
    events: int
    rejected: int
    seconds: float
    freshness_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One result of a quality check: both sides' values as of the LSN `fence`.

    The values of `caught_up` are LSNs as numbers.
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

    def without_keys(self) -> CheckResult:
        """The result for those who may not see rows: a key may be an e-mail address."""
        return replace(self, keys=(), repair=without_keys(self.repair))


def without_keys(command: str) -> str:
    """A command that finds rows by comparing, in place of one that names their keys."""
    head, named, _ = command.partition(_BY_KEY)
    return f"{head} --diff" if named else command


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
    """The current state of a table.

    Attributes:
        postgres_rows, clickhouse_rows: those of the last row count, at `counted_at`.
        compared_at: when every column of every row was last compared.
        pending_events: undrained events on the topic.
        freshness_s: seconds since ClickHouse was last known to equal PostgreSQL.
        dead_letters: open dead letters.
        last_check: the gravest of the current results, or the row count.
        freshness_limit: the limits of `freshness_s`.
    """

    name: str
    topic: str
    storage: str
    postgres_rows: int | None
    clickhouse_rows: int | None
    counted_at: datetime | None
    compared_at: datetime | None
    pending_events: int | None
    freshness_s: float | None
    dead_letters: int | None
    last_drain: DrainRun | None
    last_check: CheckResult | None
    freshness_limit: Limit = MEASURES["freshness"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FactState:
    """The current state of a fact; its rows are those of its last check, at `counted_at`."""

    name: str
    rows: int | None
    expected_rows: int | None
    counted_at: datetime | None
    last_rebuild: RebuildRun | None
    last_check: CheckResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The replication slot; its fields are None where it does not exist.

    Attributes:
        lag_bytes: unconfirmed WAL.
        safe_wal_size: bytes of WAL until the slot is lost; None without a limit.
        invalidation: why PostgreSQL invalidated the slot; empty where it did not.
    """

    name: str
    wal_status: str | None = None
    active: bool | None = None
    lag_bytes: int | None = None
    safe_wal_size: int | None = None
    invalidation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service; `error` and `remedy` are empty where it answers.

    Attributes:
        address: host:port, of several separated by commas. Default: unknown.
    """

    name: str
    answers: bool
    error: str
    remedy: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """A problem: `bad` means broken or different, `warn` not yet.

    Attributes:
        table: the table, fact or rollup. Default: none.
        follows: the tables whose differences cause it, and whose repair ends it. Default: none.
    """

    severity: Severity
    what: str
    remedy: str
    table: str | None = None
    follows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value; None where it is unknown."""

    name: str
    value: int | float | None
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of the flow from PostgreSQL to the facts, or the checks of it.

    Attributes:
        status: `warn` where it is late, incomplete or unknown.
        word: the status in words.
        holds: its figures.
        arriving: the figure of the way to it from the stage before. Default: none.
    """

    name: str
    status: Severity
    word: str
    holds: tuple[Figure, ...] = ()
    arriving: Figure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The overview of the pipeline; healthy when no concern is `bad`.

    Attributes:
        drained_per_minute: events, of the last RATE_MINUTES; None where unknown.
        rebuilt_per_minute: rows of facts written or deleted, the same.
        sent: events that the topics were ever sent; None where unknown.
        flow: the stages in the order of the flow, then the checks; see operate.flow.
    """

    at: datetime
    healthy: bool
    tables: tuple[TableState, ...]
    facts: tuple[FactState, ...]
    slot: Slot
    services: tuple[Service, ...]
    concerns: tuple[Concern, ...]
    findings: tuple[CheckResult, ...]
    drained_per_minute: float | None = None
    rebuilt_per_minute: float | None = None
    sent: int | None = None
    flow: tuple[Stage, ...] = ()

    def without_keys(self) -> Overview:
        """The overview for those who may not see rows."""
        return replace(
            self,
            tables=tuple(_without_keys(one) for one in self.tables),
            facts=tuple(_without_keys(one) for one in self.facts),
            concerns=tuple(replace(one, remedy=without_keys(one.remedy)) for one in self.concerns),
            findings=tuple(one.without_keys() for one in self.findings),
        )

    def answers(self, service: str) -> bool:
        """Whether the service answered."""
        return all(known.answers for known in self.services if known.name == service)

    def require_answer(self, service: str) -> None:
        """Raise Unreachable if the service did not answer, to save waiting for it again."""
        for known in self.services:
            if known.name == service and not known.answers:
                raise Unreachable(known.error)


def known_sum(counts: Iterable[int | None]) -> int | None:
    """Return the sum of the counts that are known; None if there are some and none is known."""
    every = list(counts)
    known = [count for count in every if count is not None]
    return sum(known) if known or not every else None


def severities(of: Overview) -> dict[str, int]:
    """Return table or fact -> 0 if one of its concerns is `bad`, 1 if it has others only."""
    grave: dict[str, int] = {}
    for concern in of.concerns:
        if concern.table is not None:
            rank = int(concern.severity != Severity.BAD)
            grave[concern.table] = min(grave.get(concern.table, rank), rank)
    return grave


def _without_keys(state: S) -> S:
    last = state.last_check
    return replace(state, last_check=last and last.without_keys())
