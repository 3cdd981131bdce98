"""A step over several tables: every table has its turn, and the worst error decides."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from sluice.errors import (
    NotReady,
    PoisonedTopic,
    RowsRejected,
    SluiceError,
    Unreachable,
    WrongUsage,
)
from sluice.execution.outcomes import Outcomes, each

TABLES = [SimpleNamespace(name=name) for name in ("one", "two", "three")]
KINDS = {0: None, 1: RowsRejected, 3: NotReady, 4: PoisonedTopic}


def done(*codes: int) -> tuple[list[str], SluiceError | None]:
    """What a step gave whose tables end with these exit codes, and what it raised."""
    results = []

    def step(table: SimpleNamespace) -> str:
        kind = KINDS[codes[TABLES.index(table)]]
        if kind is not None:
            raise kind(f"{table.name} is wrong", remedy=f"run: sluice mend {table.name}")
        return str(table.name)

    try:
        for result in each(step, TABLES):
            results.append(result)
    except SluiceError as error:
        return results, error
    return results, None


@pytest.mark.parametrize("codes", [*itertools.product(KINDS, repeat=3)])
def test_every_table_has_its_turn_its_lines_and_the_worst_decides(codes: tuple[int, ...]) -> None:
    results, error = done(*codes)
    assert results == [t.name for t, code in zip(TABLES, codes, strict=True) if code == 0]
    assert (error.exit_code if error else 0) == max(codes)
    lines = [
        line
        for table, code in zip(TABLES, codes, strict=True)
        if code
        for line in (f"{table.name} is wrong", f"run: sluice mend {table.name}")
    ]
    assert str(error or "").splitlines() == lines


def test_an_error_that_does_not_name_its_table_is_told_with_its_name_and_a_common_one_once() -> (
    None
):
    outcomes = Outcomes()
    for table in TABLES:
        with outcomes.of(table.name):
            raise NotReady("the topics are not set up", remedy="run: sluice init")
    with pytest.raises(NotReady) as caught:
        outcomes.require()
    text = "one, two, three: the topics are not set up\nrun: sluice init"
    assert str(caught.value) == text


def test_a_service_that_is_down_is_not_waited_for_once_a_table_but_silent_topics_are() -> None:
    tried = []

    def down(table: SimpleNamespace) -> None:
        tried.append(table.name)
        raise Unreachable("the broker does not answer")

    with pytest.raises(Unreachable):
        list(each(down, TABLES))
    assert tried == ["one", "two"]

    def silent(table: SimpleNamespace) -> None:
        raise Unreachable(f"the broker does not answer for {table.name}")

    with pytest.raises(Unreachable, match=r"one\n.*two\n.*three"):
        list(each(silent, TABLES))


def test_a_wrong_call_and_a_bug_are_no_trouble_of_one_table() -> None:
    for error in (WrongUsage("no such table"), ZeroDivisionError()):
        with pytest.raises(type(error)), Outcomes().of("one"):
            raise error
