"""The compact profile from Postgres to the fact."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from sluice.settings import Settings
from tests.support.harbour import NAME, harbour

pytestmark = pytest.mark.services

CARS = "    cars: Mapped[int | None] = mapped_column(Integer)"
FARE = "    fare: Mapped[float] = mapped_column(Numeric(10, 2))"
SAILED = "    sailed: Mapped[object] = mapped_column(DateTime(timezone=True))"


def test_rows_come_in_the_types_of_the_seed_and_what_does_not_fit_is_a_dead_letter(
    services: Settings, tmp_path: Path
) -> None:
    tables = [
        "CREATE TABLE ferries (id int PRIMARY KEY, name text NOT NULL)",
        "CREATE TABLE crossings (id int PRIMARY KEY, ferry_id int NOT NULL, cars int,"
        " fare numeric(10, 2) NOT NULL, sailed timestamptz NOT NULL)",
        "INSERT INTO ferries VALUES (1, 'Aida')",
        "INSERT INTO crossings VALUES (10, 1, 5, 19.90, '2026-02-03 04:05:06Z')",
    ]
    columns = [CARS, FARE, SAILED]
    with harbour(services, tmp_path, tables, [NAME], columns, profile="compact") as made:
        made.postgres(
            "INSERT INTO crossings VALUES (11, 1, NULL, 0.01, '2026-02-03 04:05:06Z')",
            "UPDATE ferries SET name = 'Bela'",
        )
        made.settle()
        kinds = "SELECT name, type FROM system.columns WHERE table = 'fact_crossing' AND name IN"
        kinds += " ('crossing_id', 'cars', 'fare', 'sailed') AND database = 'cdc' ORDER BY name"
        assert [kind for _, kind in made.rows(kinds)] == [
            "Nullable(UInt64)",
            "UInt64",
            "Float64",
            "DateTime('UTC')",
        ]
        fact = "SELECT crossing_id, cars, fare, toString(sailed), ferry_name"
        fact += " FROM olap.fact_crossing ORDER BY 1"
        at = str(datetime(2026, 2, 3, 4, 5, 6))
        assert made.rows(fact) == [(10, 5, 19.9, at, "Bela"), (11, None, 0.01, at, "Bela")]
        made.postgres("UPDATE crossings SET cars = -1 WHERE id = 10")
        made.dead_letter("payload.cars")
