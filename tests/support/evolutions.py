"""Changes of models that are tested on one ClickHouse server and on a cluster of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sluice import wiring
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import TableDiffers
from sluice.settings import Settings
from tests.support.harbour import DECKS, NAME, NARROW, NOTE, TEXT, TITLE, WIDE, Harbour, harbour


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


def inits_are_killed(
    services: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, *after: int
) -> None:
    """Each is killed after so many changes of tables more, and the last goes on to the end."""

    def killed_each() -> None:
        for changes in after:
            killed(monkeypatch, made, after=changes)

    with harbour(services, folder) as made:
        made.take([NAME], [WIDE, NOTE])
        killed_each()
        made.postgres("ALTER TABLE crossings ALTER cars TYPE int8, ADD note text")
        assert wiring.initialise(made.settings) != []
        assert wiring.initialise(made.settings) == []
        made.postgres("INSERT INTO crossings VALUES (11, 1, 5000000000, 'full')")
        made.settle()
        history = "SELECT id, cars, note FROM cdc.history_crossings FINAL ORDER BY id"
        assert made.rows(history) == [(10, 5, None), (11, 5000000000, "full")]
        made.take([NAME], [WIDE])
        killed_each()
        made.postgres("ALTER TABLE crossings DROP note")
        wiring.initialise(made.settings)
        assert wiring.initialise(made.settings) == []
        made.postgres("INSERT INTO crossings VALUES (12, 1, 7)")
        made.settle()
        made.take([NAME], [WIDE, NOTE])
        killed_each()
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
