"""A table whose changes cannot be sent is left out, said so, and brought back by one command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture.relay import DUTIES, PUBLICATION
from sluice.catalog.key_selection import Selection
from sluice.clients.topics import Topics
from sluice.errors import NotReady, SluiceError
from sluice.quality.checks import Check
from sluice.repair.resync import Resync
from sluice.settings import Settings
from sluice.warehouse.parked import Hole
from sluice.wiring import repairs
from sluice.wiring.checks import compared
from sluice.wiring.context import opened
from store_api.database import make_engine
from store_api.demo import load
from tests.support.oracle import facts, joined
from tests.support.pipeline import CATALOG, checked, relaying
from tests.support.services import own_services
from tests.support.waiting import until

pytestmark = pytest.mark.services

TABLE = "order_items"
KEY = "ALTER TABLE order_items DROP CONSTRAINT order_items_pkey, ADD PRIMARY KEY"
LIKE = "LIKE order_items INCLUDING DEFAULTS INCLUDING INDEXES"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What happens to the table.

    Attributes:
        change: statements; `{}` is the publication.
        reason: is in the finding's text.
        by_hand: what its owner does where the remedy is no statement and no command.
        after: puts aside what the case needed.
        place: where its rows are then.
        new: whether the models did not have the table when the last snapshot was noted.
    """

    change: tuple[str, ...]
    reason: str
    by_hand: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    place: str = TABLE
    new: bool = False


CAUSES = {
    "no replica identity": Cause(
        change=("ALTER TABLE order_items REPLICA IDENTITY NOTHING",),
        reason="deletes do not carry its primary key",
    ),
    "another key": Cause(
        change=(f"{KEY} (id, order_id)",),
        reason="its primary key in PostgreSQL is not the model's",
        by_hand=(f"{KEY} (id)",),
    ),
    "renamed": Cause(
        change=("ALTER TABLE order_items RENAME TO moved",),
        reason="PostgreSQL has no table public.order_items",
        by_hand=("ALTER TABLE moved RENAME TO order_items",),
        place="moved",
    ),
    "renamed and swapped": Cause(
        change=(
            f"CREATE TABLE other ({LIKE})",
            "INSERT INTO other SELECT * FROM order_items WHERE id % 2 = 0",
            "ALTER TABLE order_items RENAME TO former",
            "ALTER TABLE other RENAME TO order_items",
        ),
        reason='lacks "public"."order_items"',
        after=(
            "ALTER TABLE order_items ALTER id DROP DEFAULT",
            "ALTER SEQUENCE order_items_id_seq OWNED BY order_items.id",
            "ALTER TABLE order_items ALTER id SET DEFAULT nextval('order_items_id_seq')",
            "DROP TABLE former",
        ),
    ),
    "dropped and made again": Cause(
        change=(
            f"CREATE TABLE other ({LIKE})",
            "INSERT INTO other SELECT * FROM order_items WHERE id % 3 > 0",
            "ALTER SEQUENCE order_items_id_seq OWNED BY other.id",
            "DROP TABLE order_items",
            "ALTER TABLE other RENAME TO order_items",
        ),
        reason='lacks "public"."order_items"',
    ),
    "dropped, made again and published": Cause(
        change=(
            f"CREATE TABLE other ({LIKE})",
            "INSERT INTO other SELECT * FROM order_items WHERE id % 5 > 0",
            "ALTER SEQUENCE order_items_id_seq OWNED BY other.id",
            "DROP TABLE order_items",
            "ALTER TABLE other RENAME TO order_items",
            "ALTER PUBLICATION {} ADD TABLE order_items",
        ),
        reason="table order_items was removed from publication",
    ),
    "not in the publication": Cause(
        change=("ALTER PUBLICATION {} DROP TABLE order_items",),
        reason='lacks "public"."order_items"',
    ),
    "never in the publication": Cause(
        change=("ALTER PUBLICATION {} DROP TABLE order_items",),
        reason='lacks "public"."order_items"',
        new=True,
    ),
    "not in the publication for a while": Cause(
        change=(
            "ALTER PUBLICATION {} DROP TABLE order_items",
            "DELETE FROM order_items WHERE id % 7 = 0",
            "ALTER PUBLICATION {} ADD TABLE order_items",
        ),
        reason="table order_items was removed from publication",
    ),
    "sent with a row filter": Cause(
        change=(
            "ALTER PUBLICATION {} DROP TABLE order_items",
            "ALTER PUBLICATION {} ADD TABLE order_items WHERE (id % 2 = 0)",
        ),
        reason="sends table order_items with a row filter",
    ),
    "sent without a column": Cause(
        change=(
            "ALTER PUBLICATION {} DROP TABLE order_items",
            "ALTER PUBLICATION {} ADD TABLE order_items (id, order_id, product_id, price)",
        ),
        reason="sends table order_items without its columns quantity",
    ),
    "a partition sent in its root's name": Cause(
        change=(
            "CREATE TABLE whole (LIKE order_items) PARTITION BY RANGE (id)",
            "ALTER TABLE whole ATTACH PARTITION order_items FOR VALUES FROM (MINVALUE)"
            " TO (MAXVALUE)",
            "ALTER PUBLICATION {} DROP TABLE order_items",
            "ALTER PUBLICATION {} ADD TABLE whole",
        ),
        reason='sends partition "public"."order_items" in the name of public.whole',
        after=("ALTER TABLE whole DETACH PARTITION order_items", "DROP TABLE whole"),
    ),
    "partitions sent in their own names": Cause(
        change=(
            f"CREATE TABLE other ({LIKE}) PARTITION BY RANGE (id)",
            "CREATE TABLE part PARTITION OF other DEFAULT",
            "INSERT INTO other SELECT * FROM order_items WHERE id % 2 = 0",
            "ALTER SEQUENCE order_items_id_seq OWNED BY other.id",
            "DROP TABLE order_items",
            "ALTER TABLE other RENAME TO order_items",
            "ALTER PUBLICATION {} ADD TABLE order_items",
            "ALTER PUBLICATION {} SET (publish_via_partition_root = false)",
        ),
        reason="sends the partitions of table order_items in their own names",
    ),
}
# While the relay runs it finds the same faults in the same way; these begin otherwise in the
# stream, or not at all.
WHILE_RUNNING = (
    "no replica identity",
    "another key",
    "renamed and swapped",
    "sent with a row filter",
)
CASES = [(cause, False) for cause in CAUSES] + [(cause, True) for cause in WHILE_RUNNING]
CASES.sort(key=lambda case: list(CAUSES).index(case[0]))  # some leave other names behind


