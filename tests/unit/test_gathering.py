"""The doctor asks all services at once, and waits for none of them longer than it says."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier, Event

import pytest

from sluice.errors import NotReady
from sluice.operate.doctor import Diagnosis, Part, gathered, judged, sentences

SERVICES = ("postgres", "broker", "clickhouse")
FOR_EVER = 300.0  # seconds that no check here may take


def found(service: str, check: str = "version") -> Diagnosis:
    return Diagnosis(service=service, check=check, ok=True, found="18")


def test_services_are_asked_at_once() -> None:
    together = Barrier(len(SERVICES))

    def checks(service: str) -> Iterator[Diagnosis]:
        together.wait(FOR_EVER / 10)  # passed by nobody as long as one service is not asked
        yield found(service)

    parts = [
        Part(service=name, checks=lambda of=name: checks(of), remedy="", silence=FOR_EVER)  # type: ignore[misc]
        for name in SERVICES
    ]
    assert gathered(parts) == [found(name) for name in SERVICES]


def test_a_service_that_is_silent_is_given_up_and_hides_no_other() -> None:
    never = Event()

    def silent() -> Iterator[Diagnosis]:
        never.wait(FOR_EVER)
        yield found("postgres")

    def answering() -> Iterator[Diagnosis]:
        yield found("broker")

    first, second = gathered(
        [
            Part(service="postgres", checks=silent, remedy="is it up?", silence=0.1),
            Part(service="broker", checks=answering, remedy="", silence=FOR_EVER),
        ]
    )
    never.set()
    assert (first.check, first.ok, first.reached) == ("access", False, False)
    assert (first.found, first.remedy) == ("no answer in 0 s", "is it up?")
    assert second == found("broker")


def test_what_a_service_found_before_it_went_away_is_kept() -> None:
    def checks() -> Iterator[Diagnosis]:
        yield found("postgres")
        raise NotReady("it went away")

    part = Part(service="postgres", checks=checks, remedy="", silence=FOR_EVER)
    first, second = gathered([part])
    assert first == found("postgres")
    assert (second.ok, second.reached, second.found) == (False, False, "it went away")


@pytest.mark.parametrize("count", [10, 11, 1000])
def test_of_many_checks_alike_five_are_printed_and_the_others_counted(count: int) -> None:
    alike = [judged("broker", f"cdc.t{at}", True, "1 partitions", "") for at in range(count)]
    wrong = [
        judged("clickhouse", f"t{at}", False, f"missing: cdc.t{at}", "run: sluice init")
        for at in range(count)
    ]
    other = judged("clickhouse", "t_more", False, "differs from the models", "run: sluice source")
    lines = list(sentences([*alike, *wrong, other]))
    if count == 10:
        assert lines == [one.sentence() for one in [*alike, *wrong, other]]
        return
    more = f"{count - 5:,} more; sluice doctor --json lists them"
    assert lines == [
        *(one.sentence() for one in alike[:5]),
        f"ok   broker: checks like these: {more}",
        *(one.sentence() for one in wrong[:5]),
        f"FAIL clickhouse: checks like these: {more}\n     run: sluice init",
        other.sentence(),
    ]
