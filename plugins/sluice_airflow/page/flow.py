"""Writes the figures of the flow's stages, and says where on the page their details are."""

from __future__ import annotations

from collections.abc import Collection

from sluice.operate.flow import CHECKS, DRAIN, FACTS, RELAY, STATE, TOPICS
from sluice.operate.overview import POSTGRESQL, Figure, Overview, TableState, severities
from sluice_airflow.page.figures import amount, duration

# Figure -> the words after its value, for one and for several.
_WORDS = {
    "rows": ("row", "rows"),
    "topics": ("topic", "topics"),
    "findings": ("finding", "findings"),
    "unconfirmed": ("unconfirmed", "unconfirmed"),
    "sent": ("event so far", "events so far"),
    "pending": ("event pending", "events pending"),
    "drained": ("event/min", "events/min"),
    "rebuilt": ("row/min", "rows/min"),
    "took": ("a run", "a run"),
    "freshness": ("behind", "behind"),
    "last_check": ("ago", "ago"),
}
_TABLES, _FACTS, _SERVICES = "#tables-title", "#facts-title", "#services-title"
_TOPICS = "topics"
# The stages that the checks compare, and those behind which changes wait when they fail.
COMPARED, HOLDING = frozenset({POSTGRESQL, STATE, FACTS}), frozenset({RELAY, TOPICS, DRAIN})


def figure_value(figure: Figure) -> str:
    """Return a figure's value with its unit, where that is one of bytes or seconds."""
    if figure.unit == "seconds":
        return duration(figure.value)
    return amount(figure.value, figure.unit)


def figure_words(figure: Figure) -> str:
    """Return the words after a figure's value."""
    one, several = _WORDS[figure.name]
    return one if figure.value == 1 else several


def stage_places(of: Overview) -> dict[str, str]:
    """Return stage -> where its details are: a part of the page, or the page of what is wrong."""
    grave = severities(of)
    late = [table.name for table in of.tables if _held_up(table)]
    wrong = [table.name for table in of.tables if table.name in grave]
    facts = [fact.name for fact in of.facts]
    return {
        POSTGRESQL: _SERVICES,
        RELAY: _SERVICES,
        TOPICS: _TOPICS,
        DRAIN: _only(late, "tables/", f"?sort=pending{_TABLES}"),
        STATE: _only(wrong, "tables/", _TABLES),
        FACTS: _only([name for name in facts if name in grave] or facts, "facts/", _FACTS),
        CHECKS: "#concerns" if of.findings else _TABLES,
    }


def _held_up(table: TableState) -> bool:
    return bool(table.pending_events or table.dead_letters)


def _only(names: Collection[str], below: str, otherwise: str) -> str:
    """Return the address of a single table or fact, or that of the list of several."""
    return f"{below}{next(iter(names))}" if len(names) == 1 else otherwise
