"""Rows that cannot be stored: whatever repairs, none of them takes the last good version away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sluice import wiring
from sluice.catalog.key_selection import Selection
from sluice.clients.postgres import PostgresSource
from sluice.errors import PoisonedTopic, RowsRejected
from tests.integration import gauges
from tests.integration.gauges import BAD, GOOD, KEYS, House, names
from tests.support.waiting import until

pytestmark = pytest.mark.services
house = gauges.house


@pytest.fixture
def relay(house: House) -> Iterator[None]:
    """A relay, and eight rows of every table."""
    with house.relaying():
        for table in [name for name in KEYS if not house.live[name]]:
            for number in range(1, 9):
                house.put(table, number)
        until(
            lambda: PostgresSource(house.settings.postgres).find_slot("gauge_house") is not None,
            "the relay has its slot",
        )
        house.settle()
        house.require_live()
        yield


def test_a_column_that_the_models_lack_is_left_out_and_named(house: House, relay: None) -> None:
    house.sql("ALTER TABLE gauges ADD unit text DEFAULT 'K'")
    for number in range(1, 6):
        house.put("gauges", number)
    house.settle()
    house.require_live("gauges")
    assert wiring.dead_letters(house.settings, "gauges", 9) == []
    report = wiring.quality(house.settings, ["gauges"], deep=True)
    assert report.passed
    (schema,) = [check for check in report.checks if check.check == "schema"]
    assert schema.status == "warn"
    assert "PostgreSQL has column unit, which the models lack" in schema.difference
    wiring.query(house.settings, "TRUNCATE TABLE cdc.dim_gauge")
    done = wiring.resync(house.settings, "gauges")
    assert (done.rows, done.deleted, done.rejected) == (8, 0, 0)
    house.require_live("gauges")


def test_a_renamed_column_keeps_its_values_until_the_model_follows(
    house: House, relay: None
) -> None:
    house.sql("ALTER TABLE gauges RENAME reading TO measured")
    house.sql("UPDATE gauges SET day = '2026-02-02'")
    house.settle()
    house.require_live("gauges")
    wiring.resync(house.settings, "gauges")
    house.require_live("gauges")
    house.sql("ALTER TABLE gauges RENAME measured TO reading")
    house.sql(f"UPDATE gauges SET day = {GOOD[2]}")
    house.settle()
    house.require_live("gauges")


@pytest.mark.parametrize("table", KEYS)
def test_a_resync_keeps_rows_that_cannot_be_stored_and_says_so(
    house: House, relay: None, table: str
) -> None:
    for number, bad in enumerate(BAD[:8], start=1):
        house.put(table, number, bad)
    house.put(table, 1001, BAD[0])  # ClickHouse never had it
    if table == "moments":
        house.sql("INSERT INTO moments VALUES ('infinity', 1), ('3000-01-01', 1)")
    house.ghost(table, 7000)
    house.settle()
    house.require_live(table, exact=False)
    verifying = replace(house.settings, copy_verify=True)
    done = wiring.resync(verifying, table)
    unstored = 9 + 2 * (table == "moments")
    assert (done.deleted, done.rejected, done.verified) == (1, unstored, 0), done.sentence()
    assert (
        f"{unstored} rows could not be stored and keep their last good version" in done.sentence()
    )
    house.require_live(table)
    one = wiring.resync(house.settings, table, keys=[house.key(table, 3)])
    assert (one.rows, one.deleted, one.rejected) == (1, 0, 1)
    house.require_live(table)
    assert not wiring.quality(house.settings, [table], deep=True).passed
    before = wiring.query(house.settings, "SELECT count() FROM cdc.resyncs")[1]
    wiring.quality(replace(house.settings, repair="auto"), [table], deep=True)
    assert wiring.query(house.settings, "SELECT count() FROM cdc.resyncs")[1] == before
    house.require_live(table)
    if table == "moments":
        house.sql("DELETE FROM moments WHERE at > '2999-01-01'")
    house.remove(table, 1001)
    for number in range(1, 9):
        house.put(table, number)
    house.settle()
    done = wiring.resync(verifying, table)
    assert (done.rejected, done.verified) == (0, 1)
    house.require_live(table)


BEYOND = {
    "gauges": "9000000000",
    "moments": "'infinity'), ('0044-03-15 00:00:00+00 BC'), ('3000-01-01'",
    "amounts": "'NaN'), (1e30",
}


def test_keys_that_cannot_be_stored_or_read_are_in_nobodys_way(house: House, relay: None) -> None:
    """PostgreSQL's that ClickHouse cannot hold, and the reverse."""
    house.sql(
        "ALTER TABLE gauges ALTER id TYPE bigint", "ALTER TABLE amounts ALTER id TYPE numeric"
    )
    for table, keys in BEYOND.items():
        house.sql(f"INSERT INTO {table} ({names(table)}) VALUES ({keys})")
    for table in BEYOND:
        house.put(table, 2, BAD[0])
    house.settle()
    house.require_live()
    tell_rejected(house)
    house.require_live()
    house.sql(
        "DELETE FROM gauges WHERE id > 100000",
        "DELETE FROM moments WHERE at NOT BETWEEN '2026-01-01' AND '2027-01-01'",
        "DELETE FROM amounts WHERE id = 'NaN' OR id > 1e29",
        "ALTER TABLE gauges ALTER id TYPE smallint",
        "ALTER TABLE amounts ALTER id TYPE numeric(20, 1)",
    )
    house.settle()
    wiring.query(
        house.settings,
        "INSERT INTO cdc.dim_gauge SELECT one.* REPLACE (number + 100000 AS id, 5 AS _version)"
        " FROM (SELECT * FROM cdc.dim_gauge FINAL LIMIT 1) AS one, numbers(3) AS n",
    )
    tell_rejected(house)
    house.require_live()
    house.sql("ALTER TABLE gauges ALTER id TYPE int")
    for table in BEYOND:
        house.put(table, 2)
    house.settle()
    assert list(wiring.repair(house.settings))
    house.require_live()


