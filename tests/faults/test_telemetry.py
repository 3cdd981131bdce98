"""What a relay tells of itself while it copies, streams and waits."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluice.capture.metrics import read_status
from sluice.errors import NotReady
from tests.faults.source import Source
from tests.support.services import free_ports
from tests.support.waiting import until

pytestmark = pytest.mark.services


def listening(source: Source) -> str:
    """Give the relay a port; its address."""
    (port,) = free_ports(1)
    relay = replace(source.settings.relay, metrics=("127.0.0.1", port))
    source.settings = replace(source.settings, relay=relay)
    return f"http://127.0.0.1:{port}"


def scraped(address: str) -> dict[str, float]:
    """Every sample, by its name and its label's value."""
    with urlopen(f"{address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        " ".join([sample.name.removeprefix("sluice_relay_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ready(address: str) -> tuple[int, str]:
    try:
        with urlopen(f"{address}/ready", timeout=5) as answer:
            return answer.status, answer.read().decode().strip()
    except HTTPError as error:
        return error.code, error.read().decode().strip()


def test_the_metrics_are_what_postgres_and_the_topics_say(source: Source) -> None:
    address = listening(source)
    source.sql("INSERT INTO things SELECT i, 'n' FROM generate_series(1, 2500) i")
    with source.relaying():
        source.arrives()
        source.sql("INSERT INTO things SELECT i, 'n' FROM generate_series(2501, 2600) i")
        until(
            lambda: scraped(address)["events_total"] == 2602, "the relay has sent 2602 events"
        )  # and two that clear the tables
        end = source.lsn()
        until(lambda: scraped(address)["confirmed_lsn"] >= end, "the slot has confirmed the end")
        found = scraped(address)
        assert found["state streaming"] == 1
        assert found["state waiting"] == 0
        assert found["snapshot_rows"] == 2500
        assert found["snapshot_tables"] == found["snapshot_tables_done"] == 2
        assert found["slot_wal_status reserved"] == 1
        assert found["slot_lag_bytes"] >= 0
        assert ready(address) == (200, "streaming")


def test_the_status_tells_rate_delay_and_snapshot_and_nothing_where_no_relay_is(
    source: Source,
) -> None:
    listening(source)
    metrics = source.settings.relay.metrics
    assert metrics is not None
    assert read_status(*metrics) == {}
    source.sql("INSERT INTO things SELECT i, 'n' FROM generate_series(1, 2500) i")
    with source.relaying():
        source.arrives()
        until(lambda: read_status(*metrics)["state"] == "streaming", "the relay streams")
        found = read_status(*metrics)
        assert found["snapshot"] == {
            "rows": 2500,
            "tables": 2,
            "tables_done": 2,
            "ranges": 2,
            "ranges_done": 2,
        }
        assert found["seconds_behind"] >= 0
        done = threading.Event()
        writer = threading.Thread(target=write_until, args=(source, done))
        writer.start()
        try:
            until(
                lambda: read_status(*metrics)["events_per_second"] > 0, "the relay tells its rate"
            )
        finally:
            done.set()
            writer.join(30)


def write_until(source: Source, done: threading.Event) -> None:
    number = 10_000
    while not done.is_set():
        number += 1
        source.sql(f"INSERT INTO things VALUES ({number}, 'n')")


def test_changes_that_are_not_durable_show_as_seconds_behind(source: Source) -> None:
    address = listening(source)
    with source.relaying():
        source.arrives()
    source.ack("drained")  # and nobody drains
    with source.relaying():
        source.sql("INSERT INTO things VALUES (1, 'a')")
        until(lambda: scraped(address)["seconds_behind"] > 1, "the relay is behind")
        assert scraped(address)["events_total"] == 1


def test_a_relay_that_waits_is_not_ready_and_says_why(source: Source) -> None:
    address = listening(source)
    with source.relaying():
        until(lambda: ready(address)[0] == 200, "the relay is ready")
        with source.server_stopped():
            until(lambda: ready(address)[0] == 503, "the relay is not ready")
            assert ready(address)[1].startswith("waiting: ")
            assert "slot_lag_bytes" not in scraped(address)
        until(lambda: ready(address)[0] == 200, "the relay is ready")


def test_a_port_that_is_taken_is_named(source: Source) -> None:
    address = listening(source)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        taken.listen()
        with source.relaying() as relaying:
            error = relaying.ends()
    assert isinstance(error, NotReady)
    assert "SLUICE_RELAY_METRICS" in str(error.remedy)
