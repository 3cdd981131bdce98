"""Random tables, types, transactions and changes of structure: at every quiet point the deep
check, a comparison that does not use its code, and PostgreSQL agree.

`SLUICE_DIFFERENTIAL=1-200 pytest tests/differential` runs these seeds.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.settings import Settings
from tests.differential.comparison import quoted
from tests.differential.pipeline import Pipeline, following

pytestmark = pytest.mark.services

FIRST, _, LAST = os.environ.get("SLUICE_DIFFERENTIAL", "1").partition("-")
ROUNDS = 3


@pytest.mark.parametrize("seed", range(int(FIRST), int(LAST or FIRST) + 1))
def test_a_random_database_is_followed(services: Settings, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with following(services, tmp_path, seed) as pipeline:
        try:
            for _ in range(ROUNDS):
                pipeline.work(chance, 25)
                for _ in range(2):
                    pipeline.database.disturb()
                    pipeline.work(chance, 10)
                require_agreement(pipeline)
                pipeline.evolve()
                pipeline.work(chance, 10)
                require_agreement(pipeline)
            require_found(pipeline, chance)
        except AssertionError:
            print(*pipeline.database.said, *pipeline.histories(), sep="\n")
            print(pipeline.database.models())
            raise


def require_agreement(pipeline: Pipeline) -> None:
    """Nothing differs, by the deep check and by the other comparison; nothing is rejected."""
    report = pipeline.report()
    for relation in pipeline.database.relations:
        letters = wiring.dead_letters(pipeline.settings, relation.name, 3)
        assert not letters, [(relation.name, letter.reason) for letter in letters]
    assert report.failures == []
    assert pipeline.differences() == {}


def require_found(pipeline: Pipeline, chance: random.Random) -> None:
    """A row that is taken away in ClickHouse is found by both, and read again."""
    relation = chance.choice(pipeline.database.relations)
    storage = load_catalog(pipeline.settings.models).table(relation.name).storage
    key = ", ".join(map(quoted, relation.key))
    gone = f"({key}) IN (SELECT {key} FROM cdc.`{storage}` FINAL ORDER BY {key} LIMIT 1)"
    (count,) = wiring.query(pipeline.settings, f"SELECT count() FROM cdc.`{storage}` FINAL")[1][0]
    if not count:
        return
    wiring.query(pipeline.settings, f"DELETE FROM cdc.`{storage}` WHERE {gone}")
    rows = {c.table: c for c in pipeline.report().checks if c.check == "rows"}
    assert rows[relation.name].status == "fail"
    assert len(rows[relation.name].keys) == 1
    assert len(pipeline.differences()[relation.name]) == 1
    assert list(wiring.repair(pipeline.settings, [relation.name]))
    require_agreement(pipeline)
