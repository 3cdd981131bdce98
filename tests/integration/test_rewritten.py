"""A table that is rewritten loses no row, whatever reads it as of a point before that.

PostgreSQL shows such a table as empty to every snapshot that is older than the rewrite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture import exported_snapshot, fenced_snapshot, initial_copy
from sluice.capture import slot as slots
from sluice.capture.fenced_snapshot import exact_snapshot, hold
from sluice.errors import NotReady
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.oracle import facts, joined
from tests.support.pipeline import CATALOG, checked, relaying

pytestmark = pytest.mark.services

TABLE = "order_items"
# What takes the table's file away, in PostgreSQL.
REWRITES = {
    "a type changed": f"ALTER TABLE {TABLE} ALTER quantity TYPE int USING quantity + 0",
    "vacuumed in full": f"VACUUM FULL {TABLE}",
}


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=10, orders=30, seed=12)
    with relaying(services):
        assert not checked(services).failures
    yield made
    made.dispose()


@contextmanager
def rewritten(engine: Engine, statement: str) -> Iterator[list[str]]:
    """The first snapshot that is opened is older than a rewrite; what was done."""
    export, done = exported_snapshot.export_snapshot, list[str]()

    def opened(*arguments: Any) -> Any:
        found = export(*arguments)
        if not done:
            done.append(statement)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(statement))
        return found

    with (
        patch.object(fenced_snapshot, "export_snapshot", opened),
        patch.object(initial_copy, "export_snapshot", opened),
    ):
        yield done


def resync(settings: Settings) -> None:
    report = wiring.resync(settings, TABLE, restart=True)
    assert (report.deleted, report.rejected) == (0, 0)


def resync_of_keys(settings: Settings) -> None:
    assert wiring.resync(settings, TABLE, keys=["1", "2"]).deleted == 0


def deep_check(settings: Settings) -> None:
    assert wiring.quality(settings, deep=True, restart=True).failures == []


STEPS: tuple[Callable[[Settings], None], ...] = (resync, resync_of_keys, deep_check)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_rewrite_takes_no_row_away(
    services: Settings, engine: Engine, rewrite: str, step: Callable[[Settings], None]
) -> None:
    with relaying(services):
        checked(services)
        with rewritten(engine, REWRITES[rewrite]) as done:
            step(services)
        assert done
        agree(services, engine)


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_rewrite_takes_no_row_from_the_first_copy(
    services: Settings, engine: Engine, rewrite: str
) -> None:
    with rewritten(engine, REWRITES[rewrite]) as done, relaying(services, snapshot=True):
        assert done
        agree(services, engine)


def test_a_table_under_anothers_name_is_not_read_as_of_before(
    services: Settings, engine: Engine
) -> None:
    table = CATALOG.table(TABLE)
    with slots.session(services.postgres) as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {TABLE} RENAME TO kept"))
            connection.execute(text(f"CREATE TABLE {TABLE} (LIKE kept)"))
        assert hold(cursor, [table]) == {table.name}
        cursor.execute("ROLLBACK")
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {TABLE}"))
        connection.execute(text(f"ALTER TABLE kept RENAME TO {TABLE}"))


def test_an_exact_count_of_a_rewritten_table_is_none(services: Settings, engine: Engine) -> None:
    with (
        rewritten(engine, REWRITES["a type changed"]),
        exact_snapshot(services, lambda _: {}) as snapshot,
        pytest.raises(NotReady, match="rewrote table order_items"),
    ):
        snapshot.count(CATALOG.table(TABLE))


def agree(services: Settings, engine: Engine) -> None:
    assert wiring.quality(services, deep=True, restart=True).failures == []
    assert facts(services) == joined(engine) != []