# Of its own: it leaves a partitioned table behind.
services = own_services


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DUTIES, PUBLICATION, 0.5)


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=10, orders=30, seed=11)
    with relaying(services):
        assert not checked(services).failures
    yield made
    made.dispose()


def run(engine: Engine, settings: Settings, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement.format(settings.relay.publication)))


def open_holes(settings: Settings) -> list[Hole]:
    with opened(settings) as run:
        return run.holes.open()


def customers_arrive(settings: Settings, engine: Engine, name: str) -> None:
    run(
        engine,
        settings,
        "INSERT INTO customers (email, name, country, city, created_at)"
        f" VALUES ('{name}@example.com', '{name}', 'USA', 'NYC', now())",
    )

    def arrived() -> bool:
        wiring.drain(settings, "customers")
        query = f"SELECT count() FROM olap.dim_customer WHERE name = '{name}'"
        return wiring.query(settings, query)[1] == [(1,)]

    until(arrived, f"customer {name} is in ClickHouse")


@pytest.mark.parametrize(("cause", "running"), CASES)
def test_one_table_is_parked_and_brought_back_while_the_others_go_on(
    services: Settings, engine: Engine, cause: str, running: bool
) -> None:
    case, number = CAUSES[cause], CASES.index((cause, running))
    with relaying(services) if running else nullcontext():
        if running:
            customers_arrive(services, engine, f"before_{number}")
        run(engine, services, *case.change)
        if case.new:
            forget(services)
        if running:
            until(
                lambda: [hole.table for hole in open_holes(services)] == [TABLE],
                "the table is parked",
            )
            customers_arrive(services, engine, f"parked_{number}")
    run(
        engine,
        services,
        f"INSERT INTO {case.place} SELECT id + 1000000 + {number}000, order_id, product_id,"
        f" quantity, price FROM {case.place} WHERE id % 3 = 0 AND id < 1000000",
    )
    with relaying(services):
        customers_arrive(services, engine, f"restarted_{number}")
        (parked,) = open_holes(services)
        found = finding(services)
        assert (parked.table, found.status) == (TABLE, "fail")
        assert case.reason in found.difference
        follow(services, engine, found.repair, case.by_hand)
        run(engine, services, f"DELETE FROM {TABLE} WHERE id % 4 = 0 AND id > 1000000")
        assert open_holes(services) == []
        report = wiring.quality(services, deep=True)
        assert report.passed, report.failures
        assert facts(services) == joined(engine)
    run(engine, services, *case.after)


