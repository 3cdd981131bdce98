"""Rejected events: looked at, filtered, and put in at their places once the model takes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.cli import app
from sluice.drain.dead_letters import parse_condition
from sluice.errors import RowsRejected, WrongUsage
from sluice.events.event import DEAD_LETTER_TOPIC
from sluice.operate.doctor import examine
from sluice.person import system_person
from sluice.settings import Settings
from tests.support.harbour import NAME, WIDE, Harbour
from tests.support.harbour import harbour as harbour_of
from tests.support.processes import broker_variables
from tests.support.waiting import until

pytestmark = pytest.mark.services

CARS = "SELECT id, cars FROM cdc.src_crossing FINAL ORDER BY id"


def run(harbour: Harbour, *arguments: str) -> Any:
    """A `sluice dead-letters` command's result."""
    return sluice(harbour, "dead-letters", *arguments)


def sluice(harbour: Harbour, *arguments: str) -> Any:
    """A command's result."""
    settings = harbour.settings
    environment = {
        **os.environ,
        "SLUICE_HOME": str(settings.home),
        "SLUICE_MODELS": settings.models,
        "SLUICE_OUT": str(settings.out),
        **broker_variables(settings),
        "SLUICE_CLICKHOUSE_PORT": str(settings.clickhouse.port),
        "SLUICE_POSTGRES_PORT": str(settings.postgres.port),
        "SLUICE_POSTGRES_DATABASE": settings.postgres.database,
        "SLUICE_SLOT": settings.relay.slot,
    }
    return CliRunner().invoke(app, list(arguments), env=environment)


def listed(harbour: Harbour, *arguments: str) -> list[dict[str, Any]]:
    done = run(harbour, "list", "--json", *arguments)
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["dead_letters"]
    return found


def shown(harbour: Harbour, *arguments: str) -> list[dict[str, Any]]:
    """The crossings' letters, whole."""
    done = run(harbour, "show", "--json", "--table", "crossings", *arguments)
    found: list[dict[str, Any]] = json.loads(done.stdout)["dead_letters"]
    return found


@pytest.fixture(scope="module")
def harbour(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harbour]:
    with harbour_of(services, tmp_path_factory.mktemp("harbour")) as made:
        yield made


def test_letters_that_the_mended_model_takes_go_in_at_their_places(harbour: Harbour) -> None:
    rejected(harbour)
    first, second = sorted(letter.offset for letter in harbour.dead())
    nothing_goes_in_before_the_model_is_mended(harbour)
    harbour.take([NAME], [WIDE])
    wiring.initialise(harbour.settings)
    letters_are_chosen_by_offset_and_reason_and_stay_marked(harbour, first, second)
    the_rest_gives_what_postgres_has(harbour)
    a_second_replay_changes_nothing(harbour)


def rejected(harbour: Harbour) -> None:
    """Rows too large for the model, and one that was too large before a change that fits."""
    harbour.postgres(
        "ALTER TABLE crossings ALTER cars TYPE bigint",
        "UPDATE crossings SET cars = 4000000000 WHERE id = 10",
        "UPDATE crossings SET cars = 6 WHERE id = 10",
        "INSERT INTO crossings VALUES (11, 1, 3000000000)",
        "INSERT INTO crossings VALUES (13, 1, 3000000001)",
        "INSERT INTO crossings VALUES (12, 1, 12)",
    )

    def drained() -> bool:
        wiring.drain(harbour.settings, "crossings")
        return harbour.rows(CARS) == [(10, 6), (12, 12)]

    until(drained, "both rows are drained")
    assert len(harbour.dead()) == 2
    states = {letter["key"]: letter["state"] for letter in shown(harbour, "--all")}
    assert states == {'{"id":10}': "resolved", '{"id":11}': "open", '{"id":13}': "open"}
    assert wiring.status(harbour.settings)["tables"]["crossings"]["dead_letters"] == 2
    with wiring.monitor(harbour.settings) as watching:
        tables = {table.name: table.dead_letters for table in watching.overview().tables}
    assert tables["crossings"] == 2
    checks = {(c.table, c.check): c for c in wiring.quality(harbour.settings).checks}
    assert checks["crossings", "dead_letters"].clickhouse == 2


