"""`sluice erase`: a row that PostgreSQL deleted is in nothing that Sluice keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from sluice import wiring
from sluice.clients.broker import Broker
from sluice.clients.topics import Topics
from sluice.errors import NeedsPerson, Unreachable, WrongUsage
from sluice.repair.erasure import POINTS
from sluice.settings import PACKAGE, Settings
from tests.support import processes
from tests.support.harbour import Harbour, harbour
from tests.support.waiting import until

pytestmark = pytest.mark.services

NAME = "c4n4ry"
KEPT = ("cdc.dim_ferry", "cdc.history_ferries", "cdc.fact_crossing", "cdc.dead_letters")


@pytest.fixture
def made(services: Settings, tmp_path: Path) -> Iterator[Harbour]:
    """A person's name in current state, history, fact and a dead letter."""
    with harbour(services, tmp_path) as found:
        found.postgres(f"UPDATE ferries SET name = '{NAME}' WHERE id = 1")
        until(lambda: holding(found, "cdc.fact_crossing"), "the fact has the name")
        found.clickhouse(
            "INSERT INTO cdc.dead_letters (source_table, broker_epoch, offset, key, value, reason)"
            f""" VALUES ('ferries', 'e', 1, '{{"id":1}}', '{NAME}', 'unfit'),"""
            """ ('ferries', 'e', 2, '{"id": 2}', 'other', 'unfit')"""
        )
        yield found


def holding(made: Harbour, place: str) -> bool:
    made.settle()
    return has(made, place, NAME)


def has(made: Harbour, place: str, name: str) -> bool:
    return bool(made.rows(f"SELECT 1 FROM {place} WHERE toString(tuple(*)) LIKE '%{name}%'"))


def erase(made: Harbour, key: int = 1, **options: Any) -> list[str]:
    return list(wiring.erase(made.settings, "ferries", str(key), reason="asked to", **options))


def noted(made: Harbour, key: int) -> list[str]:
    """The states in which the erasures of a key were noted."""
    digest = sha256(str(key).encode()).hexdigest()
    rows = made.rows(
        f"SELECT toString(state) FROM cdc.erasures WHERE key_sha256 = '{digest}' ORDER BY state"
    )
    return [state for (state,) in rows]


def messages(made: Harbour) -> int:
    """How many messages the ferries' topic has."""
    consumer = Consumer({**Broker(made.settings.kafka).options, "group.id": "erased"})
    first, end = consumer.get_watermark_offsets(TopicPartition("cdc.ferries", 0), timeout=10)
    consumer.close()
    assert end > 0
    return int(end - first)


def test_a_row_that_postgres_has_is_not_erased_unless_told(made: Harbour) -> None:
    with pytest.raises(NeedsPerson, match="PostgreSQL has the row of key 1"):
        erase(made)
    with pytest.raises(WrongUsage, match="for a reason"):
        list(wiring.erase(made.settings, "ferries", "1", reason=" "))
    made.postgres("UPDATE ferries SET name = 'another' WHERE id = 1")
    made.settle()
    erase(made, former=True)
    assert [place for place in KEPT if holding(made, place)] == []
    assert made.rows("SELECT id, name FROM olap.dim_ferry") == [(1, "another")]
    assert wiring.quality(made.settings, deep=True, restart=True).passed


def test_a_row_that_postgres_deleted_is_nowhere_afterwards(made: Harbour) -> None:
    assert [place for place in KEPT if holding(made, place)] == list(KEPT)
    made.postgres("DELETE FROM ferries WHERE id = 1")
    made.settle()
    lines = erase(made)
    assert [place for place in KEPT if holding(made, place)] == []
    assert made.rows("SELECT count() FROM cdc.history_ferries") == [(0,)]
    assert made.rows("SELECT offset FROM cdc.dead_letters WHERE source_table = 'ferries'") == [(2,)]
    assert any("cdc.ferries: the messages below offset" in line for line in lines), lines
    assert messages(made) == 0
    audit = made.rows(
        "SELECT source_table, toString(state), key_sha256, dead_letters, reason, done_by != ''"
        " FROM cdc.erasures WHERE run = (SELECT argMax(run, noted_at) FROM cdc.erasures)"
        " ORDER BY state"
    )
    digest = sha256(b"1").hexdigest()
    assert audit == [("ferries", s, digest, 1, "asked to", 1) for s in ("begun", "done")]
    made.postgres("INSERT INTO ferries VALUES (1, 'new')")
    made.settle()
    assert made.rows("SELECT id, name FROM olap.dim_ferry") == [(1, "new")]
    assert wiring.quality(made.settings, deep=True, restart=True).passed
    assert Topics(made.settings.kafka).ends(["cdc.ferries"])["cdc.ferries"] > 0


def test_an_erasure_is_not_done_while_the_broker_does_not_answer(
    made: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.postgres("DELETE FROM ferries WHERE id = 1")
    made.settle()
    before = noted(made, 1).count("done")

    def silent(*_: object) -> str:
        raise Unreachable("the broker does not answer")

    with monkeypatch.context() as outage:
        outage.setattr(Topics, "forget", silent)
        with pytest.raises(Unreachable):
            erase(made)
    assert noted(made, 1).count("done") == before
    erase(made)
    assert noted(made, 1).count("done") == before + 1
    assert messages(made) == 0


def killed(made: Harbour, key: int, point: str) -> None:
    """An erasure of a ferry that is killed where it reaches the point."""
    processes.killed(
        made.settings,
        "tests.integration.interrupted_erasure",
        key,
        point,
        SLUICE_MODELS=made.settings.models,
        SLUICE_OUT=made.settings.out,
        SLUICE_SLOT=made.settings.relay.slot,
        PYTHONPATH=os.pathsep.join([str(made.folder), str(PACKAGE.parent)]),
    )


def test_an_erasure_that_is_killed_between_any_two_effects_is_done_whole_by_the_next(
    made: Harbour,
) -> None:
    ferries = {100 + number: point for number, point in enumerate(POINTS)}
    for key in ferries:
        made.postgres(
            f"INSERT INTO ferries VALUES ({key}, 'gone_{key}')",
            f"INSERT INTO crossings VALUES ({key}, {key}, 5)",
        )
        made.clickhouse(
            "INSERT INTO cdc.dead_letters (source_table, broker_epoch, offset, key, value, reason)"
            f""" VALUES ('ferries', 'e', {key}, '{{"id":{key}}}', 'gone_{key}', 'unfit')"""
        )
    made.settle()
    assert has(made, "cdc.fact_crossing", f"gone_{max(ferries)}")
    made.postgres("DELETE FROM ferries WHERE id >= 100")
    made.settle()
    for key, point in ferries.items():
        killed(made, key, point)
        left = set(POINTS[POINTS.index(point) + 1 :])
        assert has(made, "cdc.history_ferries", f"gone_{key}") is ("history erased" in left)
        assert has(made, "cdc.dead_letters", f"gone_{key}") is ("dead letters erased" in left)
        assert (messages(made) > 0) is ("messages deleted" in left)
        assert noted(made, key) == (["begun"] if left else ["begun", "done"])
    for key in ferries:
        erase(made, key)
        assert noted(made, key)[-1] == "done"
    assert [place for place in KEPT if has(made, place, "gone_")] == []
