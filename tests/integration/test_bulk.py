"""Rows in bulk under fire: other drains, rebuilds and resyncs, lost replies, wrong servers, TLS."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.capture import fenced_snapshot
from sluice.catalog.key_selection import Selection
from sluice.clients import clickhouse_http
from sluice.clients.topics import Topics
from sluice.drain import bulk_load
from sluice.embedded.stack import Stack
from sluice.errors import NotReady, SluiceError, Unreachable
from sluice.execution.contention import until_done
from sluice.settings import Settings
from tests.integration import stock
from tests.integration.stock import ITEMS
from tests.support.pipeline import assert_fact_equals_join, checked
from tests.support.services import clickhouse_answers
from tests.support.tls import certificate, encrypted
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.clickhouse_may_crash]
engine, forgotten = stock.engine, stock.forgotten
BY_TOPIC = "rows go through the topic"


def spoil(settings: Settings) -> None:
    """Wrong quantities in the current state and in the fact."""
    checked(settings)
    wiring.query(
        settings,
        "INSERT INTO cdc.src_order_item SELECT * REPLACE (quantity + 100 AS quantity,"
        " _version + 1 AS _version) FROM cdc.src_order_item FINAL",
    )
    wiring.rebuild(settings, "fact_order_item", full=True)


def change(settings: Settings, engine: Engine) -> None:
    """Some changes, which are drained and in the fact."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE order_items SET price = price + 1 WHERE id % 7 = 0"))
        connection.execute(text("DELETE FROM order_items WHERE id % 50 = 1"))
    checked(settings)


def resync(settings: Settings, hooks: dict[str, Callable[[], object]], rows: int = 10**6) -> Any:
    """Resync all items, with a call at each of these failpoints when it is first reached."""

    def reached(point: str) -> None:
        hooks.pop(point, lambda: None)()

    with wiring.resyncing(settings, ITEMS) as step:
        return replace(step, rows=rows, reached=reached).run(ITEMS, Selection(), restart=True)


def sent(settings: Settings) -> int:
    return Topics(settings.kafka).ends([ITEMS.topic])[ITEMS.topic]