def nothing_goes_in_before_the_model_is_mended(harbour: Harbour) -> None:
    report = wiring.replay_dead_letters(harbour.settings, "crossings")
    assert (report.replayed, len(report.rejected)) == (0, 2)
    assert {letter["replayed_by"] for letter in shown(harbour, "--all")} == {""}
    assert "cars" in report.sentence()


def letters_are_chosen_by_offset_and_reason_and_stay_marked(
    harbour: Harbour, first: int, second: int
) -> None:
    only = [parse_condition(f"offset <= {first}"), parse_condition("reason~CARS")]
    assert wiring.replay_dead_letters(harbour.settings, "crossings", only).replayed == 1
    assert harbour.rows(CARS) == [(10, 6), (11, 3_000_000_000), (12, 12)]
    assert [letter["offset"] for letter in listed(harbour, "--table", "crossings")] == [second]
    whole = listed(harbour, "--all", "--table", "crossings")
    state = {letter["offset"]: letter["replayed_at"] is not None for letter in whole}
    person = {letter["offset"]: letter["replayed_by"] for letter in shown(harbour, "--all")}
    assert {offset for offset, name in person.items() if name == system_person()} == {first}
    assert state[first]
    assert not state[second]
    assert len(state) == 3
    assert wiring.status(harbour.settings)["tables"]["crossings"]["dead_letters"] == 1


def the_rest_gives_what_postgres_has(harbour: Harbour) -> None:
    wiring.rebuild(harbour.settings, "fact_crossing")  # which goes past both letters
    assert wiring.replay_dead_letters(harbour.settings, "crossings").replayed == 1
    all_of_them = [(10, 6), (11, 3_000_000_000), (12, 12), (13, 3_000_000_001)]
    assert harbour.rows(CARS) == all_of_them
    harbour.settle()
    fact = "SELECT crossing_id, cars FROM olap.fact_crossing ORDER BY crossing_id"
    assert harbour.rows(fact) == harbour.rows(CARS)


def a_second_replay_changes_nothing(harbour: Harbour) -> None:
    state = "SELECT id, cars, _version FROM cdc.src_crossing FINAL ORDER BY id"
    before = harbour.rows(state)
    assert wiring.replay_dead_letters(harbour.settings, "crossings").replayed == 0
    wiring.query(
        harbour.settings,
        "INSERT INTO cdc.dead_letters SELECT * REPLACE (NULL AS replayed_at)"
        " FROM cdc.dead_letters FINAL WHERE source_table = 'crossings'",
    )
    assert wiring.replay_dead_letters(harbour.settings, "crossings").replayed == 2
    assert harbour.rows(state) == before
    harbour.settle()