def tell_rejected(house: House) -> None:
    with pytest.raises(RowsRejected):
        list(wiring.repair(house.settings))


def test_commands_that_could_not_store_all_rows_exit_with_a_finding(
    house: House, relay: None
) -> None:
    house.put("labels", 2, BAD[0])
    house.settle()
    for arguments in (
        ["labels"],
        ["--diff", "labels"],
        ["labels", "--key", house.key("labels", 2)],
    ):
        done = house.command("resync", *arguments)
        assert isinstance(done.exception, RowsRejected), done.output
        assert done.exception.exit_code == 1
        assert "1 rows could not be stored" in str(done.exception)
        assert "sluice dead-letters list --table labels" in str(done.exception)
        assert "read again" in done.stdout
    house.require_live("labels")
    house.put("labels", 2)
    house.settle()
    assert house.command("resync", "--diff", "labels").exit_code == 0


def test_a_resync_that_goes_on_reads_ranges_with_rejected_rows_again(
    house: House, relay: None
) -> None:
    house.put("gauges", 1, BAD[0])
    house.settle()
    passed: list[str] = []

    def reached(point: str) -> None:
        passed.append(point)
        if passed.count("range noted") == 2:
            raise InterruptedError

    table = house.catalog.table("gauges")
    with wiring.resyncing(house.settings, table) as step, pytest.raises(InterruptedError):
        replace(step, rows=2, reached=reached).run(table, Selection(), restart=True)
    done = wiring.resync(house.settings, "gauges")
    assert done.before == (1, 4)
    assert (done.rows, done.rejected) == (6, 1)
    again = wiring.resync(house.settings, "gauges")  # all of it: nothing was left
    assert (again.rows, again.rejected) == (8, 1)
    house.put("gauges", 1)
    house.settle()
    house.require_live()


def test_a_resync_of_very_many_rows_that_cannot_be_stored_reports_them(
    house: House, relay: None
) -> None:
    many = 600  # a chunk of nothing else is over every limit
    house.sql(f"INSERT INTO gauges SELECT 20000 + n, 'NaN' FROM generate_series(1, {many}) n")
    tell_poisoned(house)
    done = house.command("resync", "gauges")
    assert isinstance(done.exception, RowsRejected), done.output
    assert done.exception.exit_code == 1
    assert f"{many} rows could not be stored and keep their last good version" in done.output

    def killed(point: str) -> None:
        if point == "rows published":
            raise InterruptedError

    table = house.catalog.table("gauges")
    with wiring.resyncing(house.settings, table) as step, pytest.raises(InterruptedError):
        replace(step, reached=killed).run(table, Selection(), restart=True)
    while not wiring.drain(house.settings, "gauges").caught_up:  # as the minute's does
        pass
    house.sql("UPDATE gauges SET day = day WHERE id > 20000")
    tell_poisoned(house)  # the stream's rows are judged all the same
    assert wiring.resync(house.settings, "gauges").rejected == many
    house.require_live("gauges")
    house.sql("DELETE FROM gauges WHERE id > 20000")
    house.settle()
    assert wiring.resync(house.settings, "gauges", restart=True).rejected == 0
    house.require_live("gauges")


def tell_poisoned(house: House) -> None:
    with pytest.raises(PoisonedTopic):
        house.settle()
    for done in wiring.drain_until_empty(house.settings, ["gauges"], pass_rejects=True):
        done.require()
