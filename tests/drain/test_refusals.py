"""ClickHouse that loses replies, refuses, or dies in an insert: no advance without its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import psutil
import pytest

from sluice.catalog import Table
from sluice.clients.clickhouse import ClickHouse
from sluice.drain import drain as draining
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.errors import Refused, Retryable, Unreachable
from tests.drain.proxy import Proxy, proxy
from tests.drain.table import DrainedTable, drain_of
from tests.support.products import DECODER, TABLE
from tests.support.waiting import until

pytestmark = pytest.mark.services

INSERT = f"INSERT INTO cdc.{TABLE.storage}".encode()


@pytest.fixture
def table(environment: dict[str, str]) -> Iterator[DrainedTable]:
    made = DrainedTable(environment)
    made.begin()
    with closing(made.clickhouse):
        yield made


def test_an_insert_whose_reply_is_lost_is_done_again_with_the_same_result(
    table: DrainedTable,
) -> None:
    way = Proxy(
        target=table.settings.clickhouse.port,
        marker=INSERT,
        column=b"_version",
        may_cut=lambda: stored(table) > 0,
    )
    with proxy(way), pytest.raises(Unreachable):
        table.drain(port=way.port)
    assert way.lost.is_set()
    once = table.rows()
    assert once > 0
    assert table.next_offset() == 0
    table.require_converged()
    assert table.rows() >= once


def stored(table: DrainedTable) -> int:
    with closing(ClickHouse(table.settings.clickhouse)) as clickhouse:
        return int(clickhouse.execute(f"SELECT count() FROM cdc.{TABLE.storage}")[0][0])


def test_a_server_that_is_killed_in_an_insert_is_found_again(table: DrainedTable) -> None:
    def kill() -> None:
        home = str(table.settings.home)
        for process in psutil.process_iter(["cmdline"]):
            if f"{home}/clickhouse" in (process.info["cmdline"] or ()):
                process.kill()
                process.wait(10)

    way = Proxy(
        target=table.settings.clickhouse.port,
        marker=INSERT,
        column=b"_version",
        may_cut=lambda: True,
        before_end=kill,
    )
    with proxy(way), pytest.raises(Unreachable):
        table.drain(port=way.port)
    # It is started again by its supervisor.
    until(lambda: [stored(table)], "ClickHouse answers", retry=Retryable)
    assert stored(table) == 0
    table.clickhouse.close()
    assert table.next_offset() == 0
    table.require_converged()


@contextmanager
def too_many_parts(table: DrainedTable) -> Iterator[None]:
    """A table that takes no second part."""
    name = f"cdc.{TABLE.storage}"
    table.clickhouse.execute(f"SYSTEM STOP MERGES {name}")
    table.clickhouse.execute(f"ALTER TABLE {name} MODIFY SETTING parts_to_throw_insert = 1")
    try:
        yield
    finally:
        table.clickhouse.execute(f"ALTER TABLE {name} RESET SETTING parts_to_throw_insert")
        table.clickhouse.execute(f"SYSTEM START MERGES {name}")


def test_too_many_parts_are_waited_out_without_an_advance(
    table: DrainedTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(draining, "_WAITS", (0.1, 0.1))
    with too_many_parts(table):
        with pytest.raises(Refused, match="Too many parts"):
            table.drain()
        assert table.next_offset() < table.events
        assert caplog.text.count("trying again") == 2
    table.require_converged()


def test_an_insert_is_taken_when_the_parts_are_merged_meanwhile(
    table: DrainedTable, caplog: pytest.LogCaptureFixture
) -> None:
    with drain_of(table.settings) as drain, ThreadPoolExecutor(1) as pool:
        with too_many_parts(table):
            running = pool.submit(drain.run, DECODER)
            until(lambda: "trying again" in caplog.text, "the drain tries again")
        assert running.result(60).caught_up
    table.require_converged()


class Limited(ClickHouseStore):
    """Writes rows in a session of its own, with these settings of the server."""

    def __init__(self, table: DrainedTable, **limits: int) -> None:
        super().__init__(table.clickhouse)
        clickhouse = replace(table.settings.clickhouse, options={"settings": limits})
        self.rows = ClickHouseStore(ClickHouse(clickhouse))
        self.sizes: list[int] = []

    def append(self, table: Table, columns: Sequence[Sequence[Any]]) -> None:
        self.sizes.append(len(columns[0]))
        self.rows.append(table, columns)


def test_an_insert_that_needs_too_much_memory_is_split_to_the_end(
    table: DrainedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_SMALLEST", 1)
    store = Limited(table, max_memory_usage=1, max_untracked_memory=1)
    with drain_of(table.settings) as drain, pytest.raises(Refused, match="memory limit") as caught:
        replace(drain, store=store).run(DECODER)
    assert caught.value.too_large
    assert store.sizes == sorted(store.sizes, reverse=True)
    assert store.sizes[0] > store.sizes[-1] == 1
    assert (table.rows(), table.next_offset()) == (0, 0)
    table.require_converged()


def test_a_session_that_may_only_read_changes_nothing(
    table: DrainedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_WAITS", (0.1,))
    store = Limited(table, readonly=2)
    with drain_of(table.settings) as drain, pytest.raises(Refused, match="readonly"):
        replace(drain, store=store).run(DECODER)
    assert (table.rows(), table.next_offset()) == (0, 0)
    table.require_converged()
