"""How long `sluice up` waits: as long as something new happens."""

from __future__ import annotations

import pytest

from sluice.cli.first_facts import Patience
from sluice.errors import QualityFailed


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_it_waits_while_there_is_progress_and_not_for_what_was_there_before() -> None:
    clock = Clock()
    patience = Patience(10, clock)
    for step in range(20):
        patience.require(step, "the snapshot is not finished", "sluice logs relay")
        clock.at += 9.0
    patience.require(19, "the snapshot is not finished", "sluice logs relay")
    clock.at += 2.0
    for seen in (19, 3, 0):  # a run that fails and begins again makes no progress
        with pytest.raises(QualityFailed, match="not finished, and nothing has changed for 10 s"):
            patience.require(seen, "the snapshot is not finished", "sluice logs relay")
    patience.require(20, "the snapshot is not finished", "sluice logs relay")
