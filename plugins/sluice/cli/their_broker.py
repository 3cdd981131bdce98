"""Checks a broker that is not this stack's before `sluice up` sets up the pipeline on it."""

from __future__ import annotations

from collections.abc import Callable

from sluice.cli.output import say
from sluice.errors import NeedsPerson, Unreachable
from sluice.settings import Settings


def require_broker(settings: Settings, report: Callable[[str], None]) -> bool:
    """Do the doctor's checks of the broker; print its warnings.

    Returns:
        Whether all topics exist, so that the rights on each of them are known.

    Raises:
        Unreachable: it does not answer, or refuses the login.
        NeedsPerson: a right is missing, or a topic cannot be used as it is.
    """
    from sluice.catalog import load_catalog
    from sluice.operate.doctor import examine_broker, sentences
    from sluice.operate.doctor.broker import MISSING

    found = [one for one in examine_broker(settings, load_catalog(settings.models)) if not one.ok]
    missing = [one for one in found if one.remedy == MISSING]  # `up` creates them
    for sentence in sentences(one for one in found if one.warning):
        say(*sentence.split("\n"))
    wrong = [one for one in found if not one.warning and one not in missing]
    where = f"the broker {settings.kafka.bootstrap}"
    if wrong and not wrong[0].reached:
        raise Unreachable(wrong[0].found, remedy=wrong[0].remedy)
    if wrong:
        first, *more = wrong
        others = f"; {len(more)} more checks failed: sluice doctor" if more else ""
        raise NeedsPerson(f"{where}: {first.found}{others}", remedy=first.remedy)
    report(f"{where} is used; it is not of this stack")
    return not missing
