"""Tables are drained, and facts rebuilt, several at a time; those without changes cost nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine

from sluice import wiring
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.drain import POINTS, Drain
from sluice.drain.ports import Checkpoint
from sluice.drain.side_by_side import Books
from sluice.errors import StaleCheckpoint
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.oracle import change, facts, joined
from tests.support.pipeline import CATALOG, checked, relaying
from tests.support.waiting import until

pytestmark = pytest.mark.services
NAMES = frozenset(table.name for table in CATALOG.tables)


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    """A store with orders, whose relay runs."""
    load(services, customers=30, orders=60, seed=3)
    wiring.query(services, "TRUNCATE TABLE cdc.dead_letters")  # of other modules
    with relaying(services):
        checked(services)
        engine = make_engine(services.postgres)
        yield engine
        engine.dispose()


@pytest.fixture
def settings(services: Settings) -> Settings:
    """Small chunks, so that each table takes several."""
    return replace(services, drain=replace(services.drain, chunk=40, threads=3))


def send(settings: Settings, engine: Engine, seed: int) -> None:
    """Put changes of every table on the topics."""
    topics = Topics(settings.kafka)
    names = [table.topic for table in CATALOG.tables]
    before = topics.ends(names)
    change(engine, random.Random(seed), 400)
    until(
        lambda: all(end > before[name] for name, end in topics.ends(names).items()),
        "every topic has changes",
    )


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements on ClickHouse."""
    statements: list[str] = []
    original = ClickHouse._run

    def run(self: ClickHouse, statement: str, *given: Any, **options: Any) -> Any:
        statements.append(statement)
        return original(self, statement, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ClickHouse, "_run", run)
        yield statements


def drained(settings: Settings) -> None:
    """Drain until every topic is at its end."""
    until(lambda: wiring.drain_all(settings).at_end == NAMES, "every topic is drained")


def test_tables_and_facts_without_changes_cost_no_queries_of_their_own(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, engine, 1)
    drained(settings)
    wiring.rebuild_all(settings).require()
    with counted(monkeypatch) as statements:
        done = wiring.drain_all(settings)
    assert (done.at_end, list(done.reports)) == (NAMES, [])
    assert len(statements) == 2, statements
    with counted(monkeypatch) as statements:
        assert not wiring.rebuild_all(settings).results
    assert len(statements) == 3, statements


def test_every_table_is_drained_and_its_run_recorded(engine: Engine, settings: Settings) -> None:
    send(settings, engine, 2)
    recorded = "SELECT source_table, count() FROM cdc.drains GROUP BY source_table"
    before = dict(wiring.query(settings, recorded)[1])
    done = wiring.drain_all(settings)
    done.require()
    assert {report.table for report in done.reports} == NAMES
    after = dict(wiring.query(settings, recorded)[1])
    assert {name: after[name] - before.get(name, 0) for name in NAMES} == dict.fromkeys(NAMES, 1)


@pytest.mark.parametrize(
    "point", ["chunk read", "rows written", "checkpoint written", "offset committed"]
)
def test_drains_that_end_beside_one_another_at_any_point_lose_nothing(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    passed = threading.Semaphore(2)

    def reached(at: str) -> None:
        if at == point and not passed.acquire(blocking=False):
            raise InterruptedError

    send(settings, engine, POINTS.index(point))
    with monkeypatch.context() as patch:
        patch.setattr(wiring.drains, "Drain", partial(Drain, reached=reached))
        with pytest.raises(InterruptedError):
            wiring.drain_all(settings)
    agree(settings, engine)


def agree(settings: Settings, engine: Engine) -> None:
    drained(settings)
    wiring.rebuild_all(settings).require()
    assert facts(settings) == joined(engine)


def test_drains_of_all_tables_at_once_agree(engine: Engine, settings: Settings) -> None:
    send(settings, engine, 20)
    with ThreadPoolExecutor(3) as pool:
        for running in [pool.submit(wiring.drain_all, settings) for _ in range(3)]:
            running.result().require()
    agree(settings, engine)
    assert not checked(settings, deep=True).failures


def test_a_large_backlog_is_shared_out_whole(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, engine, 21)
    monkeypatch.setattr(wiring.backlog, "_LARGE", 1)
    left = wiring.drain_all(settings, processes=3)
    assert sorted(name for share in left.shares for name in share) == sorted(NAMES)
    assert (len(left.shares), list(left.reports)) == (3, [])
    for share in left.shares:
        assert wiring.drain_all(settings, share).at_end == set(share)
    drained(settings)


@pytest.fixture
def books(services: Settings) -> Iterator[tuple[Books, ClickHouse]]:
    with closing(ClickHouse(services.clickhouse)) as session:
        yield Books(session), session
        session.execute("DELETE FROM cdc.checkpoints WHERE source_table LIKE 'books %'")


def test_checkpoints_that_wait_together_are_written_by_one_insert_and_a_stale_one_is_named(
    books: tuple[Books, ClickHouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    book, session = books
    empty = [Checkpoint(source_table=f"books {number}") for number in range(10)]
    first = [one.following() for one in empty[:4]]
    for one in first:
        book.advance(one)
    following = [one.following() for one in (*first, *empty[4:8])]
    stale = [empty[3].following(), empty[9].following().following()]
    with ThreadPoolExecutor(10) as pool, counted(monkeypatch) as statements:
        with book._turn:  # nobody writes until all wait
            running = {one: pool.submit(book.advance, one) for one in (*following, *stale)}
            until(lambda: len(book._waiting) == 10, "all wait")
        refused = {
            one for one, done in running.items() if isinstance(done.exception(), StaleCheckpoint)
        }
    assert refused == set(stale)
    assert len([statement for statement in statements if "INSERT" in statement]) == 1
    present = ClickHouseStore(session).checkpoints()
    assert [present[one.source_table] for one in following] == following
    assert "books 9" not in present


def test_of_writers_that_race_one_that_did_not_hear_of_another_has_won(
    services: Settings,
) -> None:
    with ExitStack() as opened:
        one, two, reader = (
            opened.enter_context(closing(ClickHouse(services.clickhouse))) for _ in range(3)
        )
        opened.callback(
            reader.execute, "DELETE FROM cdc.checkpoints WHERE source_table LIKE 'books %'"
        )
        present = {name: Checkpoint(source_table=f"books {name}") for name in ("x", "y")}
        for _ in range(8):
            with ThreadPoolExecutor(4) as pool:
                running = {
                    wanted: pool.submit(book.advance, wanted)
                    for book in (Books(one), Books(two))
                    for at in present.values()
                    if (wanted := at.following())
                }
            unrefused = {wanted for wanted, done in running.items() if done.exception() is None}
            for query in ("SELECT 1", "OPTIMIZE TABLE cdc.checkpoints FINAL"):
                reader.execute(query)
                stored = ClickHouseStore(reader).checkpoints()
                present = {name: stored[f"books {name}"] for name in present}
                assert set(present.values()) <= unrefused
