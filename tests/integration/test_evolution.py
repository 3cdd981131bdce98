"""Models that change while their tables live in ClickHouse."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.errors import TableDiffers, WrongUsage
from sluice.operate.doctor import clickhouse
from sluice.settings import Settings
from tests.support.evolutions import by_ferry, inits_are_killed, models_change, rollups_change
from tests.support.harbour import (
    A_FACT,
    NAME,
    NARROW,
    NOTE,
    SAILED,
    SKIPPED,
    WIDE,
    Harbour,
    harbour,
)

pytestmark = pytest.mark.services


def test_changed_models_are_applied_where_that_is_safe_and_planned_where_not(
    services: Settings, tmp_path: Path
) -> None:
    models_change(services, tmp_path)


def test_inits_killed_between_two_statements_are_made_whole_by_the_next(
    services: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inits_are_killed(services, tmp_path, monkeypatch, 0, 1, 1)


def test_a_rollup_that_changed_is_summed_anew(
    services: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollups_change(services, tmp_path, monkeypatch)


def test_sums_and_groups_follow_their_facts(services: Settings, tmp_path: Path) -> None:
    """A sum forgets what is gone where it cannot be taken away: infinity less infinity is no
    number, and a sum of nothing is NULL, not zero. A group of a condition is found again, and one
    that is named as a column of the fact does not stand for it.
    """
    tens = {"cars": "intDiv(cars, 10)"}
    big = {"big": "cars > 5 AND ferry_id > 0"}
    rollups = {
        "crossings_by_ratio": {"by": {"ferry": "ferry_name"}, "sum": {"cars": "1 / (cars - 5)"}},
        "crossings_by_null": {"by": {"ferry": "ferry_name"}, "sum": {"cars": "nullIf(cars, 5)"}},
        "crossings_by_big": {"by": big, "sum": {"total": "toFloat64(cars)"}},
        "crossings_by_tens": {"by": tens, "sum": {"total": "cars"}},  # added to
        "crossings_by_tens_anew": {"by": tens, "sum": {"total": "toFloat64(cars)"}},  # summed anew
    }
    with harbour(services, tmp_path) as made:

        def rows(rollup: str) -> list[tuple[Any, ...]]:
            return made.rows(f"SELECT * FROM olap.crossings_by_{rollup} ORDER BY 1")

        made.take([NAME], [NARROW], rollups=rollups)
        wiring.initialise(made.settings)
        made.settle()
        for number, ratio, known in ((6, 1.0, 6), (5, inf, None), (6, 1.0, 6), (5, inf, None)):
            made.postgres(f"UPDATE crossings SET cars = {number}")
            made.settle()
            assert rows("ratio") == [("Aida", 1, ratio)]
            assert rows("null") == [("Aida", 1, known)]
        made.postgres("INSERT INTO crossings VALUES (11, 1, 57), (12, 1, 58), (13, 1, 3)")
        made.settle()
        assert rows("tens") == rows("tens_anew") == [(0, 2, 8), (5, 2, 115)]
        assert rows("big") == [(0, 2, 8.0), (1, 2, 115.0)]
        made.postgres(
            "UPDATE crossings SET cars = 59 WHERE id = 11",
            "UPDATE crossings SET cars = 4 WHERE id = 10",
        )
        made.settle()
        assert rows("tens") == rows("tens_anew") == [(0, 2, 7), (5, 2, 117)]
        assert rows("big") == [(0, 2, 7.0), (1, 2, 117.0)]


def test_a_rollup_follows_the_types_of_what_it_is_made_of(
    services: Settings, tmp_path: Path
) -> None:
    by_cars = {"crossings_by_cars": {"by": {"cars": "cars"}, "sum": {"tons": "cars * 3"}}}
    rollup = "SELECT cars, facts, tons FROM olap.crossings_by_cars ORDER BY cars"
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW], rollups=by_cars)
        wiring.initialise(made.settings)
        made.settle()
        assert made.rows(rollup) == [(5, 1, 15)]
        made.take([NAME], [WIDE], rollups=by_cars)
        made.postgres("ALTER TABLE crossings ALTER cars TYPE int8")
        wiring.initialise(made.settings)
        made.postgres("INSERT INTO crossings VALUES (11, 1, 5000000000), (12, 1, -5)")
        made.settle()
        assert made.rows(rollup) == [(-5, 1, -15), (5, 1, 15), (5000000000, 1, 15000000000)]
        made.postgres("UPDATE crossings SET cars = -5000000000 WHERE id = 12")
        made.settle()
        assert made.rows(rollup) == [
            (-5000000000, 1, -15000000000),
            (5, 1, 15),
            (5000000000, 1, 15000000000),
        ]


def test_a_sum_that_became_a_group_of_the_same_name_and_type_is_noticed(
    services: Settings, tmp_path: Path
) -> None:
    cars, tons = {"cars": "cars"}, {"tons": "cars * 3"}
    summed = {"by": {"ferry": "ferry_id"}, "sum": cars | tons}
    grouped = {"by": {"ferry": "ferry_id"} | cars, "sum": tons}
    with harbour(services, tmp_path) as made:
        made.take([NAME], [WIDE], rollups={"crossings_by_cars": summed})
        made.postgres("ALTER TABLE crossings ALTER cars TYPE int8")
        made.postgres("INSERT INTO crossings VALUES (11, 1, 7)")
        wiring.initialise(made.settings)
        made.settle()
        assert made.rows("SELECT ferry, cars FROM olap.crossings_by_cars") == [(1, 12)]
        made.take([NAME], [WIDE], rollups={"crossings_by_cars": grouped})
        wiring.initialise(made.settings)
        rows = made.rows("SELECT ferry, cars, tons FROM olap.crossings_by_cars ORDER BY cars")
        assert rows == [(1, 5, 15), (1, 7, 21)]


def test_a_fact_is_not_rolled_back_to_an_older_form(services: Settings, tmp_path: Path) -> None:
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW])
        wiring.initialise(made.settings)
        made.settle()
        for crossing in ([NARROW, NOTE], [WIDE, NOTE]):
            made.take([NAME], crossing)
            wiring.initialise(made.settings)
            made.settle()
            before = made.rows("SELECT * FROM olap.fact_crossing")
            with pytest.raises(WrongUsage, match="fact_crossing__kept differs from the models"):
                wiring.rollback(made.settings, "fact_crossing")
            assert made.rows("SELECT * FROM olap.fact_crossing") == before


def test_a_rollup_that_left_the_models_or_was_dropped_does_not_answer_with_old_sums(
    services: Settings, tmp_path: Path
) -> None:
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW], rollups=by_ferry("ferry_name", "cars"))
        wiring.initialise(made.settings)
        made.settle()
        made.clickhouse("DROP TABLE cdc.crossings_by_ferry SYNC")
        (line,) = wiring.initialise(made.settings)
        assert line.startswith("fact_crossing: full rebuild of ")
        assert made.rows("SELECT * FROM olap.crossings_by_ferry") == [("Aida", 1, 5)]
        made.take([NAME], [NARROW])
        lines = wiring.initialise(made.settings)
        assert lines[0] == "olap.crossings_by_ferry: dropped, it is no longer in the models"
        assert made.rows("SELECT name FROM system.tables WHERE name LIKE 'crossings_by%'") == []
        assert wiring.initialise(made.settings) == []


def test_a_rollup_follows_when_a_dimension_leaves_the_star(
    services: Settings, tmp_path: Path
) -> None:
    """The versions of its sums count the changes of the star's tables, which are fewer then."""
    by_key = by_ferry("ferry_id", "cars")
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW], rollups=by_key)
        wiring.initialise(made.settings)
        made.postgres(*(f"UPDATE ferries SET name = 'Aida {n}'" for n in range(30)))
        made.settle()
        made.take([NAME, SKIPPED], [NARROW], rollups=by_key)
        wiring.initialise(made.settings)
        made.postgres("UPDATE crossings SET cars = 6")
        made.settle()
        assert made.rows("SELECT * FROM olap.crossings_by_ferry") == [(1, 1, 6)]