@pytest.mark.parametrize("pages", [1, 131_072])
def test_rows_go_past_the_topic_and_the_next_rebuild_reads_them(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    monkeypatch.setattr(fenced_snapshot, "_PAGES_IN_AN_INSERT", pages)
    spoil(services)
    before = sent(services)
    report = wiring.resync(services, ITEMS.name)
    assert (report.rows, report.deleted) == (420, 0)
    assert sent(services) == before
    assert_fact_equals_join(services, engine)
    assert wiring.quality(services, deep=True, restart=True).passed


@pytest.mark.parametrize("point", ["fence taken", "rows sent", "rows stored", "rows published"])
@pytest.mark.parametrize("ahead", [bulk_load._ahead, lambda: 1], ids=["far", "near"])
def test_a_drain_and_a_rebuild_at_any_point_make_no_rebuild_skip_rows(
    services: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    ahead: Callable[[], int],
) -> None:
    """Near, the changes' numbers reach that of the rows before they are stored."""
    monkeypatch.setattr(bulk_load, "_ahead", ahead)
    spoil(services)
    resync(services, {point: lambda: change(services, engine)})
    assert_fact_equals_join(services, engine)


def test_rows_of_a_load_that_failed_beside_another_are_in_view_after_the_next(
    services: Settings, engine: Engine
) -> None:
    spoil(services)
    with wiring.resyncing(services, ITEMS) as step:
        plan = replace(step, rows=210).plan(ITEMS, Selection(), restart=True)

        def reached(point: str) -> None:
            if point == "rows sent":  # and not stored yet
                with step.another() as beside:
                    assert beside.read(plan, 1, 2).rows == 210
                wiring.rebuild_all(services).require()
            elif point == "rows stored":
                raise Unreachable("it ends before it has published its rows")

        with pytest.raises(Unreachable):
            replace(step, reached=reached).read(plan, 0, 2)
    assert wiring.resync(services, ITEMS.name, keys=["420"]).rows == 1
    assert_fact_equals_join(services, engine)


@pytest.mark.parametrize("limit", [{"max_memory_usage": 1000}, {"max_query_size": 10}])
def test_rows_that_clickhouse_refuses_in_bulk_go_through_the_topic(
    services: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: dict[str, int],
) -> None:
    spoil(services)
    with wiring.resyncing(services, ITEMS) as step:
        monkeypatch.setattr(clickhouse_http, "PINNED", {**clickhouse_http.PINNED, **limit})
        assert step.run(ITEMS, Selection(), restart=True).rows == 420
    assert BY_TOPIC in caplog.text
    assert_fact_equals_join(services, engine)


class Killed(BaseException):
    """As far as ClickHouse sees, the process was killed."""


def test_rows_of_a_load_that_was_killed_are_in_view_after_the_maintenance(
    services: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_load, "_LEFT_SECONDS", 0)

    def die() -> None:
        raise Killed

    spoil(services)
    with pytest.raises(Killed):
        resync(services, {"rows stored": die})
    assert wiring.maintain(services).troubles == {}
    assert_fact_equals_join(services, engine)


@pytest.mark.parametrize("point", ["rows sent", "rows stored"])
def test_a_clickhouse_that_is_killed_is_an_error_and_the_next_run_is_whole(
    services: Settings, engine: Engine, point: str
) -> None:
    stack = Stack(services)
    first = stack.states()["clickhouse"].pid
    assert first
    spoil(services)
    with pytest.raises(SluiceError, match="does not answer"):
        resync(services, {point: lambda: os.kill(first, signal.SIGKILL)})
    until(lambda: stack.states()["clickhouse"].pid not in {first, 0, None}, "it is started again")
    until(lambda: clickhouse_answers(services), "ClickHouse answers")
    assert wiring.resync(services, ITEMS.name).rows == 420
    assert_fact_equals_join(services, engine)


@pytest.mark.parametrize("point", ["fence taken", "rows sent", "rows stored"])
def test_another_resync_at_any_point_makes_no_rebuild_skip_rows(
    services: Settings, engine: Engine, point: str
) -> None:
    spoil(services)

    def other() -> None:
        wiring.resync(services, ITEMS.name, restart=True)
        change(services, engine)

    resync(services, {point: other}, rows=100)
    assert_fact_equals_join(services, engine)


def test_an_epoch_that_begins_meanwhile_is_noticed(services: Settings, engine: Engine) -> None:
    def begin() -> None:
        with wiring.context.opened(services) as run:
            drain = wiring.drains.make_drain(run)
            until_done(lambda: drain.raise_epoch(ITEMS))

    with pytest.raises(NotReady, match="a new epoch of positions began"):
        resync(services, {"rows sent": begin})
    wiring.resync(services, ITEMS.name)
    assert_fact_equals_join(services, engine)


def test_a_rename_type_or_null_that_differs_sends_rows_through_the_topic(
    services: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE order_items ALTER price TYPE numeric(12, 4)"))
    before = sent(services)
    try:
        assert wiring.resync(services, ITEMS.name).rows == 420
        assert f"{BY_TOPIC}: PostgreSQL differs from the model: price is" in caplog.text
        assert sent(services) >= before + 420
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE order_items ALTER price TYPE numeric(10, 2)"))
    assert_fact_equals_join(services, engine)


def elsewhere(settings: Settings, port: int) -> Settings:
    return replace(settings, clickhouse=replace(settings.clickhouse, http_port=port, account=None))


def test_a_port_where_nothing_answers_sends_rows_through_the_topic(
    services: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    before = sent(services)
    assert wiring.resync(elsewhere(services, port), ITEMS.name).rows == 420
    assert BY_TOPIC in caplog.text
    assert sent(services) >= before + 420


def test_another_server_on_the_port_gets_no_rows(
    services: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(wiring.bulk, "table_id", lambda *_: str(uuid4()))
    before = sent(services)
    assert wiring.resync(services, ITEMS.name).rows == 420
    assert "another server than" in caplog.text
    assert sent(services) >= before + 420


@contextmanager
def cutting(port: int, request: int, reply: bool) -> Iterator[int]:
    """A port that passes bytes on, and cuts an insert: its request, or its reply."""

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server, suppress(OSError):
            head = client.recv(1 << 16)
            server.sendall(head)
            insert = b"chunked" in head

            def back() -> None:
                with suppress(OSError):
                    while piece := server.recv(1 << 16):
                        if insert and reply:
                            break
                        client.sendall(piece)
                    client.shutdown(socket.SHUT_RDWR)

            returning = threading.Thread(target=back, daemon=True)
            returning.start()
            passed = 0
            while piece := client.recv(50 if insert else 1 << 16):
                passed += len(piece)
                if insert and not reply and passed > request:
                    break
                server.sendall(piece)
            server.shutdown(socket.SHUT_WR)
            returning.join(0 if insert and not reply else 10)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("request_bytes", "reply"), [(900, False), (5000, False), (0, True)])
def test_a_request_or_a_reply_that_is_lost_is_an_error_and_the_next_run_is_whole(
    services: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    request_bytes: int,
    reply: bool,
) -> None:
    monkeypatch.setattr(clickhouse_http, "_BUFFER", 70)  # a chunk ends within a row
    spoil(services)
    with (
        cutting(services.clickhouse.http_port, request_bytes, reply) as port,
        pytest.raises(Unreachable, match="does not answer by HTTP"),
    ):
        wiring.resync(elsewhere(services, port), ITEMS.name)
    cut = "SELECT count() FROM cdc.src_order_item FINAL WHERE price != id"
    assert wiring.query(services, cut)[1] == [(0,)]
    assert wiring.resync(services, ITEMS.name).rows == 420
    assert_fact_equals_join(services, engine)


def test_rows_go_by_tls_and_to_no_server_that_is_not_trusted(
    services: Settings, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trusted = certificate(tmp_path, "trusted")
    with (
        encrypted(services.clickhouse.port, trusted) as native,
        encrypted(services.clickhouse.http_port, trusted) as http,
    ):
        secured = replace(
            services.clickhouse,
            port=native,
            http_port=http,
            account=None,
            options={"secure": True, "ca_certs": str(trusted)},
        )
        spoil(services)
        before = sent(services)
        assert wiring.resync(replace(services, clickhouse=secured), ITEMS.name).rows == 420
        assert sent(services) == before
        other = {"secure": True, "ca_certs": str(certificate(tmp_path, "other"))}
        with pytest.raises(SluiceError, match="CERTIFICATE_VERIFY_FAILED"):
            clickhouse_http.table_id(replace(secured, options=other), ITEMS.storage)
    assert BY_TOPIC not in caplog.text
    assert_fact_equals_join(services, engine)
