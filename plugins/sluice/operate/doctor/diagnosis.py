"""The outcome of one check of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

from sluice.errors import SluiceError
from sluice.printable import printable

_SKEW_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The outcome of one check.

    Attributes:
        ok: whether all is as it should be.
        reached: False where the service did not answer, so nothing is known.
        found: what is there.
        remedy: what to do; empty where all is well.
    """

    service: str
    check: str
    ok: bool
    found: str
    remedy: str = ""
    reached: bool = True

    def sentence(self) -> str:
        """One line, and the remedy in a second."""
        line = f"{'ok  ' if self.ok else 'MEND'} {self.service}: {self.check}: {self.found}"
        return f"{printable(line)}\n     {self.remedy}" if self.remedy else printable(line)


def failed(service: str, check: str, error: SluiceError, *, reached: bool = True) -> Diagnosis:
    """A check that ended with an error."""
    remedy = error.remedy or "see docs/operations.md"
    return Diagnosis(
        service=service, check=check, ok=False, found=error.what, remedy=remedy, reached=reached
    )


def judged(service: str, check: str, ok: bool, found: object, remedy: str) -> Diagnosis:
    """A check that was made; the remedy is told where it is needed."""
    return Diagnosis(
        service=service, check=check, ok=ok, found=str(found), remedy="" if ok else remedy
    )


def clock(service: str, skew: float) -> Diagnosis:
    """How far a server's clock is from this machine's, seconds."""
    remedy = "set both clocks by NTP; freshness is wrong by as much"
    return judged(service, "clock", skew < _SKEW_SECONDS, f"{skew:.1f} s apart", remedy)