def test_a_fact_that_another_release_made_is_made_anew_and_its_dates_are_found(
    services: Settings, tmp_path: Path
) -> None:
    """Those before 1970 and after 2149 as well."""
    drop = "ALTER TABLE cdc.fact_crossing DROP INDEX sailed_range"
    of = "SELECT expr FROM system.data_skipping_indices WHERE table = 'fact_crossing'"
    years = (1950, 2024, 2200)
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW, SAILED])
        made.postgres("ALTER TABLE crossings ADD sailed timestamptz NOT NULL DEFAULT '1960-01-01'")
        wiring.initialise(made.settings)
        made.settle()
        made.clickhouse(
            drop, f"{drop.partition(' DROP')[0]} ADD INDEX sailed_range sailed TYPE minmax"
        )
        catalog = load_catalog(made.settings.models)
        wrong = [one for one in clickhouse.checks(made.settings, catalog) if not one.ok]
        assert [(one.check, one.remedy) for one in wrong] == [("fact_crossing", "run: sluice init")]
        lines = wiring.initialise(made.settings)
        assert [line for line in lines if line.startswith("fact_crossing: full rebuild of ")]
        assert made.rows(f"{of} AND name = 'sailed_range'") == [("toDate32(sailed)",)]
        assert wiring.initialise(made.settings) == []
        for year in years:
            made.postgres(
                f"INSERT INTO crossings SELECT {year} * 10000 + n, 1, 1, '{year}-05-01'"
                " FROM generate_series(1, 9000) AS n"
            )
        made.postgres(  # in each granule some whose date is not known, as people note it
            "INSERT INTO crossings SELECT 30000000 + n, 1, 1,"
            " CASE WHEN n % 9 = 0 THEN timestamptz '1900-01-01' ELSE '2024-05-01' END"
            " FROM generate_series(1, 9000) AS n"
        )
        wiring.resync(made.settings, "crossings")
        made.settle()
        count = "SELECT count() FROM olap.fact_crossing WHERE"
        assert made.rows(f"{count} sailed < '2024-01-01'") == [(10001,)]
        assert made.rows(f"{count} sailed >= '2024-01-01'") == [(26000,)]
        assert made.rows(f"{count} sailed > now()") == [(9000,)]
        assert made.rows(f"{count} toDate(sailed) = '2024-05-01'") == [(17000,)]
        assert made.rows(f"{count} toDate32(sailed) < '1970-01-01'") == [(10001,)]


