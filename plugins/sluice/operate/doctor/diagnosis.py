"""Defines the result of one check of the doctor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sluice.errors import SluiceError
from sluice.printable import printable

_SKEW_SECONDS = 5.0
_MANY, _SHOWN = 10, 5  # checks alike, and those of many that are printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The result of one check.

    Attributes:
        ok: whether the check passed.
        found: the observed state.
        remedy: what to do; empty where the check passed.
        reached: False where the service did not answer, so the state is unknown.
        warning: whether the pipeline works as it is, up to a limit that the result names.
    """

    service: str
    check: str
    ok: bool
    found: str
    remedy: str = ""
    reached: bool = True
    warning: bool = False

    def sentence(self) -> str:
        """Return the result as one line, and the remedy as a second."""
        word = "ok  " if self.ok else "warn" if self.warning else "FAIL"
        line = f"{word} {self.service}: {self.check}: {self.found}"
        return f"{printable(line)}\n     {self.remedy}" if self.remedy else printable(line)


def sentences(diagnoses: Iterable[Diagnosis]) -> Iterator[str]:
    """Yield what to print of the checks: of more than ten alike five and the number of the others.

    Checks of a service are alike if they passed with the same result, or failed with one remedy.
    """
    groups: dict[tuple[str, bool, str], list[Diagnosis]] = {}
    for one in diagnoses:
        groups.setdefault((one.service, one.ok, one.found if one.ok else one.remedy), []).append(
            one
        )
    for group in groups.values():
        shown = group if len(group) <= _MANY else group[:_SHOWN]
        yield from (one.sentence() for one in shown)
        if len(group) > len(shown):
            rest = f"{len(group) - len(shown):,} more; sluice doctor --json lists them"
            yield replace(group[0], check="checks like these", found=rest).sentence()


def failed(service: str, check: str, error: SluiceError, *, reached: bool = True) -> Diagnosis:
    """Return a check that ended with an error."""
    remedy = error.remedy or "see docs/operations.md"
    return Diagnosis(
        service=service, check=check, ok=False, found=error.what, remedy=remedy, reached=reached
    )


def judged(
    service: str, check: str, ok: bool, found: object, remedy: str, *, warning: bool = False
) -> Diagnosis:
    """Return a completed check, with its remedy where it failed."""
    return Diagnosis(
        service=service,
        check=check,
        ok=ok,
        found=str(found),
        remedy="" if ok else remedy,
        warning=warning and not ok,
    )


def clock(service: str, skew: float) -> Diagnosis:
    """Return the check of a server's clock, which is `skew` seconds from this machine's."""
    remedy = "set both clocks by NTP; freshness is wrong by as much"
    return judged(service, "clock", skew < _SKEW_SECONDS, f"{skew:.1f} s apart", remedy)
