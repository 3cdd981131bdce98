"""Repairs in any order, on services of their own: no row goes that PostgreSQL has.

`SLUICE_ANY_ORDER=1-20` runs these seeds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sluice import wiring
from sluice.errors import RowsRejected
from tests.integration import gauges
from tests.integration.gauges import BAD, KEYS, House
from tests.support.services import drop_slot, own_services

pytestmark = pytest.mark.services
house = gauges.house
FIRST, _, LAST = os.environ.get("SLUICE_ANY_ORDER", "1").partition("-")


services = own_services


def test_a_row_that_is_too_large_to_be_sent_keeps_its_last_version(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = house.settings.kafka
    limited = replace(kafka, options={**kafka.options, "message.max.bytes": "2000000"})
    monkeypatch.setattr(house, "settings", replace(house.settings, kafka=limited))
    house.sql("ALTER TABLE labels ADD drawing text")
    key = KEYS["labels"][2].format(n=2)
    with house.relaying():
        house.put("labels", 1)
        house.put("labels", 2)
        house.settle()
        house.sql(f"UPDATE labels SET reading = 0, drawing = repeat('x', 3000000) WHERE id = {key}")
        house.ghost("labels", 7000)
        house.settle()
        report = wiring.resync(house.settings, "labels")
        assert report.deleted == 1
        assert report.unstored == {"the row is too large": 1}
        house.require_live("labels")
        assert {letter.reason for letter in wiring.dead_letters(house.settings, "labels", 9)} == {
            "the row is too large"
        }
        assert not wiring.quality(house.settings, ["labels"], deep=True).passed
        before = wiring.query(house.settings, "SELECT count() FROM cdc.resyncs")[1]
        wiring.quality(replace(house.settings, repair="auto"), ["labels"], deep=True)
        assert wiring.query(house.settings, "SELECT count() FROM cdc.resyncs")[1] == before
        house.require_live("labels")
    with house.relaying(snapshot=True):
        house.settle()
    house.require_live("labels")
    house.sql("ALTER TABLE labels DROP drawing")
    with house.relaying():
        house.put("labels", 2)
        house.settle()
    assert wiring.dead_letters(house.settings, "labels", 9) == []  # resolved


REPAIRS = ("whole", "range", "keys", "diff", "auto", "replay", "snapshot", "recover")


@pytest.mark.parametrize("seed", range(int(FIRST), int(LAST or FIRST) + 1))
def test_no_repair_takes_a_row_away_whatever_the_order(house: House, seed: int) -> None:
    chance = random.Random(seed)
    for command in chance.sample(REPAIRS, len(REPAIRS)):
        with house.relaying():
            write(house, chance)
            house.settle()
            house.require_live(exact=False)
            if command not in {"snapshot", "recover"}:
                repair(house, chance, command)
        if command == "snapshot":
            with house.relaying(snapshot=True):
                house.settle()
        elif command == "recover":
            drop_slot(house.settings)
            tell(house, wiring.recover(house.settings), sorted(KEYS))
        house.require_live(exact=command in {"diff", "recover"})


def write(house: House, chance: random.Random) -> None:
    """Some rows more, good and bad, of every table; and a ghost in ClickHouse."""
    for table in KEYS:
        for _ in range(6):
            number = chance.randrange(1, 14)
            match chance.choice(["good", "bad", "bad", "remove"]):
                case "good":
                    house.put(table, number)
                case "bad":
                    house.put(table, number, chance.choice(BAD))
                case "remove":
                    house.remove(table, number)
        if house.live[table]:
            house.ghost(table, chance.randrange(8000, 9000))


def repair(house: House, chance: random.Random, command: str) -> None:
    table = chance.choice(sorted(KEYS))
    match command:
        case "whole":
            for name in KEYS:
                report = wiring.resync(house.settings, name)
                assert report.rejected == len(house.bad[name])
                house.require_live(name)
        case "range":
            report = wiring.resync(house.settings, "gauges", lower="3", upper="8")
            assert report.rejected == len([n for n in house.bad["gauges"] if 3 <= n <= 8])
        case "keys":
            numbers = chance.sample(range(1, 14), 5)
            keys = [house.key(table, number) for number in numbers]
            report = wiring.resync(house.settings, table, keys=keys)
            assert report.rejected == len(house.bad[table] & set(numbers))
        case "diff":
            tell(house, wiring.repair(house.settings), sorted(KEYS))
        case "auto":
            wiring.quality(replace(house.settings, repair="auto"), deep=True)
        case "replay":
            for name in KEYS:
                wiring.replay_dead_letters(house.settings, name)


def tell(house: House, lines: Iterator[str], tables: list[str]) -> None:
    """Go through the lines; they end with a finding exactly where rows cannot be stored."""
    told: list[str] = []
    try:
        told += lines
    except RowsRejected:
        assert any(house.bad[name] for name in tables), told
    else:
        assert not any(house.bad[name] for name in tables), told
