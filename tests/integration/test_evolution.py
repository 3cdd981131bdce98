"""Models that change while their tables live in ClickHouse."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import TableDiffers, WrongUsage
from sluice.operate.doctor import clickhouse
from sluice.settings import Settings
from tests.integration.harbour import (
    A_FACT,
    DECKS,
    NAME,
    NARROW,
    NOTE,
    SAILED,
    SKIPPED,
    TEXT,
    TITLE,
    WIDE,
    Harbour,
    harbour,
)

pytestmark = pytest.mark.services


def test_changed_models_are_applied_where_that_is_safe_and_planned_where_not(
    services: Settings, tmp_path: Path
) -> None:
    models_change(services, tmp_path)


def models_change(services: Settings, folder: Path) -> None:
    with harbour(services, folder) as made:
        added_and_widened(made)
        added_with_a_default(made)
        dropped(made)
        renamed_stops_its_table_alone(made)
        another_type_stops_until_its_plan_is_run(made)


def added_and_widened(harbour: Harbour) -> None:
    harbour.postgres("INSERT INTO crossings VALUES (11, 1, 6)")  # an event of the old shape
    harbour.take([NAME], [WIDE, NOTE])
    with pytest.raises(TableDiffers, match="crossings") as caught:
        wiring.drain(harbour.settings, "crossings")
    assert caught.value.remedy == "run: sluice init"
    # Into a fact of the older form 5000000000 would go as 705032704.
    for full in (False, True):
        with pytest.raises(TableDiffers, match="fact_crossing differs"):
            wiring.rebuild(harbour.settings, "fact_crossing", full=full)
    done = wiring.initialise(harbour.settings)
    assert any("ADD COLUMN IF NOT EXISTS note" in line for line in done), done
    (left,) = wiring.initialise(harbour.settings)
    assert left == (
        "PostgreSQL's table crossings is not its model's: cars is integer, the model says bigint;"
        " note is not in PostgreSQL; migrate it"
    )
    harbour.postgres(
        "ALTER TABLE crossings ALTER cars TYPE int8, ADD note text",
        "INSERT INTO crossings VALUES (12, 1, 5000000000, 'full')",
    )
    assert wiring.initialise(harbour.settings) == []
    harbour.settle()
    expected = [(10, 5, None), (11, 6, None), (12, 5000000000, "full")]
    fact = "SELECT crossing_id, cars, note FROM olap.fact_crossing ORDER BY crossing_id"
    assert harbour.rows(fact) == expected
    history = "SELECT id, cars, note FROM cdc.history_crossings FINAL ORDER BY id"
    assert harbour.rows(history) == expected
    assert harbour.dead() == []


def added_with_a_default(harbour: Harbour) -> None:
    harbour.postgres(
        "INSERT INTO ferries VALUES (2, 'Cara')",  # an event of the old shape
        "ALTER TABLE ferries ADD decks int NOT NULL DEFAULT 2",
        "UPDATE ferries SET decks = 3 WHERE id = 2",
    )
    harbour.take([NAME, DECKS], [WIDE, NOTE])
    assert "rows of ferries lack the new values; run: sluice resync ferries" in wiring.initialise(
        harbour.settings
    )
    wiring.drain(harbour.settings, "ferries")
    assert harbour.dead() == []
    wiring.resync(harbour.settings, "ferries")
    harbour.settle()
    decks = "SELECT id, decks FROM olap.dim_ferry ORDER BY id"
    assert harbour.rows(decks) == [(1, 2), (2, 3)]
    assert harbour.rows("SELECT DISTINCT ferry_decks FROM olap.fact_crossing") == [(2,)]


def dropped(harbour: Harbour) -> None:
    harbour.postgres(
        "INSERT INTO crossings VALUES (14, 1, 8, 'old')",  # an event with the column
        "ALTER TABLE crossings DROP note",
    )
    harbour.take([NAME, DECKS], [WIDE])
    done = wiring.initialise(harbour.settings)
    assert any("DROP COLUMN IF EXISTS note" in line for line in done), done
    harbour.postgres("INSERT INTO crossings VALUES (13, 1, 7)")
    harbour.settle()
    assert harbour.rows("SELECT cars FROM olap.fact_crossing WHERE crossing_id = 14") == [(8,)]
    assert harbour.dead() == []
    assert "note" not in wiring.query(harbour.settings, "SELECT * FROM olap.fact_crossing")[0]
    assert harbour.rows("SELECT note FROM cdc.history_crossings FINAL WHERE id = 12") == [("full",)]


def renamed_stops_its_table_alone(harbour: Harbour) -> None:
    harbour.take([TITLE, DECKS], [WIDE, NOTE])
    with pytest.raises(TableDiffers) as caught:
        wiring.initialise(harbour.settings)
    assert "name dropped and title added" in str(caught.value)
    renames = [line for line in str(caught.value).splitlines() if "RENAME COLUMN name" in line]
    assert len(renames) == 2
    with pytest.raises(TableDiffers):
        wiring.drain(harbour.settings, "ferries")
    wiring.drain(harbour.settings, "crossings")
    feed = "DROP TABLE cdc.history_ferries_feed"
    assert f"  {feed};" in str(caught.value).splitlines()
    harbour.clickhouse(*(line.strip().rstrip(";") for line in (feed, *renames)))
    wiring.initialise(harbour.settings)
    harbour.postgres("ALTER TABLE ferries RENAME name TO title")
    harbour.postgres("UPDATE ferries SET title = 'Bela'")
    harbour.settle()
    assert harbour.rows("SELECT DISTINCT ferry_title FROM olap.fact_crossing") == [("Bela",)]
    assert harbour.dead() == []


def another_type_stops_until_its_plan_is_run(harbour: Harbour) -> None:
    harbour.take([TITLE, DECKS], [TEXT, NOTE])
    with pytest.raises(TableDiffers, match="column cars is Int64, not String") as caught:
        wiring.initialise(harbour.settings)
    assert harbour.rows("SELECT count() > 0 FROM cdc.src_crossing") == [(1,)]
    harbour.postgres("ALTER TABLE crossings ALTER cars TYPE text, ADD note text")
    plan = [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert len(plan) == 3
    harbour.clickhouse(*(line.rstrip(";") for line in plan))
    wiring.initialise(harbour.settings)
    wiring.resync(harbour.settings, "crossings")
    harbour.settle()
    found = harbour.rows("SELECT crossing_id, cars FROM olap.fact_crossing ORDER BY crossing_id")
    assert found == [(10, "5"), (11, "6"), (12, "5000000000"), (13, "7"), (14, "8")]
    assert harbour.dead() == []


class Killed(Exception):
    """The process went here."""


def killed(patch: pytest.MonkeyPatch, harbour: Harbour, *, after: int) -> None:
    """An init that ends after so many changes of tables."""
    execute, changes = ClickHouse.execute, 0

    def until(self: ClickHouse, query: str, *rest: Any, **parameters: Any) -> Any:
        nonlocal changes
        changes += query.startswith("ALTER TABLE") and "_crossing" in query
        if changes > after:
            raise Killed
        return execute(self, query, *rest, **parameters)

    with patch.context() as present:
        present.setattr(ClickHouse, "execute", until)
        with pytest.raises(Killed):
            wiring.initialise(harbour.settings)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_init_killed_between_two_statements_is_made_whole_by_the_next(
    services: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    inits_are_killed(services, tmp_path, monkeypatch, after)


def inits_are_killed(
    services: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    with harbour(services, folder) as made:
        made.take([NAME], [WIDE, NOTE])
        killed(monkeypatch, made, after=after)
        made.postgres("ALTER TABLE crossings ALTER cars TYPE int8, ADD note text")
        assert wiring.initialise(made.settings) != []
        assert wiring.initialise(made.settings) == []
        made.postgres("INSERT INTO crossings VALUES (11, 1, 5000000000, 'full')")
        made.settle()
        history = "SELECT id, cars, note FROM cdc.history_crossings FINAL ORDER BY id"
        assert made.rows(history) == [(10, 5, None), (11, 5000000000, "full")]
        made.take([NAME], [WIDE])
        killed(monkeypatch, made, after=after)
        made.postgres("ALTER TABLE crossings DROP note")
        wiring.initialise(made.settings)
        assert wiring.initialise(made.settings) == []
        made.postgres("INSERT INTO crossings VALUES (12, 1, 7)")
        made.settle()
        made.take([NAME], [WIDE, NOTE])
        killed(monkeypatch, made, after=after)
        made.postgres("ALTER TABLE crossings ADD note text")
        wiring.initialise(made.settings)
        assert wiring.initialise(made.settings) == []
        made.postgres("INSERT INTO crossings VALUES (13, 1, 8, 'half')")
        made.settle()
        rows = [(11, 5000000000, "full"), (12, 7, None), (13, 8, "half")]
        assert made.rows(history)[1:] == rows
        assert made.dead() == []


def by_ferry(group: str, cars: str) -> dict[str, Any]:
    return {"crossings_by_ferry": {"by": {"ferry": group}, "sum": {"cars": cars}}}


def test_a_rollup_that_changed_is_summed_anew(
    services: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollups_change(services, tmp_path, monkeypatch)


def rollups_change(services: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = ClickHouse.execute

    def until(self: ClickHouse, query: str, *rest: Any, **parameters: Any) -> Any:
        if "EXCHANGE TABLES" in query:
            raise Killed
        return execute(self, query, *rest, **parameters)

    def taken(group: str, cars: str) -> list[tuple[Any, ...]]:
        made.take([NAME], [NARROW], rollups=by_ferry(group, cars))
        with monkeypatch.context() as present:
            present.setattr(ClickHouse, "execute", until)
            with pytest.raises(Killed):
                wiring.initialise(made.settings)
        (line,) = wiring.initialise(made.settings)
        assert line.startswith("fact_crossing: full rebuild of ")
        assert wiring.initialise(made.settings) == []
        return made.rows("SELECT ferry, facts, cars FROM olap.crossings_by_ferry")

    with harbour(services, folder) as made:
        assert taken("ferry_name", "cars") == [("Aida", 1, 5)]
        assert taken("ferry_name", "cars * 2") == [("Aida", 1, 10)]
        assert taken("concat(ferry_name, '\\'s')", "cars") == [("Aida's", 1, 5)]
        made.postgres("INSERT INTO crossings VALUES (11, 1, 7)")
        made.settle()
        assert made.rows("SELECT * FROM olap.crossings_by_ferry") == [("Aida's", 2, 12)]


@pytest.mark.parametrize(
    ("cars", "at_5", "at_6"), [("1 / (cars - 5)", inf, 1.0), ("nullIf(cars, 5)", None, 6)]
)
def test_a_sum_forgets_what_is_gone_where_it_cannot_be_taken_away(
    services: Settings, tmp_path: Path, cars: str, at_5: float | None, at_6: float
) -> None:
    """Infinity less infinity is no number, and a sum of nothing is NULL, not zero."""
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW], rollups=by_ferry("ferry_name", cars))
        wiring.initialise(made.settings)
        made.settle()
        for number, expected in ((6, at_6), (5, at_5), (6, at_6)):
            made.postgres(f"UPDATE crossings SET cars = {number}")
            made.settle()
            assert made.rows("SELECT * FROM olap.crossings_by_ferry") == [("Aida", 1, expected)]


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


def test_a_group_of_a_condition_is_found_again(services: Settings, tmp_path: Path) -> None:
    big = {"by": {"big": "cars > 5 AND ferry_id > 0"}, "sum": {"total": "toFloat64(cars)"}}
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW], rollups={"crossings_by_big": big})
        wiring.initialise(made.settings)
        made.postgres("INSERT INTO crossings VALUES (11, 1, 7), (12, 1, 3)")
        made.settle()
        made.postgres("UPDATE crossings SET cars = 4 WHERE id = 10")
        made.settle()
        rows = made.rows("SELECT big, facts, total FROM olap.crossings_by_big ORDER BY big")
        assert rows == [(0, 2, 7.0), (1, 1, 7.0)]


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


@pytest.mark.parametrize("crossing", [[WIDE], [NARROW, NOTE]])
def test_a_fact_is_not_rolled_back_to_an_older_form(
    services: Settings, tmp_path: Path, crossing: list[str]
) -> None:
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW])
        wiring.initialise(made.settings)
        made.settle()
        made.take([NAME], crossing)
        wiring.initialise(made.settings)
        made.settle()
        before = made.rows("SELECT * FROM olap.fact_crossing")
        with pytest.raises(WrongUsage, match="fact_crossing__kept is of an older form"):
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
        assert lines[0] == "olap.crossings_by_ferry: dropped, the models have it no longer"
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


def test_a_filter_on_a_date_finds_what_lies_before_1970_and_after_2149(
    services: Settings, tmp_path: Path
) -> None:
    years = (1950, 2024, 2200)
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW, SAILED])
        made.postgres("ALTER TABLE crossings ADD sailed timestamptz NOT NULL DEFAULT '1960-01-01'")
        wiring.initialise(made.settings)
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


def test_a_fact_that_another_release_made_is_made_anew(services: Settings, tmp_path: Path) -> None:
    drop = "ALTER TABLE cdc.fact_crossing DROP INDEX sailed_range"
    of = "SELECT expr FROM system.data_skipping_indices WHERE table = 'fact_crossing'"
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


def test_a_table_whose_rows_are_kept_under_another_name_stops(
    services: Settings, tmp_path: Path
) -> None:
    history = "SELECT id, name FROM cdc.history_ferries FINAL ORDER BY _version"
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW])
        wiring.initialise(made.settings)
        made.settle()
        made.take([NAME, A_FACT], [NARROW])
        run_the_plan(made, r"its rows are in cdc\.dim_ferry")
        (line,) = wiring.initialise(made.settings)
        assert line.startswith("fact_crossing: full rebuild of 1 rows")
        made.postgres("UPDATE ferries SET name = 'Cara'")
        made.settle()
        assert made.rows("SELECT * FROM olap.fact_ferry") == [(1, "Cara")]
        assert made.rows(history) == [(1, "Aida"), (1, "Cara")]
        assert made.rows("SELECT ferry_name FROM olap.fact_crossing") == [("Cara",)]


def test_what_was_made_of_a_fact_goes_where_its_table_is_one_no_longer(
    services: Settings, tmp_path: Path
) -> None:
    ferries = {"by": {"name": "name"}, "sum": {"ids": "ferry_id"}}
    mark = {"info": {"star": "fact", "rollups": {"ferries_by_name": ferries}}}
    left = "SELECT name FROM system.tables WHERE match(name, '^(fact_ferry|ferries_by)')"
    with harbour(services, tmp_path) as made:
        made.take([NAME, f"    __table_args__ = {mark}"], [NARROW])
        run_the_plan(made, r"its rows are in cdc\.dim_ferry")
        wiring.initialise(made.settings)
        made.settle()
        assert made.rows("SELECT ids FROM olap.ferries_by_name") == [(1,)]
        made.take([NAME], [NARROW])
        run_the_plan(made, r"its rows are in cdc\.src_ferry")
        assert made.rows(left) == []
        wiring.initialise(made.settings)
        made.postgres("UPDATE ferries SET name = 'Cara'")
        made.settle()
        assert made.rows("SELECT ferry_name FROM olap.fact_crossing") == [("Cara",)]


def run_the_plan(harbour: Harbour, stopped: str) -> None:
    """What `sluice init` tells a person to run in ClickHouse, where it stops for this reason."""
    with pytest.raises(TableDiffers, match=stopped) as caught:
        wiring.initialise(harbour.settings)
    lines = [line.strip().removesuffix(";") for line in str(caught.value).splitlines()]
    harbour.clickhouse(*(line for line in lines if line.startswith(("DROP", "RENAME"))))


@pytest.mark.parametrize("cars", ["cars", "toFloat64(cars)"])  # added to, and summed anew
def test_a_group_named_as_a_column_of_the_fact_does_not_stand_for_it(
    services: Settings, tmp_path: Path, cars: str
) -> None:
    tens = {"crossings_by_tens": {"by": {"cars": "intDiv(cars, 10)"}, "sum": {"total": cars}}}
    rollup = "SELECT cars, facts, total FROM olap.crossings_by_tens ORDER BY cars"
    with harbour(services, tmp_path) as made:
        made.take([NAME], [NARROW], rollups=tens)
        wiring.initialise(made.settings)
        made.postgres("INSERT INTO crossings VALUES (11, 1, 57), (12, 1, 58)")
        made.settle()
        assert made.rows(rollup) == [(0, 1, 5), (5, 2, 115)]
        made.postgres("UPDATE crossings SET cars = 59 WHERE id = 11")
        made.settle()
        assert made.rows(rollup) == [(0, 1, 5), (5, 2, 117)]