def follow(settings: Settings, engine: Engine, repair: str, by_hand: Sequence[str]) -> None:
    """Do what a finding says: in PostgreSQL what it names there, then its commands."""
    run(engine, settings, *by_hand)
    told = repair.split(", or in PostgreSQL as", maxsplit=1)[0]
    if statement := re.search(r"in PostgreSQL: (.+?)(?:; then|$)", told):
        run(engine, settings, statement[1])
    if "sluice init" in told:
        wiring.initialise(settings)
    (table,) = re.findall(r"run: sluice resync (\w+)$", repair)
    wiring.resync(settings, table)


def forget(settings: Settings) -> None:
    """Note what the relay would have noted of models without the table."""
    topics = Topics(settings.kafka)
    noted = topics.slot_note(settings.relay.slot)
    assert noted is not None
    del noted["publication"]["tables"][TABLE], noted["epoch"]
    topics.note_slot(noted)


def test_the_hole_of_a_new_table_is_closed_by_its_first_rows(
    services: Settings, engine: Engine
) -> None:
    run(engine, services, "ALTER PUBLICATION {} DROP TABLE order_items")
    forget(services)
    with relaying(services):
        customers_arrive(services, engine, "new_before")
        assert [hole.table for hole in open_holes(services)] == [TABLE]
    run(engine, services, "DELETE FROM order_items WHERE id % 11 = 0")
    wiring.initialise(services)
    with relaying(services):
        customers_arrive(services, engine, "new_added")

        def added() -> bool:
            wiring.drain(services, TABLE)
            return not open_holes(services)

        until(added, "no change of the table is left out")
        run(engine, services, "DELETE FROM order_items WHERE id % 13 = 0")
        customers_arrive(services, engine, "new_after")
        report = wiring.quality(services, deep=True)
        assert report.passed, report.failures
        assert facts(services) == joined(engine)


def finding(settings: Settings) -> Check:
    """The check of the parked table."""
    checks = wiring.quality(settings).checks
    return next(check for check in checks if (check.table, check.check) == FOUND)


def test_a_table_that_was_parked_stays_a_finding_until_a_whole_resync_is_done(
    services: Settings, engine: Engine
) -> None:
    with relaying(services):
        customers_arrive(services, engine, "found")
        run(engine, services, "ALTER TABLE order_items REPLICA IDENTITY NOTHING")
        until(lambda: bool(open_holes(services)), "the table is parked")
        found = finding(services)
        assert found.status == "fail"
        assert "REPLICA IDENTITY DEFAULT" in found.repair
        run(engine, services, "ALTER TABLE order_items REPLICA IDENTITY DEFAULT")
        until(lambda: open_holes(services)[0].sent is not None, "the relay sends the table again")
        wiring.resync(services, TABLE, keys=["1"])
        bounded = wiring.plan_resync(services, TABLE, lower="1")
        left = wiring.resync_share(services, TABLE, bounded.run, 0, 1)
        assert "it stays parked" in left.sentence()
        table = CATALOG.table(TABLE)
        with wiring.resyncing(services, table) as step:
            whole = replace(step, rows=10).plan(table, Selection(), restart=True)
        wiring.resync_share(services, TABLE, whole.run, 0, 2)
        assert open_holes(services)
        one = f"WHERE id = (SELECT min(id) FROM {TABLE})"
        run(engine, services, f"UPDATE {TABLE} SET price = 'NaN' {one}")
        kept = wiring.resync(services, TABLE, restart=True)
        assert (kept.rejected, "it stays parked" in kept.sentence()) == (1, True)
        run(engine, services, f"UPDATE {TABLE} SET price = 1 {one}")
        assert open_holes(services)
        for point in ("fence taken", "rows published", "rows drained"):
            with pytest.raises(Killed), killed_at(point):
                wiring.resync(services, TABLE)
            assert open_holes(services)
        assert any(
            (c.table, c.check, c.status) == (*FOUND, "fail")
            for c in wiring.quality(services).checks
        )
        with wiring.resyncing(services, table) as step:
            whole = replace(step, rows=10).plan(table, Selection(), restart=True)
        for share in range(2):
            assert open_holes(services)
            wiring.resync_share(services, TABLE, whole.run, share, 2)
        assert wiring.quality(services, deep=True).passed


