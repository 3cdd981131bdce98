"""`sluice topics` on a real broker: figures of each topic, and messages whatever they contain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from typer.testing import CliRunner, Result

from sluice import wiring
from sluice.cli import app
from sluice.clients.broker import Broker
from sluice.clients.topic_reader import TopicReader
from sluice.clients.topics import EPOCH_TOPIC, Topics
from sluice.errors import SluiceError
from sluice.events.event import CONTROL_TOPIC, DEAD_LETTER_TOPIC
from sluice.printable import printable
from sluice.settings import Settings
from tests.support.json_schemas import require_valid
from tests.support.librdkafka import send_with_header
from tests.support.messages import product_event, send
from tests.support.processes import command_environment, silent_broker
from tests.support.services import delete_topics, free_ports, running_services, temporary_home

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def services() -> Iterator[Settings]:
    """Of its own: its topics have messages that no pipeline would send, of any time."""
    option = ConfigEntry(
        "message.timestamp.after.max.ms",
        str(2**63 - 1),
        incremental_operation=AlterConfigOpType.SET,
    )
    resource = ConfigResource(
        ConfigResource.Type.TOPIC, CONTROL_TOPIC, incremental_configs=[option]
    )
    with temporary_home() as home, running_services(home) as settings:
        with Broker(settings.kafka).opened(AdminClient) as admin:
            admin.incremental_alter_configs([resource])[resource].result(10)
        yield settings


TOPIC = "cdc.products"
OWN = {DEAD_LETTER_TOPIC: "dead letters", CONTROL_TOPIC: "control", EPOCH_TOPIC: "epoch"}


def sluice(settings: Settings, *arguments: str, **changed: str) -> Result:
    environment = command_environment(settings, **changed)
    return CliRunner().invoke(app, ["topics", *arguments], env=environment)


def overview(settings: Settings, code: int = 0, **changed: str) -> dict[str, Any]:
    """The topics by name, and the errors."""
    done = sluice(settings, "--json", **changed)
    state: dict[str, Any] = require_valid("topics --json", done.stdout)
    raised = done.exception.exit_code if isinstance(done.exception, SluiceError) else done.exit_code
    assert raised == code, (done.output, done.exception)
    return {**{topic["name"]: topic for topic in state["topics"]}, "errors": state["errors"]}


def shown(settings: Settings, *arguments: str, **changed: str) -> dict[str, Any]:
    done = sluice(settings, "show", *arguments, "--json", **changed)
    assert done.exit_code == 0, (done.output, done.exception)
    document: dict[str, Any] = require_valid("topics show --json", done.stdout)
    return document


def require_error(done: Result, code: int, *words: str) -> None:
    assert isinstance(done.exception, SluiceError), repr(done.exception)
    assert done.exception.exit_code == code
    for word in words:
        assert word in str(done.exception)


def test_every_topic_has_its_messages_and_the_backlog_of_its_drain(services: Settings) -> None:
    before = overview(services)
    assert before["errors"] == {}
    assert {name: before[name]["role"] for name in OWN} == OWN
    assert before[EPOCH_TOPIC]["retention_s"] == -1
    assert before[TOPIC]["deletes_drained"] == services.kafka.embedded
    assert not any(before[name]["deletes_drained"] for name in OWN)
    end = before[TOPIC]["end_offset"]
    send(services, TOPIC, *({"value": product_event(key)} for key in range(1, 8)))
    after = overview(services)
    assert next(iter(after)) == TOPIC  # the largest backlog
    topic = after[TOPIC]
    assert (topic["table"], topic["partitions"]) == ("products", 1)
    assert (topic["end_offset"], topic["backlog"]) == (end + 7, 7)
    assert topic["messages"] == end + 7 - topic["first_offset"]
    assert topic["messages_per_second"] > 0
    if services.kafka.embedded:
        grown = topic["disk_bytes"] - before[TOPIC]["disk_bytes"]
        assert grown > sum(len(product_event(key)) for key in range(1, 8))
    else:
        assert topic["disk_bytes"] is None
    oldest = datetime.fromisoformat(topic["oldest_at"])
    assert timedelta(0) <= datetime.now(timezone.utc) - oldest < timedelta(days=1)
    assert after[CONTROL_TOPIC]["backlog"] is None
    wiring.drain(services, "products")
    drained = overview(services)[TOPIC]
    assert (drained["backlog"], drained["drained_offset"]) == (0, end + 7)
    printed = sluice(services).stdout
    assert re.search(rf"{TOPIC} .*│ +0 │", printed)
    assert re.search(rf"{EPOCH_TOPIC} .*│ +for ever +│", printed)
    assert bool(re.search(rf"{TOPIC} .*│ +until drained +│", printed)) == services.kafka.embedded


def test_while_a_service_is_down_the_other_one_s_part_is_shown(services: Settings) -> None:
    send(services, TOPIC, {"value": product_event(20)})
    wiring.drain(services, "products")
    (port,) = free_ports(1)
    known = overview(services)[TOPIC]
    lost = overview(services, 3, SLUICE_CLICKHOUSE_PORT=str(port))
    assert list(lost["errors"]) == ["clickhouse"]
    topic = lost[TOPIC]
    assert (topic["end_offset"], topic["backlog"]) == (known["end_offset"], None)
    elsewhere = silent_broker(services, port)
    silent = overview(services, 3, **elsewhere)
    assert list(silent["errors"]) == ["broker"]
    topic = silent[TOPIC]
    assert (topic["end_offset"], topic["drained_offset"]) == (None, known["drained_offset"])
    printed = sluice(services, **elsewhere)
    assert TOPIC in printed.stdout
    assert "does not answer" in printed.stderr


def test_a_topic_that_does_not_exist_says_so(services: Settings) -> None:
    delete_topics(services, {"cdc.order_items"})
    try:
        state = overview(services)["cdc.order_items"]
        assert (state["partitions"], state["messages"]) == (0, None)
        assert "does not exist; run: sluice init" in sluice(services).stdout
        require_error(sluice(services, "show", "order_items"), 3, "does not exist", "sluice init")
    finally:
        wiring.initialise(services)


def test_several_hundred_topics_are_read_at_once(services: Settings) -> None:
    names = [f"many.{number}" for number in range(300)]
    Topics(services.kafka).ensure(names)
    try:
        send(services, names[7], {"value": b"one"}, {"value": b"two"})
        since = datetime.now(timezone.utc) - timedelta(minutes=5)
        found = TopicReader(services.kafka).offsets([*names, "many.none"], since)
        assert set(found) == set(names)
        assert {name for name, of in found.items() if of.end - of.beginning} == {names[7]}
        assert (found[names[7]].since, found[names[8]].since) == (found[names[7]].beginning, None)
    finally:
        delete_topics(services, set(names))


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "an event": ({"value": product_event(1), "key": b'{"id":1}'}, "event"),
    "an unknown operation": ({"value": product_event(1, "\x1b[2J")}, "json"),
    "another object": ({"value": b'{"a": {"b": "\xe2\x80\xae"}, "metadata": 7}'}, "json"),
    "an array": ({"value": b"[1]"}, "other"),
    "a name with a newline": ({"value": b'{"a\\nb": 1, "c": "\x7f"}'}, "json"),
    "raw newlines": ({"value": b"one\ntwo\r\x1b]0;title\x07 \xc2\x9b", "key": b"\n"}, "other"),
    "no UTF-8": ({"value": bytes(range(256)), "key": b"\xff\x00"}, "other"),
    "deep": ({"value": b"[" * 50_000}, "other"),
    "deep objects": ({"value": b'{"metadata":' * 20_000}, "other"),
    "large": ({"value": b'{"a": "' + b"x" * 300_000 + b'"}'}, "json"),
    "nothing": ({"value": b"", "key": b""}, "other"),
    "a tombstone": ({"value": None, "key": b'{"id":1}'}, "tombstone"),
    "neither key nor value": ({"value": None, "key": None}, "tombstone"),
    "headers": (
        {"value": b"{}", "headers": [("\u202e\n", b"\xff\x1b"), ("null", None), ("n", b"1")]},
        "other",
    ),
    "many headers": (
        {"value": b"1", "headers": [(f"h{n}", b"x" * 900) for n in range(99)]},
        "other",
    ),
    "a time after all calendars": ({"value": b"1", "timestamp": 2**62}, "other"),
    "a time long ago": ({"value": b"1", "timestamp": 1}, "other"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_is_shown_whatever_it_contains(services: Settings, name: str) -> None:
    message, kind = HOSTILE[name]
    send(services, CONTROL_TOPIC, message)
    (found,) = shown(services, CONTROL_TOPIC, "--last", "1")["messages"]
    assert (found["kind"], found["problem"]) == (kind, "")
    for part in ("key", "value"):
        sent = message.get(part)
        assert (found[part] is None) == (sent is None)
        assert found[f"{part}_bytes"] == len(sent or b"")
        assert len(found[part] or "") <= 20_000 * 4  # each byte may be escaped
    assert found["header_count"] == len(message.get("headers", ()))
    printed = sluice(services, "show", CONTROL_TOPIC, "--last", "1")
    assert printed.exit_code == 0, printed.exception
    assert "Traceback" not in printed.output
    for line in printed.stdout.split("\n"):
        assert line == printable(line)


def test_an_event_is_shown_field_by_field_and_a_large_value_with_its_length(
    services: Settings,
) -> None:
    send(services, CONTROL_TOPIC, {"value": product_event(5), "key": b'{"id":5}'})
    lines = sluice(services, "show", CONTROL_TOPIC, "--last", "1").stdout.splitlines()
    assert re.fullmatch(rf"{CONTROL_TOPIC}, offset \d+, .*: insert", lines[0])
    rows = [line.split(maxsplit=1) for line in lines[1:] if line]
    assert ["key", '{"id":5}'] in rows
    assert ["payload.price", '"1.00"'] in rows
    assert ["metadata.commit_lsn", '"0/10"'] in rows
    send(services, CONTROL_TOPIC, {"value": b"x" * 50_000})
    large = sluice(services, "show", CONTROL_TOPIC, "--last", "1").stdout
    assert "x ... of 50,000 bytes" in large
    assert large.count("x") == 20_000


def test_a_header_whose_name_is_not_text_is_shown_without_it(services: Settings) -> None:
    send_with_header(services.kafka, CONTROL_TOPIC, b"\xff\xfe", b"raw")
    (found,) = shown(services, CONTROL_TOPIC, "--last", "1")["messages"]
    assert found["headers"] == [{"name": "", "value": None}]
    assert found["value"] == "raw"


def test_messages_that_cannot_be_unpacked_are_named_and_those_around_them_shown(
    services: Settings,
) -> None:
    """They are larger, unpacked, than this client may receive."""
    first = Topics(services.kafka).ends([CONTROL_TOPIC])[CONTROL_TOPIC]
    limits = dict.fromkeys(("message.max.bytes", "batch.size"), 9_000_000)
    large: dict[str, Any] = {"compression.type": "zstd", **limits}
    send(services, CONTROL_TOPIC, {"value": b"before"})
    send(services, CONTROL_TOPIC, *[{"value": bytes(2_500_000)}] * 3, **large)
    send(services, CONTROL_TOPIC, {"value": b"after"})
    sizes = {"receive.message.max.bytes": "2000000", "fetch.max.bytes": "1000000"}
    small = json.dumps({**services.kafka.options, **sizes})
    for arguments in (["--last", "5"], ["--offset", str(first), "--last", "9"]):
        found = shown(services, CONTROL_TOPIC, *arguments, SLUICE_KAFKA_OPTIONS=small)["messages"]
        readable = {one["offset"]: one["value"] for one in found if one["kind"] != "unreadable"}
        lost = [one for one in found if one["kind"] == "unreadable"]
        assert readable == {first: "before", first + 4: "after"}
        assert [n for one in lost for n in range(one["offset"], one["next_offset"])] == [
            first + 1,
            first + 2,
            first + 3,
        ]
        assert all(one["problem"] for one in lost)
    printed = sluice(services, "show", CONTROL_TOPIC, SLUICE_KAFKA_OPTIONS=small).stdout
    assert f"offset {first + 1}" in printed
    assert "cannot be read: " in printed


def test_messages_from_an_offset_on_and_the_last_ones(services: Settings) -> None:
    send(services, CONTROL_TOPIC, *({"value": f"{n}".encode()} for n in range(9)))
    end = shown(services, CONTROL_TOPIC)["end_offset"]

    def values(*arguments: str) -> list[str]:
        return [one["value"] for one in shown(services, CONTROL_TOPIC, *arguments)["messages"]]

    assert values() == ["4", "5", "6", "7", "8"]
    assert values("--last", "2") == ["7", "8"]
    assert values("--offset", str(end - 9), "--last", "3") == ["0", "1", "2"]
    assert values("--offset", str(end - 1)) == ["8"]
    require_error(sluice(services, "show", CONTROL_TOPIC, "--offset", str(end)), 2, f"to {end - 1}")


def test_a_table_names_its_topic_and_a_wrong_name_gets_the_nearest(services: Settings) -> None:
    assert shown(services, "products")["topic"] == TOPIC
    assert shown(services, "customers") == {
        "topic": "cdc.customers",
        "first_offset": 0,
        "end_offset": 0,
        "messages": [],
    }
    assert "has no messages" in sluice(services, "show", "customers").stdout
    require_error(sluice(services, "show", "prodcts"), 2, "no topic", "the nearest is products")
    require_error(sluice(services, "show", "cdc.contrl"), 2, f"the nearest is {CONTROL_TOPIC}")
    require_error(sluice(services, "show", "customers", "--offset", "0"), 2, "has no messages")


def test_what_is_looked_at_is_not_drained(services: Settings) -> None:
    send(services, TOPIC, {"value": product_event(30)})
    before = overview(services)[TOPIC], Topics(services.kafka).committed([TOPIC])
    shown(services, TOPIC, "--last", "1000")
    assert (overview(services)[TOPIC]["backlog"], Topics(services.kafka).committed([TOPIC])) == (
        before[0]["backlog"],
        before[1],
    )
    assert before[0]["backlog"] == 1
