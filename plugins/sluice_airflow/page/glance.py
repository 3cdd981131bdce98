"""The four answers at the top of the page: healthy, how fresh, how far behind, does it match."""

from __future__ import annotations

from dataclasses import dataclass

from sluice.catalog.quality_options import Status
from sluice.operate.health import lateness, slot_concerns
from sluice.operate.overview import BAD, WARN, Overview, TableState
from sluice_airflow.page.figures import UNKNOWN, amount, duration, whole

GOOD = "good"
# The worst result -> what it is in a word, and how bad.
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
        status: `good`, `warn` (not known, or not settled) or `bad`.
        word: the status in a word; empty where `said` says it.
        said: the number or the words that answer.
        more: what they are of.
    """

    question: str
    status: str
    word: str
    said: str
    more: str


def answers(of: Overview) -> tuple[Answer, ...]:
    """What one look is for."""
    return (_healthy(of), _fresh(of), _behind(of), _matches(of))


def freshness_status(table: TableState) -> str:
    """How good it is that ClickHouse was known to have everything so long ago."""
    return lateness(table) or (WARN if table.freshness_s is None else GOOD)


def _healthy(of: Overview) -> Answer:
    bad = sum(one.severity == BAD for one in of.concerns)
    answering = sum(service.answers for service in of.services)
    return Answer(
        question="Healthy?",
        status=GOOD if of.healthy else BAD,
        word="",
        said="Healthy" if of.healthy else f"{bad} {'problem' if bad == 1 else 'problems'}",
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
    more = "since ClickHouse was known to have all that Postgres had"
    return Answer(
        question="How fresh?",
        status=status,
        word=word,
        said=duration(late.freshness_s if late else None),
        more=f"{more}; {unknown} tables unknown" if unknown else more,
    )


def _lateness(table: TableState) -> tuple[int, float]:
    """What makes a table the one to name: how bad it is, then how long."""
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
        said=f"{whole(sum(known))} events" if known else UNKNOWN,
        more=f"wait on the topics; {amount(of.slot.lag_bytes, 'bytes')} of WAL to confirm",
    )


def _matches(of: Overview) -> Answer:
    last = [table.last_check for table in of.tables] + [fact.last_check for fact in of.facts]
    found = {one.status if one else Status.UNSETTLED for one in last}
    word, status = next(
        (word, status)
        for result, word, status in _MATCHES
        if result in found or result == Status.PASS
    )
    passed = sum(one is not None and one.status == Status.PASS for one in last)
    return Answer(
        question="Does it match?",
        status=status,
        word=word,
        said=f"{passed} of {len(last)}" if any(last) else UNKNOWN,
        more="tables and facts passed their last check" if any(last) else "nothing is checked yet",
    )
