"""Computes the four answers at the top of the page: health, freshness, backlog, agreement."""

from __future__ import annotations

from dataclasses import dataclass

from sluice.catalog.quality_options import Status
from sluice.operate.health import lateness, slot_concerns
from sluice.operate.overview import BAD, GOOD, WARN, Overview, TableState
from sluice_airflow.page.figures import UNKNOWN, amount, duration, whole

# The worst result, its word on the page, and its status.
_MATCHES = (
    (Status.FAIL, "differs", BAD),
    (Status.UNSETTLED, "not settled", WARN),
    (Status.WARN, "with warnings", WARN),
    (Status.PASS, "matches", GOOD),
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
    status: str
    word: str
    figure: str
    more: str


def answers(of: Overview) -> tuple[Answer, ...]:
    """Return the four answers."""
    return (_healthy(of), _fresh(of), _behind(of), _matches(of))


def freshness_status(table: TableState) -> str:
    """Return the status of a table's freshness."""
    return lateness(table) or (WARN if table.freshness_s is None else GOOD)


def _healthy(of: Overview) -> Answer:
    bad = sum(concern.severity == BAD and not concern.follows for concern in of.concerns)
    answering = sum(service.answers for service in of.services)
    return Answer(
        question="Healthy?",
        status=GOOD if of.healthy else BAD,
        word="",
        figure="Healthy" if of.healthy else f"{bad} {'problem' if bad == 1 else 'problems'}",
        more=f"{answering} of {len(of.services)} services answer",
    )


def _fresh(of: Overview) -> Answer:
    known = [table for table in of.tables if table.freshness_s is not None]
    unknown = len(of.tables) - len(known)
    late = max(known, key=_lateness, default=None)
    status = freshness_status(late) if late else WARN
    word = f"{late.name} is late" if late and lateness(late) else "unknown" if unknown else "fresh"
    if status == GOOD and unknown:
        status = WARN
    more = "since ClickHouse was last known to equal PostgreSQL"
    return Answer(
        question="How fresh?",
        status=status,
        word=word,
        figure=duration(late.freshness_s if late else None),
        more=f"{more}; {unknown} tables unknown" if unknown else more,
    )


def _lateness(table: TableState) -> tuple[int, float]:
    """Return the order in which to name tables: by status, then by freshness."""
    return ["", WARN, BAD].index(lateness(table)), table.freshness_s or 0.0


def _behind(of: Overview) -> Answer:
    waiting = [table.pending_events for table in of.tables]
    known = [events for events in waiting if events is not None]
    stuck = of.services[0].answers and any(slot_concerns(of.slot))
    status = BAD if stuck else GOOD if known == waiting and of.services[0].answers else WARN
    return Answer(
        question="How far behind?",
        status=status,
        word={GOOD: "following", WARN: "unknown", BAD: "stuck"}[status],
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
        more="tables and facts passed their last check" if any(last) else "no check has run yet",
    )
