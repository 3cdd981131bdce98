"""What about the pipeline's state should concern somebody, and the command that helps."""

from __future__ import annotations

from collections.abc import Iterator

from sluice.overview import BAD, WARN, Concern, Overview, Slot, TableState
from sluice.quality import FAIL

LATE_S = 180.0  # runs of two minutes in a row were missed
_SAFE_WAL = frozenset({"reserved", "extended"})


def concerns(state: Overview) -> Iterator[Concern]:
    """All concerns, services first."""
    for service in state.services:
        if not service.answers:
            yield Concern(severity=BAD, what=service.error, remedy="sluice status")
    for result in state.findings:
        severity = BAD if result.status == FAIL else WARN
        what = f"{result.table}: {result.check} {result.status}"
        yield Concern(severity=severity, what=what, remedy=result.repair, table=result.table)
    if state.services[0].answers:
        yield from _slot_concerns(state.slot)
    for table in state.tables:
        yield from _table_concerns(table)


def _slot_concerns(slot: Slot) -> Iterator[Concern]:
    if slot.wal_status is None:
        yield Concern(
            severity=BAD, what=f"no replication slot {slot.name}", remedy="sluice logs relay"
        )
    elif slot.wal_status not in _SAFE_WAL:
        what = f"slot {slot.name}: WAL is {slot.wal_status}"
        yield Concern(severity=BAD, what=what, remedy="sluice logs relay")
    elif not slot.active:
        what = f"nobody reads from slot {slot.name}"
        yield Concern(severity=BAD, what=what, remedy="sluice logs relay")


def _table_concerns(table: TableState) -> Iterator[Concern]:
    if table.freshness_s is not None and table.freshness_s > LATE_S:
        what = f"{table.name}: fresh as of {table.freshness_s / 60:.0f} minutes ago"
        yield Concern(severity=BAD, what=what, remedy="sluice status", table=table.name)
    if table.dead_letters:
        what = f"{table.name}: {table.dead_letters} rejected events"
        remedy = f"sluice dead-letters list --table {table.name}"
        yield Concern(severity=WARN, what=what, remedy=remedy, table=table.name)
