"""Derives concerns from the state of the pipeline, each with a command that helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sluice.catalog.quality_options import Status
from sluice.clients.slot_loss import cause, remedy
from sluice.operate.overview import CheckResult, Concern, Overview, Severity, Slot, TableState
from sluice.quality.causes import NO_CAUSES, Causes
from sluice.quality.checks import grouped

_SAFE_WAL = frozenset({"reserved", "extended"})


def concerns(state: Overview, causes: Causes = NO_CAUSES) -> tuple[Concern, ...]:
    """Return all concerns, broken before warnings, each behind those that it follows from."""
    found = sorted(_concerns(state, causes), key=lambda concern: concern.severity != Severity.BAD)
    return tuple(grouped(found, lambda one: one.table, lambda one: one.follows))


def _concerns(state: Overview, causes: Causes) -> Iterator[Concern]:
    """Yield all concerns, services first."""
    for service in state.services:
        if not service.answers:
            yield Concern(severity=Severity.BAD, what=service.error, remedy=service.remedy)
    now = {(table.name, check) for table in state.tables for check, _ in _measured(table)}
    follows = causes.find(state.findings)
    for result in state.findings:
        place = (result.table, result.check)
        if place not in now:
            yield _found(result, follows.get(place, ()))
    if state.services[0].answers:
        yield from slot_concerns(state.slot)
    severities = {(result.table, result.check): _severity(result) for result in state.findings}
    for table in state.tables:
        for check, concern in _measured(table):
            graver = Severity.BAD in {concern.severity, severities.get((table.name, check))}
            yield replace(concern, severity=Severity.BAD) if graver else concern


def _found(result: CheckResult, follows: tuple[str, ...]) -> Concern:
    return Concern(
        severity=_severity(result),
        what=f"{result.table}: {result.check} {result.status}",
        remedy="" if follows else result.repair,
        table=result.table,
        follows=follows,
    )


def _severity(result: CheckResult) -> Severity:
    return Severity.BAD if result.status == Status.FAIL else Severity.WARN


def slot_concerns(slot: Slot) -> Iterator[Concern]:
    """Yield why the relay does not follow PostgreSQL, or will soon be unable to."""
    if slot.wal_status is None:
        yield Concern(
            severity=Severity.BAD,
            what=f"no replication slot {slot.name}",
            remedy="sluice logs relay",
        )
    elif slot.invalidation:
        what = f"slot {slot.name} was invalidated: {cause(slot.invalidation)}"
        yield Concern(severity=Severity.BAD, what=what, remedy=remedy(slot.invalidation))
    elif slot.wal_status not in _SAFE_WAL:
        what = f"slot {slot.name}: WAL is {slot.wal_status}"
        yield Concern(severity=Severity.BAD, what=what, remedy="sluice logs relay")
    elif not slot.active:
        what = f"no process reads from slot {slot.name}"
        yield Concern(severity=Severity.BAD, what=what, remedy="sluice logs relay")


def lateness(table: TableState) -> Severity:
    """Return the severity of a table's freshness; `good` within its limits or where unknown."""
    if table.freshness_s is None:
        return Severity.GOOD
    status = table.freshness_limit.status(table.freshness_s)
    return {Status.PASS: Severity.GOOD, Status.FAIL: Severity.BAD}.get(status, Severity.WARN)


def _measured(table: TableState) -> Iterator[tuple[str, Concern]]:
    """Yield concerns measured now, each with the check that measures the same every minute."""
    late = lateness(table)
    if table.freshness_s is not None and late != Severity.GOOD:
        what = f"{table.name}: {table.freshness_s / 60:.0f} minutes behind"
        yield (
            "freshness",
            Concern(severity=late, what=what, remedy="sluice status", table=table.name),
        )
    if table.dead_letters:
        letters = "dead letter" if table.dead_letters == 1 else "dead letters"
        what = f"{table.name}: {table.dead_letters} open {letters}"
        remedy = f"sluice dead-letters list --table {table.name}"
        yield (
            "dead_letters",
            Concern(severity=Severity.WARN, what=what, remedy=remedy, table=table.name),
        )
