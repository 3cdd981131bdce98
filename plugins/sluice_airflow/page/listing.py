"""Selects the tables, facts and topics that the page lists: some of them, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from sluice.operate.overview import FactState, Overview, TableState, severities
from sluice.operate.trends import Period
from sluice_airflow.page.figures import minute

S = TypeVar("S", TableState, FactState)
T = TypeVar("T")
SIZE = 50  # rows on a page
FEW = 12  # up to so many tables and facts need no search
CONCERNS = 10  # listed problems

_FIELDS: dict[str, Callable[[Any], Any]] = {
    "rows": lambda state: getattr(state, "clickhouse_rows", getattr(state, "rows", None)),
    "pending": lambda state: getattr(state, "pending_events", None),
    "freshness": lambda state: getattr(state, "freshness_s", None),
    "dead_letters": lambda state: getattr(state, "dead_letters", None),
}
PROBLEMS, NAME = "problems", "name"
Sort = Enum("Sort", {name: name for name in (PROBLEMS, NAME, *_FIELDS)}, type=str)  # type: ignore[misc]
FIRST = Sort(PROBLEMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a user has chosen by the parameters of the address.

    Attributes:
        period: of the charts.
        q: part of the names to list. Default: empty, for all.
        only: whether to list only what has problems. Default: false.
        sort: a value of Sort. Default: problems first.
        page: number of the page, from 1.
    """

    period: Period
    q: str = ""
    only: bool = False
    sort: str = PROBLEMS
    page: int = 1

    def address(self, *, range: str = "", **changes: Any) -> str:
        """Return the query of an address with these changes; a new list begins at page 1.

        Args:
            range: instead of the period.
        """
        to = replace(self, **{**({"page": 1} if changes else {}), **changes})
        values = {**when(to.period, range), "q": to.q, "only": int(to.only), "sort": to.sort}
        values["page"] = to.page
        plain = {"q": "", "only": 0, "sort": PROBLEMS, "page": 1}
        return urlencode({name: v for name, v in values.items() if v != plain.get(name)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicChoice:
    """What a user has chosen of the topics by the parameters of the address.

    Attributes:
        q: part of the names to list. Default: empty, for all.
        page: number of the page, from 1.
    """

    q: str = ""
    page: int = 1

    def address(self, *, page: int) -> str:
        """Return the query of another page's address."""
        return urlencode({**({"q": self.q} if self.q else {}), "page": page})


def when(period: Period, range: str = "") -> dict[str, Any]:
    """Return the parameters of an address for a period, or for a range instead."""
    if range or period.range:
        return {"range": range or period.range}
    return {"from": minute(period.start), "to": minute(period.end)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[T]):
    """One page of the tables, facts or topics that match a choice.

    Attributes:
        matching: their number on all pages.
        total: the number that there are.
        first: the number of the first one on the page, from 1; 0 without any.
    """

    states: Sequence[T]
    matching: int
    total: int
    first: int
    page: int
    pages: int


def listed(states: Sequence[S], of: Overview, choice: Choice) -> Listing[S]:
    """Return the page of a choice; see `paged`."""
    grave = severities(of)
    wanted = choice.q.casefold()
    matching = [
        state
        for state in states
        if wanted in state.name.casefold() and (not choice.only or state.name in grave)
    ]
    matching.sort(key=_order(choice.sort, grave))
    return paged(matching, len(states), choice.page)


def paged(matching: Sequence[T], total: int, page: int) -> Listing[T]:
    """Return a page of what matches; a page beyond the last is the last."""
    pages = max(1, -(-len(matching) // SIZE))
    page = min(page, pages)
    begin = (page - 1) * SIZE
    return Listing(
        states=matching[begin : begin + SIZE],
        matching=len(matching),
        total=total,
        first=begin + 1 if matching else 0,
        page=page,
        pages=pages,
    )


def _order(sort: str, grave: dict[str, int]) -> Callable[[Any], Any]:
    """Return the key that sorts states: by name, the largest first, or problems first."""
    if sort == NAME:
        return lambda state: state.name
    if sort == PROBLEMS:
        return lambda state: grave.get(state.name, 2)
    field = _FIELDS[sort]
    return lambda state: (field(state) is None, -(field(state) or 0))
