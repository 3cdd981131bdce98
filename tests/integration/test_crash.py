"""The embedded ClickHouse ends when a client's hello fails: it says so, and is there again."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import Unreachable
from sluice.settings import ClickHouseSettings
from tests.support.services import stack_environment, started, temporary_home
from tests.support.waiting import until

pytestmark = pytest.mark.services


def test_a_hello_that_fails_is_in_the_log_and_the_server_is_started_again() -> None:
    with (
        temporary_home() as home,
        started(stack_environment(home), ("clickhouse",)) as (settings, stack),
    ):
        with closing(ClickHouse(settings.clickhouse)) as clickhouse:
            clickhouse.execute("CREATE DATABASE cdc")
            clickhouse.execute("CREATE TABLE cdc.kept ENGINE = MergeTree ORDER BY n AS SELECT 7 n")
        first = stack.states()["clickhouse"].pid
        where = (settings.clickhouse.host, settings.clickhouse.port)
        with closing(socket.create_connection(where)) as client:
            client.sendall(b"\x00\x05hel")  # and no more of a name of five letters
        until(
            lambda: stack.states()["clickhouse"].pid not in {first, 0},
            "ClickHouse is started again",
        )
        assert "CANNOT_READ_ALL_DATA" in (home / "logs/clickhouse.log").read_text()
        until(lambda: kept(settings.clickhouse) == [(7,)], "ClickHouse has the row")


def kept(settings: ClickHouseSettings) -> list[tuple[int]] | None:
    try:
        with closing(ClickHouse(settings)) as clickhouse:
            return clickhouse.execute("SELECT n FROM cdc.kept")
    except Unreachable:
        return None
