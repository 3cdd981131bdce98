"""`sluice demo` outlasts PostgreSQL, and never ends with a traceback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sluice.embedded.stack import Stack
from sluice.errors import NeedsPerson, NotReady, Unreachable
from sluice.settings import Settings
from store_api.database import create_tables, make_engine
from store_api.demo import run
from tests.support.processes import SLUICE
from tests.support.services import free_ports, stack_environment, started, temporary_home

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def store() -> Iterator[tuple[dict[str, str], Settings, Stack]]:
    """A PostgreSQL of its own, with the store's tables."""
    with temporary_home() as home:
        environment = stack_environment(home)
        with started(environment, ["postgres"]) as (settings, stack):
            create_tables(settings.postgres)
            yield environment, settings, stack


def test_it_waits_for_postgresql_and_continues_when_it_is_back(
    store: tuple[dict[str, str], Settings, Stack],
) -> None:
    _, settings, stack = store
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if "changes" in line and not any("answer" in said for said in lines):
            stack.halt(["postgres"])
        elif "does not answer" in line:
            stack.start(["postgres"], lambda _: None)

    done = run(settings, rate=200, seconds=8, seed=1, report=report)
    told = [line for line in lines if "answer" in line]
    assert [line.partition(" does")[2] or "again" for line in told][1:] == ["again"], told
    assert "does not answer; waiting: " in told[0]
    before = int(lines[0].split()[2])
    assert sum(done.values()) > before


def test_it_ends_with_an_error_where_postgresql_does_not_come_back(
    store: tuple[dict[str, str], Settings, Stack],
) -> None:
    environment, _, stack = store
    stack.halt(["postgres"])
    try:
        done = subprocess.run(
            [SLUICE, "demo", "--seconds", "1"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        stack.start(["postgres"], lambda _: None)
    assert done.returncode == 3, done
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_conflict_is_left_out_and_the_traffic_goes_on(
    store: tuple[dict[str, str], Settings, Stack],
) -> None:
    _, settings, _ = store
    engine = make_engine(settings.postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE orders ADD CONSTRAINT few CHECK (total < 0) NOT VALID"
        )
    try:
        done = run(settings, rate=200, seconds=1, seed=2)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE orders DROP CONSTRAINT few")
        engine.dispose()
    assert done["conflicts"]
    assert sum(done.values()) > done["conflicts"]
    assert "new orders" not in done


def test_what_a_person_has_to_do_is_said_at_once(
    store: tuple[dict[str, str], Settings, Stack],
) -> None:
    _, settings, _ = store
    elsewhere = replace(settings, postgres=replace(settings.postgres, database="postgres"))
    with pytest.raises(NotReady, match=r"products.*\n.*sluice up"):
        run(elsewhere, rate=10, seconds=1, seed=3)
    closed = replace(settings, postgres=replace(settings.postgres, port=free_ports(1)[0]))
    with pytest.raises(Unreachable, match="does not answer"):
        run(closed, rate=10, seconds=1, seed=3)
    engine = make_engine(settings.postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE order_items RENAME COLUMN price TO cost")
    try:
        with pytest.raises(NeedsPerson, match="price"):
            run(settings, rate=200, seconds=2, seed=4)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE order_items RENAME COLUMN cost TO price")
        engine.dispose()
