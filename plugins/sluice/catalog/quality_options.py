"""Quality options in a model's `info`: limits and severities of a table, expectations of a column.

`{"quality": {"freshness": {"warn": 120, "fail": 900}, "row_count": "warn"}}` on a table;
`{"expect": {"range": [0, None], "severity": "warn"}}` on a column. Anything else is WrongUsage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sluice.errors import WrongUsage


class Status(str, Enum):
    """The result of a check; see docs/quality.md."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"
    UNSETTLED = "unsettled"

    def __str__(self) -> str:
        return self.value


# Severity in a mark -> status of a difference; None for off.
_SEVERITIES = {"off": None, "warn": Status.WARN, "fail": Status.FAIL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Values above which a measure warns and fails. Default: None, for never."""

    warn: float | None = None
    fail: float | None = None

    def status(self, value: float) -> Status:
        """Return whether a value passes, warns or fails."""
        if self.fail is not None and value > self.fail:
            return Status.FAIL
        return Status.WARN if self.warn is not None and value > self.warn else Status.PASS


# Seconds, events, events, seconds. A dead letter only warns: the comparison finds the row that
# differs because of it. A table that is not caught up is late, not wrong, so it fails nothing.
MEASURES = {
    "freshness": Limit(warn=300, fail=1800),
    "pending_events": Limit(warn=100_000, fail=5_000_000),
    "dead_letters": Limit(warn=0),
    "caught_up": Limit(warn=300),
}
COMPARISONS: dict[str, Status] = {
    "row_count": Status.FAIL,
    "fact_row_count": Status.FAIL,
    "rows": Status.FAIL,
    "fact_rows": Status.FAIL,
    "rollup_rows": Status.FAIL,
    "schema": Status.WARN,  # every migration passes through a difference
    "orphans": Status.WARN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityMarks:
    """Limits of a table's measures and severities of its comparisons that are not the default."""

    limits: Mapping[str, Limit] = field(default_factory=dict)
    severities: Mapping[str, Status | None] = field(default_factory=dict)

    def limit(self, measure: str) -> Limit:
        """Return the limit of a measure."""
        return self.limits.get(measure, MEASURES[measure])

    def severity(self, check: str) -> Status | None:
        """Return the severity of a check's differences: warn or fail; None where it is off."""
        return self.severities.get(check, COMPARISONS.get(check, Status.FAIL))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """An expectation of a column's values.

    Attributes:
        kind: `not_null`, `range`, `values`, `unique` or `relationship`.
        argument: the range's ends, the accepted values, or (table, column). Default: empty.
    """

    kind: str
    argument: tuple[Any, ...] = ()
    severity: Status | None = Status.FAIL


def quality_marks(where: str, mark: object) -> QualityMarks:
    """Parse a table's quality mark; `where` names the table in errors."""
    if not isinstance(mark, Mapping):
        raise _wrong(where, f"{mark!r} is not a dictionary", _known_checks())
    limits: dict[str, Limit] = {}
    severities: dict[str, Status | None] = {}
    for name, value in mark.items():
        if name in MEASURES:
            limits[name] = _limit(f"{where}: {name}", value)
        elif name in COMPARISONS:
            severities[name] = _severity(f"{where}: {name}", value)
        else:
            raise _wrong(where, f"no check is named {name!r}", _known_checks())
    return QualityMarks(limits=limits, severities=severities)


def expectations(where: str, mark: object) -> Iterator[Expectation]:
    """Parse the expectations of a column's mark; `where` names the column in errors."""
    known = "use not_null, range, values, unique, relationship, severity"
    if not isinstance(mark, Mapping):
        raise _wrong(where, f"{mark!r} is not a dictionary", known)
    severity = _severity(where, mark.get("severity", "fail"))
    for kind, value in mark.items():
        if kind in ("not_null", "unique"):
            _require(value is True, where, f"{kind!r} is not True", f"write {kind!r}: True")
            yield Expectation(kind=kind, severity=severity)
        elif kind == "range":
            valid = isinstance(value, (list, tuple)) and len(value) == 2 and value != [None, None]
            _require(valid, where, f"{value!r} is not a range", "write [least, most] or None in it")
            yield Expectation(kind=kind, argument=tuple(value), severity=severity)
        elif kind == "values":
            valid = isinstance(value, (list, tuple)) and len(value) > 0
            _require(valid, where, f"{value!r} are no values", "write a list of values")
            yield Expectation(kind=kind, argument=tuple(value), severity=severity)
        elif kind == "relationship":
            parts = str(value).rsplit(".", 1)
            _require(len(parts) == 2, where, f"{value!r} is no column", "write 'table.column'")
            yield Expectation(kind=kind, argument=tuple(parts), severity=severity)
        elif kind != "severity":
            raise _wrong(where, f"no expectation is named {kind!r}", known)


def _limit(where: str, value: object) -> Limit:
    remedy = 'write {"warn": number, "fail": number}, either or both, or "off"'
    if value == "off":
        return Limit()
    valid = isinstance(value, Mapping) and value and set(value) <= {"warn", "fail"}
    if not valid or not all(isinstance(n, (int, float)) for n in dict(value).values()):  # type: ignore[call-overload]
        raise _wrong(where, f"{value!r} is no limit", remedy)
    assert isinstance(value, Mapping)
    return Limit(**{str(name): float(number) for name, number in value.items()})


def _severity(where: str, value: object) -> Status | None:
    known = isinstance(value, str) and value in _SEVERITIES
    _require(known, where, f"{value!r} is no severity", "write off, warn or fail")
    return _SEVERITIES[str(value)]


def _known_checks() -> str:
    return f"use {', '.join([*MEASURES, *COMPARISONS])}"


def _require(valid: bool, where: str, what: str, remedy: str) -> None:
    if not valid:
        raise _wrong(where, what, remedy)


def _wrong(where: str, what: str, remedy: str) -> WrongUsage:
    return WrongUsage(f"quality mark of {where}: {what}", remedy=remedy)