def test_a_table_whose_rows_are_kept_under_another_name_stops_and_what_was_made_of_a_fact_goes(
    services: Settings, tmp_path: Path
) -> None:
    history = "SELECT id, name FROM cdc.history_ferries FINAL ORDER BY _version"
    ferries = {"by": {"name": "name"}, "sum": {"ids": "ferry_id"}}
    mark = {"info": {"star": "fact", "rollups": {"ferries_by_name": ferries}}}
    left = "SELECT name FROM system.tables WHERE match(name, '^(fact_ferry|ferries_by)')"
    with harbour(services, tmp_path) as made:
        made.take([NAME, A_FACT], [NARROW])
        run_the_plan(made, r"its rows are in cdc\.dim_ferry")
        (line,) = wiring.initialise(made.settings)
        assert line.startswith("fact_crossing: full rebuild of 1 rows")
        made.postgres("UPDATE ferries SET name = 'Cara'")
        made.settle()
        assert made.rows("SELECT * FROM olap.fact_ferry") == [(1, "Cara")]
        assert made.rows(history) == [(1, "Aida"), (1, "Cara")]
        assert made.rows("SELECT ferry_name FROM olap.fact_crossing") == [("Cara",)]
        made.take([NAME, f"    __table_args__ = {mark}"], [NARROW])
        wiring.initialise(made.settings)
        made.settle()
        assert made.rows("SELECT ids FROM olap.ferries_by_name") == [(1,)]
        made.take([NAME], [NARROW])
        run_the_plan(made, r"its rows are in cdc\.src_ferry")
        assert made.rows(left) == []
        wiring.initialise(made.settings)
        made.postgres("UPDATE ferries SET name = 'Dora'")
        made.settle()
        assert made.rows("SELECT ferry_name FROM olap.fact_crossing") == [("Dora",)]


def run_the_plan(harbour: Harbour, stopped: str) -> None:
    """What `sluice init` tells a person to run in ClickHouse, where it stops for this reason."""
    with pytest.raises(TableDiffers, match=stopped) as caught:
        wiring.initialise(harbour.settings)
    lines = [line.strip().removesuffix(";") for line in str(caught.value).splitlines()]
    harbour.clickhouse(*(line for line in lines if line.startswith(("DROP", "RENAME"))))
