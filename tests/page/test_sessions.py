"""Sessions on the services are kept from one request of the page to the next, and end later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from fastapi import HTTPException

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import WrongUsage
from sluice.operate.monitor import Monitor
from sluice.settings import Settings
from sluice_airflow.page import sessions as module
from sluice_airflow.page.sessions import Sessions
from tests.support.processes import connected_to
from tests.support.waiting import until

pytestmark = pytest.mark.services


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    with closing(Closing()) as made:
        yield made


class Closing(Sessions):
    """Sessions that end with the test."""

    close = Sessions.end


def looked(of: Monitor) -> None:
    """What a request asks of all services."""
    state = of.overview()
    assert [service.name for service in state.services if not service.answers] == []


def connections(settings: Settings) -> int:
    """The number of this process's connections to ClickHouse and the broker."""
    broker = int(settings.kafka.bootstrap.rpartition(":")[2])
    return len(connected_to(settings.clickhouse.port, broker))


def test_the_next_request_logs_in_nowhere(
    services: Settings, sessions: Sessions, broker_clients: list[object]
) -> None:
    used = []
    for _ in range(3):
        with sessions.lent(services) as of:
            looked(of)
            used.append(of.clickhouse)
    assert len(broker_clients) == 1
    assert used[0] is used[1] is used[2]


def test_requests_at_once_and_those_of_other_settings_have_sessions_of_their_own(
    services: Settings, sessions: Sessions
) -> None:
    other = replace(services, clickhouse=replace(services.clickhouse, person="somebody else"))
    with sessions.lent(services) as one, sessions.lent(services) as two:
        assert one.clickhouse is not two.clickhouse
    with sessions.lent(other) as three:
        assert three.clickhouse.person == "somebody else"
    with sessions.lent(services) as four:
        assert four.clickhouse in {one.clickhouse, two.clickhouse}


def test_a_request_that_fails_leaves_no_session(services: Settings, sessions: Sessions) -> None:
    before = connections(services)

    def failing() -> None:
        with sessions.lent(services) as of:
            looked(of)
            raise LookupError

    with pytest.raises(LookupError):
        failing()
    until(lambda: connections(services) <= before, "its connections are closed")


def test_sessions_that_nobody_needs_end_by_themselves(
    services: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = connections(services)
    monkeypatch.setattr(module, "IDLE_S", 0.5)
    with sessions.lent(services) as one, sessions.lent(services) as two:
        looked(one)
        looked(two)
    assert connections(services) > before
    until(lambda: connections(services) <= before, "all connections are closed")
    with sessions.lent(services) as of:
        looked(of)


def test_a_session_logs_in_again_when_it_is_old(
    services: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = connections(services)
    monkeypatch.setattr(module, "OLDEST_S", 0.0)
    with sessions.lent(services) as one:
        looked(one)
    until(lambda: connections(services) <= before, "all connections are closed")
    with sessions.lent(services) as two:
        assert two.clickhouse is not one.clickhouse


@pytest.mark.parametrize("fault", [HTTPException(404), WrongUsage("no key")])
def test_a_request_that_is_wrong_costs_no_session(
    services: Settings, sessions: Sessions, fault: Exception
) -> None:
    def failing() -> Monitor:
        with sessions.lent(services) as of:
            used.append(of.clickhouse)
            raise fault

    used: list[object] = []
    for _ in range(2):
        with pytest.raises(type(fault)):
            failing()
    assert used[0] is used[1]


def test_all_sessions_end_whatever_one_raises(
    services: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = connections(services)
    with sessions.lent(services) as one, sessions.lent(services) as two:
        looked(one)
        looked(two)
    closed = ClickHouse.close

    def failing(self: ClickHouse) -> None:
        closed(self)
        raise OSError

    monkeypatch.setattr(ClickHouse, "close", failing)
    with pytest.raises(OSError):  # noqa: PT011 - it has no text
        sessions.end()
    until(lambda: connections(services) <= before, "all connections are closed")


def test_options_that_are_wrong_are_told_and_end_in_no_other_error(
    services: Settings, sessions: Sessions
) -> None:
    wrong = replace(services, clickhouse=replace(services.clickhouse, options={"no_option": 1}))
    for _ in range(2):
        with sessions.lent(wrong) as of:
            state = {service.name: service.error for service in of.overview().services}
        assert "options" in state["ClickHouse"]
    sessions.end()