def test_a_repair_of_what_differs_closes_the_hole_and_of_less_says_that_it_stays(
    services: Settings, engine: Engine
) -> None:
    with relaying(services):
        customers_arrive(services, engine, "differs")
        run(engine, services, "ALTER TABLE order_items REPLICA IDENTITY NOTHING")
        until(lambda: bool(open_holes(services)), "the table is parked")
        run(
            engine,
            services,
            "INSERT INTO order_items SELECT id + 3000000, order_id, product_id, quantity, price"
            " FROM order_items WHERE id < 20",
        )
        lines: list[str] = []
        with pytest.raises(SluiceError, match="REPLICA IDENTITY DEFAULT"):
            lines += wiring.repair(services)
        assert any(line.startswith("customers: ") for line in lines)
        run(engine, services, "ALTER TABLE order_items REPLICA IDENTITY DEFAULT")
        for part in ({"keys": ["1"]}, {"lower": "3000000"}):
            left = wiring.resync(services, TABLE, **part).sentence()
            assert "it stays parked: its changes " in left
            assert left.endswith("sluice resync order_items")
        with patch.object(repairs, "compared", partial(parked_meanwhile, services)):
            list(wiring.repair(services, [TABLE]))
        (hole,) = open_holes(services)
        assert hole.reason == "parked meanwhile"
        lines = list(wiring.repair(services, [TABLE]))
        assert any("order_items is no longer parked" in line for line in lines)
        assert open_holes(services) == []
        assert wiring.quality(services, deep=True).passed
        assert facts(services) == joined(engine)


def test_operations_that_the_publication_left_out_between_two_looks_are_found_and_brought(
    services: Settings, engine: Engine
) -> None:
    with relaying(services):
        customers_arrive(services, engine, "options_before")
        run(
            engine,
            services,
            "ALTER PUBLICATION {} SET (publish = 'insert')",
            "UPDATE order_items SET quantity = quantity + 1 WHERE id < 6",
            "DELETE FROM order_items WHERE id = 6",
            "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')",
        )
        customers_arrive(services, engine, "options_after")
        assert open_holes(services) == []
        (rows,) = (
            check
            for check in wiring.quality(services, deep=True).checks
            if (check.table, check.check) == (TABLE, "rows")
        )
        assert rows.status == "fail"
        assert rows.repair.startswith(f"run: sluice resync {TABLE}")
        list(wiring.repair(services))
        assert wiring.quality(services, deep=True, restart=True).passed
        assert facts(services) == joined(engine)


def parked_meanwhile(settings: Settings, *arguments: Any) -> Any:
    """The table is parked once more, and sent again, while it is compared."""
    found = compared(*arguments)
    with opened(settings) as run:
        hole = run.holes.begin(TABLE, 1, NotReady("parked meanwhile"))
        run.holes.end(hole, 2)
    return found


FOUND = (TABLE, "parked")


class Killed(Exception):
    """The process ended."""


@contextmanager
def killed_at(point: str) -> Iterator[None]:
    def reached(now: str) -> None:
        if now == point:
            raise Killed

    with patch.object(wiring.resyncs, "Resync", partial(Resync, reached=reached)):
        yield
