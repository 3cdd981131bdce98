"""Derives the stages that a change passes, from PostgreSQL to the facts, and the checks of them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sluice.catalog.quality_options import MEASURES, Status
from sluice.operate.health import lateness, slot_concerns
from sluice.operate.overview import (
    BROKER,
    CLICKHOUSE,
    POSTGRESQL,
    FactState,
    Figure,
    Overview,
    Severity,
    Stage,
    TableState,
    known_sum,
    severities,
)

RELAY, TOPICS, DRAIN, STATE = "relay", "topics", "drain", "current state"
FACTS, CHECKS = "facts", "checks"
# Each table is drained every minute: a run that ended longer ago was followed by runs that found
# nothing.
_RECENT_S = 120


def stages(of: Overview) -> tuple[Stage, ...]:
    """Return the stages in the order of the flow; the checks, which compare others, are the last.

    Pipelines without facts have no stage of them.
    """
    facts = (_facts(of),) if of.facts else ()
    return (_postgresql(of), _relay(of), _topics(of), _drain(of), _state(of), *facts, _checks(of))


def _postgresql(of: Overview) -> Stage:
    status, word = _service(of, POSTGRESQL)
    rows = known_sum(table.postgres_rows for table in of.tables)
    return Stage(name=POSTGRESQL, status=status, word=word, holds=(_figure("rows", rows, "rows"),))


def _relay(of: Overview) -> Stage:
    status, word = Severity.GOOD, "follows"
    if not of.answers(POSTGRESQL):
        status, word = Severity.WARN, "unknown"
    elif any(slot_concerns(of.slot)):
        status, word = Severity.BAD, "reads no WAL" if of.slot.wal_status else "has no slot"
    lag = _figure("unconfirmed", of.slot.lag_bytes, "bytes")
    return Stage(name=RELAY, status=status, word=word, arriving=lag)


def _topics(of: Overview) -> Stage:
    status, word = _service(of, BROKER)
    count = _figure("topics", len(of.tables), "topics")
    sent = _figure("sent", of.sent, "events")
    return Stage(name=TOPICS, status=status, word=word, holds=(count,), arriving=sent)


def _drain(of: Overview) -> Stage:
    waiting = [table for table in of.tables if table.pending_events]
    late = [table for table in waiting if lateness(table) != Severity.GOOD]
    letters = sum(table.dead_letters or 0 for table in of.tables)
    status, word = Severity.GOOD, "keeps up"
    if not (of.answers(BROKER) and of.answers(CLICKHOUSE)):
        status, word = Severity.WARN, "unknown"
    elif late:
        status = Severity.BAD if Severity.BAD in map(lateness, late) else Severity.WARN
        word = f"{_counted(len(late), 'table')} late"
    elif letters:
        status, word = Severity.WARN, _counted(letters, "dead letter")
    runs = [table.last_drain for table in of.tables if table.last_drain]
    seconds = max((run.seconds for run in runs if _recent(of, run.finished_at)), default=None)
    pending = known_sum(table.pending_events for table in of.tables)
    return Stage(
        name=DRAIN,
        status=status,
        word=word,
        holds=(_figure("took", seconds, "seconds"),),
        arriving=_figure("pending", pending, "events"),
    )


def _state(of: Overview) -> Stage:
    status, word = _service(of, CLICKHOUSE)
    if status == Severity.GOOD:
        status, word = _problems(of, {table.name for table in of.tables}, "table")
    known = [table.freshness_s for table in of.tables if table.freshness_s is not None]
    return Stage(
        name=STATE,
        status=status,
        word=word,
        holds=(
            _figure("rows", known_sum(table.clickhouse_rows for table in of.tables), "rows"),
            _figure("freshness", max(known, default=None), "seconds"),
        ),
        arriving=_figure("drained", of.drained_per_minute, "events per minute"),
    )


def _facts(of: Overview) -> Stage:
    others = {table.name for table in of.tables} | {of.slot.name}
    status, word = Severity.WARN, "unknown"
    if of.answers(CLICKHOUSE):
        status, word = _problems(of, severities(of).keys() - others, "fact")
    return Stage(
        name=FACTS,
        status=status,
        word=word,
        holds=(_figure("rows", known_sum(fact.rows for fact in of.facts), "rows"),),
        arriving=_figure("rebuilt", of.rebuilt_per_minute, "rows per minute"),
    )


def _checks(of: Overview) -> Stage:
    states: list[TableState | FactState] = [*of.tables, *of.facts]
    moments = [state.last_check.checked_at for state in states if state.last_check]
    # The last check is the gravest one, which may be older than the last count.
    moments += [state.counted_at for state in states if state.counted_at]
    age = _age(of, max(moments, default=None))
    failed = sum(result.status == Status.FAIL for result in of.findings)
    status, word = Severity.GOOD, "passed"
    if not of.answers(CLICKHOUSE):
        status, word = Severity.WARN, "unknown"
    elif failed:
        status, word = Severity.BAD, f"{failed} failed"
    elif age is None:
        status, word = Severity.WARN, "none yet"
    elif MEASURES["freshness"].status(age) != Status.PASS:
        status, word = Severity.WARN, "have stopped"
    elif of.findings:
        status, word = Severity.WARN, f"{len(of.findings)} not passed"
    holds = (
        _figure("findings", len(of.findings) if moments else None, "findings"),
        _figure("last_check", age, "seconds"),
    )
    return Stage(name=CHECKS, status=status, word=word, holds=holds)


def _service(of: Overview, name: str) -> tuple[Severity, str]:
    return (Severity.GOOD, "answers") if of.answers(name) else (Severity.BAD, "does not answer")


def _problems(of: Overview, names: Collection[str], noun: str) -> tuple[Severity, str]:
    """Return the worst status of tables or facts, and how many have problems."""
    ranks = severities(of)
    found = [ranks[name] for name in names if name in ranks]
    if not found:
        return Severity.GOOD, "no problem"
    word = f"{_counted(len(found), noun)} with problems"
    return (Severity.WARN if min(found) else Severity.BAD), word


def _recent(of: Overview, at: datetime) -> bool:
    return (of.at - at).total_seconds() <= _RECENT_S


def _age(of: Overview, at: datetime | None) -> float | None:
    return max(0.0, round((of.at - at).total_seconds(), 1)) if at else None


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _figure(name: str, value: float | None, unit: str) -> Figure:
    return Figure(name=name, value=value, unit=unit)
