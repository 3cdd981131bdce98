"""Computes the four answers at the top of the page: health, freshness, backlog, agreement."""

from __future__ import annotations

from dataclasses import dataclass

from sluice.catalog.quality_options import Status
from sluice.operate.health import lateness, slot_concerns
from sluice.operate.overview import Overview, Severity, TableState
from sluice.quality.causes import differing
from sluice_airflow.page.figures import UNKNOWN, amount, duration, whole

# The worst result, its word on the page, and its status.
_MATCHES = (
    (Status.FAIL, "differs", Severity.BAD),
    (Status.UNSETTLED, "not settled", Severity.WARN),
    (Status.WARN, "with warnings", Severity.WARN),
    (Status.PASS, "matches", Severity.GOOD),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer.

    Attributes:
        status: `good`, `warn` (unknown or unsettled) or `bad`.
        word: the status as a word; empty where `figure` has it.
        figure: the figure or words that answer the question.
        more: an explanation of them.
    """

    question: str
    status: Severity
    word: str
    figure: str
    more: str


def answers(of: Overview) -> tuple[Answer, ...]:
    """Return the four answers."""
    return (_healthy(of), _fresh(of), _behind(of), _matches(of))


def freshness_status(table: TableState) -> Severity:
    """Return the status of a table's freshness."""
    return Severity.WARN if table.freshness_s is None else lateness(table)


def _healthy(of: Overview) -> Answer:
    bad = sum(concern.severity == Severity.BAD and not concern.follows for concern in of.concerns)
    answering = sum(service.answers for service in of.services)
    return Answer(
        question="Healthy?",
        status=Severity.GOOD if of.healthy else Severity.BAD,
        word="",
        figure="Healthy" if of.healthy else f"{bad} {'problem' if bad == 1 else 'problems'}",
        more=f"{answering} of {len(of.services)} services answer",
    )


def _fresh(of: Overview) -> Answer:
    known = [table for table in of.tables if table.freshness_s is not None]
    unknown = len(of.tables) - len(known)
    late = max(known, key=_lateness, default=None)
    status = freshness_status(late) if late else Severity.WARN
    word = "unknown" if unknown else "fresh"
    if late and lateness(late) != Severity.GOOD:
        word = f"{late.name} is late"
    if status == Severity.GOOD and unknown:
        status = Severity.WARN
    more, wrong = "since ClickHouse was last known to have every change", differing(of.findings)
    if wrong and word == "fresh":
        status, word = Severity.WARN, "fresh, but differs"
        more += f"; rows of {wrong[0] if len(wrong) == 1 else f'{len(wrong)} tables'} are wrong"
    return Answer(
        question="How fresh?",
        status=status,
        word=word,
        figure=duration(late.freshness_s if late else None),
        more=f"{more}; {unknown} tables unknown" if unknown else more,
    )


def _lateness(table: TableState) -> tuple[int, float]:
    """Return the order in which to name tables: by status, then by freshness."""
    return list(Severity).index(lateness(table)), table.freshness_s or 0.0


def _behind(of: Overview) -> Answer:
    waiting = [table.pending_events for table in of.tables]
    known = [events for events in waiting if events is not None]
    status, word = Severity.WARN, "unknown"
    if of.services[0].answers and any(slot_concerns(of.slot)):
        status, word = Severity.BAD, "stuck"
    elif of.services[0].answers and known == waiting:
        status, word = Severity.GOOD, "following"
    return Answer(
        question="How far behind?",
        status=status,
        word=word,
        figure=f"{whole(sum(known))} events" if known else UNKNOWN,
        more=f"undrained; {amount(of.slot.lag_bytes, 'bytes')} of WAL unconfirmed",
    )


def _matches(of: Overview) -> Answer:
    last = [table.last_check for table in of.tables] + [fact.last_check for fact in of.facts]
    results = {check.status if check else Status.UNSETTLED for check in last}
    word, status = next(
        (word, status)
        for result, word, status in _MATCHES
        if result in results or result == Status.PASS
    )
    passed = sum(check is not None and check.status == Status.PASS for check in last)
    return Answer(
        question="Does it match?",
        status=status,
        word=word,
        figure=f"{passed} of {len(last)}" if any(last) else UNKNOWN,
        more=f"tables and facts passed their last check; {_compared(of)}"
        if any(last)
        else "no check has run yet",
    )


def _compared(of: Overview) -> str:
    """Return when the values of all tables were compared; the checks of the minute count rows."""
    never = sum(table.compared_at is None for table in of.tables)
    if never:
        return f"the values of {never} of {len(of.tables)} tables not compared yet"
    oldest = min((table.compared_at for table in of.tables if table.compared_at), default=of.at)
    return f"values compared {duration((of.at - oldest).total_seconds())} ago"