def test_the_command_shows_letters_whole_and_fails_while_some_are_invalid(
    harbour: Harbour,
) -> None:
    producer = Producer(
        {"bootstrap.servers": harbour.settings.kafka.bootstrap, **harbour.settings.kafka.options}
    )
    producer.produce("cdc.ferries", value=b"\xff<b>", key=b"k")
    assert producer.flush(10) == 0
    wiring.drain(harbour.settings, "ferries")
    (letter,) = json.loads(run(harbour, "show", "--json", "--table", "ferries").stdout)[
        "dead_letters"
    ]
    assert (letter["key"], letter["value"]) == ("k", "\\xff<b>")
    assert "\\xff<b>" in run(harbour, "list", "--table", "ferries").stdout
    done = run(harbour, "dismiss", "--table", "ferries")
    assert done.exit_code == 2  # without a reason
    done = run(harbour, "replay", "--table", "ferries")
    assert isinstance(done.exception, RowsRejected)
    assert "1 still invalid" in done.stdout
    assert isinstance(run(harbour, "list", "--where", "1=1; DROP").exception, WrongUsage)
    done = run(harbour, "dismiss", "--table", "ferries", "--where", "offset>9", "--reason", "none")
    assert done.stdout == f"ferries: 0 dead letters dismissed by {system_person()}\n"
    done = run(harbour, "dismiss", "--table", "ferries", "--reason", "a test's own")
    assert done.stdout == f"ferries: 1 dead letters dismissed by {system_person()}\n"
    assert listed(harbour, "--table", "ferries") == []
    (dismissed,) = listed(harbour, "--all", "--table", "ferries")
    assert (dismissed["state"], dismissed["resolved_at"]) == ("dismissed", None)
    audit = "SELECT offset, dismissed_by, reason, rejected_for != '' FROM"
    assert harbour.rows(f"{audit} cdc.dead_letter_dismissals WHERE source_table = 'ferries'") == [
        (dismissed["offset"], system_person(), "a test's own", 1)
    ]


def told(harbour: Harbour, days: str) -> list[str]:
    """What a doctor finds of the dead-letter topic's retention."""
    settings = replace(harbour.settings, letters_kept=timedelta(days=int(days)))
    found = examine(settings, load_catalog(settings.models))
    return [one.sentence() for one in found if one.check == f"retention of {DEAD_LETTER_TOPIC}"]


def test_letters_go_when_they_are_as_old_as_the_setting_says(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"{DEAD_LETTER_TOPIC} keeps messages for"
    for days, other in (("2", "40"), ("40", "2")):
        assert "warn" in told(harbour, days)[0]
        assert "run: sluice init" in told(harbour, days)[0]
        monkeypatch.setenv("SLUICE_DEAD_LETTER_DAYS", days)
        assert f"{kept} {days} days" in sluice(harbour, "init").stdout
        assert kept not in sluice(harbour, "init").stdout
        assert "warn" not in told(harbour, days)[0]
        assert "warn" in told(harbour, other)[0]
    producer = Producer(
        {"bootstrap.servers": harbour.settings.kafka.bootstrap, **harbour.settings.kafka.options}
    )
    for value in (b"closed jo@example.com", b"open jo@example.com"):
        producer.produce("cdc.ferries", value=value, key=b"jo")
    assert producer.flush(10) == 0
    wiring.drain(harbour.settings, "ferries")
    where = ("--table", "ferries", "--where")
    run(harbour, "dismiss", *where, "value~closed", "--reason", "a test's own")
    assert "letters" not in sluice(harbour, "maintain").stdout
    wiring.query(
        harbour.settings,
        "ALTER TABLE cdc.dead_letters UPDATE rejected_at = now64(3) - INTERVAL 41 DAY"
        " WHERE position(value, 'jo@') > 0 SETTINGS mutations_sync = 1",
    )
    monkeypatch.setenv("SLUICE_DEAD_LETTER_DAYS", "40")
    assert "1 dead letters: key and value deleted" in sluice(harbour, "maintain").stdout
    assert harbour.rows(
        "SELECT count() FROM cdc.dead_letters WHERE position(value, 'jo@') > 0"
    ) == [(0,)]
    ((letter),) = listed(harbour, *where, "reason~JSON")
    assert (letter["state"], letter["beginning"]) == ("open", "")
    done = run(harbour, "replay", "--table", "ferries")
    assert isinstance(done.exception, RowsRejected)
    assert "and were deleted" in done.stdout
    assert "sluice resync ferries" in done.stdout
    run(harbour, "dismiss", "--table", "ferries", "--reason", "a test's own")


@pytest.mark.parametrize(
    "text", ["", "offset", "offset~1", "offset>=-1", "reason>a", "rejected_at>noon", "1=1"]
)
def test_what_is_not_a_condition_is_wrong_usage(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"condition|offset|noon"):
        parse_condition(text)
