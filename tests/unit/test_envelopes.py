"""The relay and Redpanda Connect are held to one set of envelopes, tests/envelopes/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import models.generated
from sluice.capture.json_rows import RowEncoder, Transaction
from sluice.capture.metrics import Progress
from sluice.capture.parking import Parking
from sluice.capture.pgoutput import (
    MISSING,
    Begin,
    Delete,
    Insert,
    Message,
    Relation,
    RelationColumn,
    Update,
    Value,
)
from sluice.capture.publisher import Batch
from sluice.capture.slot_marks import Marks
from sluice.capture.stream import Stream
from sluice.catalog import Table, load_catalog
from sluice.drain.decoder import Decoder
from sluice.events.event import UNCHANGED, FullRow, KeyDeleted, PartialRow, Record
from sluice.generate.connect import CONFIGURATION, configuration
from sluice.settings import PROJECT, RelaySettings
from tests.support.decoding import changes
from tests.support.services import free_ports

CATALOG = load_catalog("models")
FILES = sorted((PROJECT / "tests/envelopes").glob("*.json"))
CASES: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in FILES}
TESTS = yaml.safe_load((PROJECT / "redpanda-connect_benthos_test.yaml").read_text())["tests"]
CONNECT = shutil.which("redpanda-connect")
BY_CONNECT = pytest.mark.skipif(CONNECT is None, reason="redpanda-connect is not on PATH")

REFUSAL = "this feature requires a valid Redpanda Enterprise Edition license"

Published = tuple[str, bytes | None, bytes]


class Recorder:
    """Keeps what the stream publishes."""

    def __init__(self) -> None:
        self.published: list[Published] = []

    def publish(self, topic: str, key: bytes | None, value: bytes, _: Batch) -> None:
        self.published.append((topic, key, value))


def values(texts: list[str | None]) -> list[Value]:
    return [
        MISSING if text == UNCHANGED else None if text is None else text.encode() for text in texts
    ]


def relayed(case: Any) -> Published:
    """What the relay makes of the case: by COPY for a snapshot's row, else by the stream."""
    pgoutput, metadata = case["pgoutput"], case["envelope"]["metadata"]
    table = CATALOG.table(metadata["table"])
    columns = tuple(
        RelationColumn(name=name, type_oid=oid, in_key=name in pgoutput["key"])
        for name, oid in pgoutput["columns"]
    )
    if metadata["operation"] == "read":
        row = values(pgoutput["new"])
        encoder = RowEncoder(table.name, columns, pgoutput["key"])
        event = Transaction(1, 0).event(encoder, b"read", 1, 1, encoder.row(row), b"null")
        return table.topic, encoder.key(row), event
    return streamed(table, columns, pgoutput, metadata["commit_ts_ms"])


def streamed(
    table: Table, columns: tuple[RelationColumn, ...], pgoutput: Any, commit_ms: int
) -> Published:
    old = values(pgoutput["old"]) if pgoutput["old"] else None
    change: Message
    if pgoutput["new"] is None:
        assert old is not None
        change = Delete(relation_id=1, old=old)
    elif old is None and not pgoutput["updated"]:
        change = Insert(relation_id=1, new=values(pgoutput["new"]))
    else:
        change = Update(relation_id=1, old=old, new=values(pgoutput["new"]))
    recorder = Recorder()
    relay = RelaySettings(slot="sluice", ack="broker")
    marks = Marks(None, relay.slot, 0)  # type: ignore[arg-type]
    parking = Parking(None, CATALOG, None, lambda: 0)  # type: ignore[arg-type]
    parts: Any = (recorder, None, lambda: None, marks, parking, Progress(), lambda _table: {})
    stream = Stream(None, relay, CATALOG, *parts)
    relation = Relation(relation_id=1, schema="public", table=table.relation, columns=columns)
    for message in (Begin(commit_lsn=2, commit_ms=commit_ms), relation, change):
        stream._take(message, 1)
    (published,) = recorder.published
    return published


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_relay_writes_the_envelope_that_connect_writes(case: Any) -> None:
    topic, key, value = relayed(case)
    event = json.loads(value)
    own, other = event.pop("metadata"), dict(case["envelope"]["metadata"])
    assert (topic, json.loads(key or "")) == (case["topic"], case["key"])
    assert event == {name: case["envelope"][name] for name in ("payload", "before")}
    assert own.keys() - other.keys() == {"commit_lsn", "ordinal"}
    assert own["operation"] == other["operation"]
    if other["operation"] != "read":
        assert own["commit_ts_ms"] == other["commit_ts_ms"]


