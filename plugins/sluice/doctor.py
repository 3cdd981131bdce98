"""What is wrong with the services, seen from outside: every check, in the order to mend things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from time import time
from typing import Any

from sluice.adapters.clickhouse import ClickHouse
from sluice.adapters.topics import Topics
from sluice.catalog import Catalog
from sluice.errors import Retryable, SluiceError
from sluice.evolution import require_same
from sluice.generate.files import topics
from sluice.relay import publication as publications
from sluice.relay import slot as slots
from sluice.settings import RelaySettings, Settings

_POSTGRES_MAJOR, _CLICKHOUSE_MAJOR = (
    14,
    25,
)  # pg_logical_emit_message's form; the queries' functions
_SKEW_SECONDS = 5.0
_BOOKKEEPING = ("checkpoints", "drains", "rebuilds", "dead_letters", "quality_checks", "resyncs")
_SLOTS = """
SELECT current_setting('max_replication_slots')::int - count(*),
    count(*) FILTER (WHERE slot_name = %s), count(*) FILTER (WHERE wal_status = 'lost'
        AND slot_name = %s)
FROM pg_replication_slots
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The outcome of one check.

    Attributes:
        ok: whether all is as it should be.
        reached: False where the service did not answer, so nothing is known.
        found: what is there.
        remedy: what to do; empty where all is well.
    """

    service: str
    check: str
    ok: bool
    found: str
    remedy: str = ""
    reached: bool = True

    def sentence(self) -> str:
        """One line, and the remedy in a second."""
        line = f"{'ok  ' if self.ok else 'MEND'} {self.service}: {self.check}: {self.found}"
        return f"{line}\n     {self.remedy}" if self.remedy else line


def examine(settings: Settings, catalog: Catalog) -> list[Diagnosis]:
    """Every check on PostgreSQL, the broker and ClickHouse. Changes nothing."""
    return [
        *_service("postgres", lambda: _postgres(settings, catalog)),
        *_service("broker", lambda: _broker(settings, catalog)),
        *_service("clickhouse", lambda: _clickhouse(settings, catalog)),
    ]


def _service(name: str, checks: Callable[[], Iterator[Diagnosis]]) -> list[Diagnosis]:
    """A service's checks up to the first that it did not answer."""
    done: list[Diagnosis] = []
    try:
        for diagnosis in checks():
            done.append(diagnosis)
    except SluiceError as error:
        reached = not isinstance(error, Retryable)
        done.append(_wrong(name, "access", error, reached=reached))
    return done


def _wrong(service: str, check: str, error: SluiceError, *, reached: bool = True) -> Diagnosis:
    remedy = error.remedy or "see docs/operations.md"
    return Diagnosis(
        service=service, check=check, ok=False, found=error.what, remedy=remedy, reached=reached
    )


def _judged(service: str, check: str, ok: bool, found: object, remedy: str) -> Diagnosis:
    return Diagnosis(
        service=service, check=check, ok=ok, found=str(found), remedy="" if ok else remedy
    )


def _postgres(settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    with slots.session(settings.postgres) as cursor:
        version, level, now = _row(
            cursor,
            "SELECT current_setting('server_version_num')::int / 10000,"
            " current_setting('wal_level'), extract(epoch FROM clock_timestamp())::float8",
        )
        skew = abs(now - time())
        yield _judged(
            "postgres", "version", version >= _POSTGRES_MAJOR, version, "use PostgreSQL 15 or newer"
        )
        yield _judged(
            "postgres", "wal_level", level == "logical", level, "set wal_level=logical, restart"
        )
        yield _clock("postgres", skew)
        yield _role(cursor)
        yield _slots(cursor, settings.relay)
        yield _keys(cursor, catalog)
        yield _publication(cursor, settings.relay, catalog)


def _role(cursor: Any) -> Diagnosis:
    user, may = _row(
        cursor,
        "SELECT rolname::text, rolreplication OR rolsuper FROM pg_roles"
        " WHERE rolname = current_user",
    )
    found = f"{user} may {'' if may else 'not '}replicate"
    remedy = "connect as a role with REPLICATION, or run: ALTER ROLE ... REPLICATION"
    return _judged("postgres", "replication", may, found, remedy)


def _slots(cursor: Any, relay: RelaySettings) -> Diagnosis:
    free, ours, lost = _row(cursor, _SLOTS, [relay.slot, relay.slot])
    if lost:
        return _judged("postgres", "slot", False, "it is lost", "sluice recover")
    # A snapshot needs a temporary slot, too; one for an existing relay, two for a new one.
    remedy = "raise max_replication_slots or drop unused slots"
    return _judged("postgres", "slots", free + ours >= 2, f"{free} left", remedy)


def _keys(cursor: Any, catalog: Catalog) -> Diagnosis:
    try:
        publications.require_keys(cursor, catalog)
    except SluiceError as error:
        return _wrong("postgres", "tables and keys", error)
    return _judged("postgres", "tables and keys", True, f"{len(catalog.tables)} tables", "")


def _publication(cursor: Any, relay: RelaySettings, catalog: Catalog) -> Diagnosis:
    found = publications.find(cursor, relay, catalog)
    if found is None:
        text, ok = "it is not there", False
    elif found.missing:
        text, ok = f"it lacks {', '.join(table.name for table in found.missing)}", False
    else:
        ok = found.whole
        text = "whole" if ok else "it leaves out operations, rows or computed columns"
    return _judged("postgres", f"publication {relay.publication}", ok, text, "sluice init")


def _broker(settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    partitions = Topics(settings.kafka).partitions()
    for name in topics(catalog):
        count = partitions.get(name, 0)
        remedy = "recreate the topic with one partition, then run: sluice init"
        found = f"{count} partitions"
        yield _judged("broker", name, count == 1, found, remedy if count else "sluice init")


def _clickhouse(settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        ((version, now),) = clickhouse.execute(
            "SELECT version(), toUnixTimestamp64Micro(now64(6)) / 1e6"
        )
        skew = abs(now - time())
        major = int(version.split(".")[0])
        yield _judged(
            "clickhouse",
            "version",
            major >= _CLICKHOUSE_MAJOR,
            version,
            "use ClickHouse 25 or newer",
        )
        yield _clock("clickhouse", skew)
        present = {
            name
            for (name,) in clickhouse.execute(
                "SELECT name FROM system.tables WHERE database = 'cdc'"
            )
        }
        missing = sorted(set(_BOOKKEEPING) - present)
        found = f"missing: {', '.join(missing)}" if missing else "all there"
        yield _judged("clickhouse", "state tables", not missing, found, "sluice init")
        for table in catalog.tables:
            try:
                require_same(clickhouse, table)
            except SluiceError as error:
                yield _wrong("clickhouse", table.name, error)


def _clock(service: str, skew: float) -> Diagnosis:
    remedy = "set both clocks by NTP; freshness is wrong by as much"
    return _judged(service, "clock", skew < _SKEW_SECONDS, f"{skew:.1f} s apart", remedy)


def _row(cursor: Any, query: str, values: list[Any] | None = None) -> tuple[Any, ...]:
    cursor.execute(query, values)
    row: tuple[Any, ...] = cursor.fetchone()
    return row