@pytest.mark.parametrize("name", CASES)
def test_connects_own_test_of_the_mapping_is_the_same_case(name: str) -> None:
    case = CASES[name]
    (test,) = [test for test in TESTS if test["name"] == name]
    (message,), ((wanted,),) = test["input_batch"], test["output_batches"]
    assert message["json_content"] == case["postgres_cdc"]["message"]
    assert message["metadata"] == case["postgres_cdc"]["metadata"]
    assert wanted["json_equals"] == case["envelope"]
    assert wanted["metadata_equals"]["topic"] == case["topic"]
    assert json.loads(wanted["metadata_equals"]["key"]) == case["key"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_drain_takes_connects_envelope_at_its_place_in_the_topic(case: Any) -> None:
    table = CATALOG.table(case["envelope"]["metadata"]["table"])
    decoder = Decoder(table, getattr(models.generated, f"{table.model}Event"))
    record = Record(offset=41, key=None, value=json.dumps(case["envelope"]).encode())
    decoded = decoder.decode([record], epoch=3, base_seq=0)
    assert decoded.rejects == []
    assert {change.version for change in changes(table, decoded)} == {3 << 112 | 41 << 48}
    assert [type(change) for change in changes(table, decoded)] == kinds(case)


def kinds(case: Any) -> list[type]:
    payload, metadata = case["envelope"]["payload"], case["envelope"]["metadata"]
    if metadata["operation"] == "delete":
        return [KeyDeleted]
    row = PartialRow if UNCHANGED in payload.values() else FullRow
    return [row, KeyDeleted] if case["envelope"]["before"] else [row]


def test_the_configuration_captures_every_table_of_the_models() -> None:
    text = (PROJECT / CONFIGURATION).read_text()
    reading = yaml.safe_load(text)["input"]["postgres_cdc"]
    generated = (PROJECT / "sql/generated/tables.txt").read_text().split()
    assert [f"{reading['schema']}.{table}" for table in reading["tables"]] == generated
    assert reading["unchanged_toast_value"] == UNCHANGED


@BY_CONNECT
def test_connect_finds_the_configuration_valid() -> None:
    assert CONNECT is not None
    done = run(CONNECT, "lint", str(CONFIGURATION))
    assert done.returncode == 0, done.stdout + done.stderr


@BY_CONNECT
def test_connects_own_tests_of_the_mapping_pass() -> None:
    assert CONNECT is not None
    done = run(CONNECT, "test", str(CONFIGURATION))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Test 'redpanda-connect.yaml' succeeded" in done.stdout


@BY_CONNECT
def test_connects_input_refuses_to_run_without_a_licence() -> None:
    assert CONNECT is not None
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REDPANDA_LICENSE")}
    environment["CONNECT_HTTP_ADDRESS"] = f"127.0.0.1:{free_ports(1)[0]}"
    done = run(CONNECT, "run", str(CONFIGURATION), environment=environment)
    assert done.returncode == 1
    assert REFUSAL in done.stdout + done.stderr
    assert REFUSAL in " ".join((PROJECT / "docs/sources.md").read_text().split())


@BY_CONNECT
def test_the_mapping_of_other_models_cuts_days_to_dates_and_names_the_topic_by_schema(
    tmp_path: Path,
) -> None:
    assert CONNECT is not None
    text = configuration(load_catalog("tests.logistics"), (PROJECT / CONFIGURATION).read_text())
    (tmp_path / CONFIGURATION).write_text(text)
    row = {"code": "a.b", "born": "1999-12-31T00:00:00Z", "name": None}
    test = {
        "name": "a day",
        "input_batch": [
            {"json_content": row, "metadata": {"table": "people", "operation": "insert"}}
        ],
        "output_batches": [
            [
                {
                    "json_contains": {"payload": {**row, "born": "1999-12-31"}},
                    "metadata_equals": {"topic": "cdc.crm_people", "key": '{"code":"a.b"}'},
                }
            ]
        ],
    }
    file = tmp_path / "redpanda-connect_benthos_test.yaml"
    file.write_text(json.dumps({"tests": [test]}))
    done = run(CONNECT, "test", str(tmp_path / CONFIGURATION))
    assert done.returncode == 0, done.stdout + done.stderr


def run(
    *command: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_excluded_columns_are_not_encoded_and_keys_are_found_beside_them() -> None:
    columns = [
        RelationColumn(name=name, type_oid=25, in_key=False) for name in ("secret", "name", "id")
    ]
    encoder = RowEncoder("people", columns, ["id"], excluded=("secret",))
    values = [b"s", b"n", b"1"]
    assert json.loads(encoder.row(values)) == {"name": "n", "id": "1"}
    assert json.loads(encoder.key(values)) == {"id": "1"}
    with pytest.raises(ValueError, match="zip"):
        encoder.row(values[:2])
