"""Masked columns of every type: what arrives on every way, and that no raw value does."""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import count
from typing import Any
from unittest.mock import patch

import psycopg2
import pytest
from confluent_kafka import Consumer, TopicPartition
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as effort
from psycopg2 import sql
from pydantic import SecretStr
from sqlalchemy import create_engine

from sluice import wiring
from sluice.capture import relay, table_copy
from sluice.capture import slot as slots
from sluice.capture.bulk import OpenLoads, no_loads
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.catalog.quality_options import Status
from sluice.clients.broker import Broker
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource, connection_options
from sluice.clients.source_tables import own_rows
from sluice.data_types.masks import HASH, REDACTED
from sluice.errors import NeedsPerson, Retryable
from sluice.generate.files import write_files
from sluice.operate.doctor import clickhouse as doctor
from sluice.operate.row_comparison import compare_rows
from sluice.settings import RelaySettings, Settings
from sluice.wiring.bulk import first_loads
from tests import support
from tests.support.masked_samples import CONSTANTS, HASHES, MASKED, Base, rows
from tests.support.services import drop_slot, free_ports, own_services
from tests.support.waiting import until

pytestmark = pytest.mark.services

services = own_services
MODELS = "tests.support.masked_samples"
CATALOG = load_catalog(MODELS)
TABLES = {"hashed": HASHES, "redacted": CONSTANTS}
NAMES = list(MASKED)
KEY = "the key of these tests"
IDS = count(1)
ARRAYS = dict.fromkeys(("numbers", "words", "instants", "amounts"), "{}")
# A raw value in every column that holds any text; it is nowhere but in PostgreSQL.
CANARY = "c4n4ry-of-a-person"
CANARIES = {
    **ARRAYS,
    "short": CANARY,
    "long": f"{CANARY} " + "".join(sha256(bytes([n])).hexdigest() for n in range(99)),
    "document": f'{{"name": "{CANARY}"}}',
    "kept": f'["{CANARY}"]',
    "words": f"{{{CANARY}}}",
    "raw": f"\\x{CANARY.encode().hex()}",
}
BY_TOPIC = "rows go through the topic"


@pytest.fixture(scope="module")
def settings(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    out = tmp_path_factory.mktemp("generated")
    write_files(CATALOG, out)
    support.__path__.append(str(out / "tests/support"))
    yield replace(
        services,
        models=MODELS,
        out=out,
        postgres=replace(services.postgres, mask_key=SecretStr(KEY)),
        relay=RelaySettings(slot="masked", ack="drained"),
    )
    support.__path__.remove(str(out / "tests/support"))


@pytest.fixture(scope="module")
def postgres(settings: Settings) -> Iterator[Any]:
    connection = psycopg2.connect(**connection_options(settings.postgres))
    connection.autocommit = True
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connection)
    Base.metadata.create_all(engine)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        yield cursor
    connection.close()


@contextmanager
def relaying(settings: Settings, loads: OpenLoads = no_loads) -> Iterator[None]:
    stop = threading.Event()
    options = {"stop": stop, "loads": loads}
    thread = threading.Thread(target=run, args=(settings, CATALOG), kwargs=options)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def stream(settings: Settings, postgres: Any) -> Iterator[None]:
    assert wiring.initialise(settings) == []
    # Tests change the key for a moment; this relay is not to see it.
    with patch.object(relay, "KEY_SECONDS", 3600.0), relaying(settings):
        yield


def insert(postgres: Any, row: Mapping[str, str | None]) -> int:
    """Insert a row into both tables."""
    key = next(IDS)
    names = sql.SQL(", ").join(map(sql.Identifier, ["id", *row]))
    places = sql.SQL(", ").join([sql.Placeholder()] * (len(row) + 1))
    for table in TABLES:
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({})")
        postgres.execute(query.format(sql.Identifier(table), names, places), [key, *row.values()])
    return key


def drained(settings: Settings) -> None:

    def checked() -> bool:
        for table in TABLES:
            wiring.drain(settings, table)
        wiring.quality(settings)
        return True

    until(checked, "the checks can be made", retry=Retryable)


def masked(mask: str, text: str | None) -> str | None:
    if text is None:
        return None
    return hmac.new(KEY.encode(), text.encode(), sha256).hexdigest() if mask == HASH else REDACTED


def expected(postgres: Any, table: str) -> dict[int, list[str | None]]:
    """The masks, by this module's own HMAC, of PostgreSQL's texts."""
    # format() uses the type's output function; a cast to text may differ.
    listed = ", ".join(
        f'CASE WHEN "{name}" IS NOT NULL THEN format(\'%s\', "{name}") END' for name in NAMES
    )
    postgres.execute(f"SELECT id, {listed} FROM {table}")
    masks = [TABLES[table][name] for name in NAMES]
    return {key: list(map(masked, masks, texts)) for key, *texts in postgres}


def stored(settings: Settings, table: str) -> dict[int, list[str | None]]:
    listed = ", ".join(f"`{name}`" for name in NAMES)
    _, found = wiring.query(settings, f"SELECT id, {listed} FROM olap.dim_{table}")
    return {key: values for key, *values in found}


def assert_masked(settings: Settings, postgres: Any) -> None:
    for table in TABLES:
        wanted, found = expected(postgres, table), stored(settings, table)
        assert found.keys() == wanted.keys()
        for key, values in wanted.items():
            assert dict(zip(NAMES, found[key], strict=True)) == dict(
                zip(NAMES, values, strict=True)
            )


@effort(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sample=rows())
def test_every_value_that_is_streamed_is_masked(
    settings: Settings, postgres: Any, stream: None, sample: list[dict[str, str | None]]
) -> None:
    keys = [insert(postgres, row) for row in sample]
    drained(settings)
    for table in TABLES:
        assert wiring.dead_letters(settings, table, 5) == []
        wanted, found = expected(postgres, table), stored(settings, table)
        for key in keys:
            for at, name in enumerate(NAMES):
                assert found[key][at] == wanted[key][at], (table, name)


def another_relay(settings: Settings, slot: str) -> Settings:
    return replace(settings, relay=RelaySettings(slot=slot, ack="broker"))


def until_slot(settings: Settings, postgres: Any) -> None:

    def has_slot() -> bool:
        slot = settings.relay.slot
        postgres.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [slot])
        return postgres.fetchone() is not None

    until(has_slot, "the relay has its slot")


def by_snapshot(settings: Settings, postgres: Any) -> None:
    """Without ClickHouse, which the relay does not need."""
    again = another_relay(settings, "masked_again")
    closed = replace(settings.clickhouse, port=free_ports(1)[0])
    with relaying(replace(again, clickhouse=closed)):
        until_slot(again, postgres)
    drop_slot(again)
    for table in TABLES:
        wiring.query(settings, f"TRUNCATE TABLE cdc.dim_{table}")
    drained(settings)


def by_first_copy(settings: Settings, postgres: Any) -> None:
    again = another_relay(settings, "masked_in_bulk")
    for table in TABLES:
        wiring.query(settings, f"TRUNCATE TABLE cdc.dim_{table}")
    loads = partial(first_loads, again)
    with patch.object(table_copy, "_FEWEST_PAGES", 0), relaying(again, loads):
        until_slot(again, postgres)
    drop_slot(again)
    drained(settings)


def in_bulk(settings: Settings, _: Any) -> None:
    for table in TABLES:
        wiring.query(settings, f"TRUNCATE TABLE cdc.dim_{table}")
        wiring.resync(settings, table, restart=True)


def by_topic(settings: Settings, _: Any) -> None:
    closed = replace(settings.clickhouse, http_port=free_ports(1)[0])
    in_bulk(replace(settings, clickhouse=closed), _)


def row_by_row(settings: Settings, postgres: Any) -> None:
    """Rows of which the stream sends a part are completed from PostgreSQL."""
    for table in TABLES:
        wiring.query(settings, f"TRUNCATE TABLE cdc.dim_{table}")
        postgres.execute(f"UPDATE {table} SET note = 'again'")
    drained(settings)


@pytest.mark.parametrize("way", [by_snapshot, by_first_copy, in_bulk, by_topic, row_by_row])
def test_every_way_masks_as_the_stream_does(
    settings: Settings,
    postgres: Any,
    stream: None,
    way: Callable[[Settings, Any], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = insert(postgres, CANARIES)
    drained(settings)
    assert_masked(settings, postgres)
    with caplog.at_level(logging.INFO):
        way(settings, postgres)
    assert (BY_TOPIC in caplog.text) == (way is by_topic)
    assert ("key of masked columns cannot be compared yet" in caplog.text) == (way is by_snapshot)
    assert_masked(settings, postgres)
    assert key in stored(settings, "hashed")
    report = wiring.quality(settings, deep=True, restart=True)
    assert report.passed


def test_a_difference_in_a_masked_column_is_found_named_and_not_shown(
    settings: Settings, postgres: Any, stream: None
) -> None:
    key = insert(postgres, CANARIES)
    drained(settings)
    wiring.query(
        settings,
        f"INSERT INTO cdc.dim_hashed SELECT * REPLACE ('other' AS short, _version + 1 AS _version)"
        f" FROM cdc.dim_hashed FINAL WHERE id = {key}",
    )
    table = CATALOG.table("hashed")
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        (row,) = compare_rows(PostgresSource(settings.postgres), clickhouse, table, [(str(key),)])
    (value,) = row.differing
    assert (value.column, value.clickhouse) == ("short", "other")
    assert value.postgres == masked(HASH, CANARY)
    assert CANARY not in str(row)
    report = wiring.quality(settings, ["hashed"], deep=True, restart=True)
    (found,) = [check for check in report.checks if check.check == "rows"]
    assert found.keys == (str(key),)
    assert "short" in str(found)
    assert CANARY not in str(report)
    assert wiring.resync(settings, "hashed", keys=[str(key)]).rows == 1
    assert_masked(settings, postgres)


def test_no_raw_value_is_on_a_topic_in_clickhouse_or_in_a_log(
    settings: Settings, postgres: Any, stream: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Of dead letters, too: the relay masks before it publishes."""
    with caplog.at_level(logging.DEBUG):
        insert(postgres, CANARIES)
        unfit = insert(postgres, {**CANARIES, "seen": "infinity"})
        drained(settings)
        for table in TABLES:
            postgres.execute(f"UPDATE {table} SET long = upper(long) WHERE id = {unfit - 1}")
            postgres.execute(f"DELETE FROM {table} WHERE id = {unfit}")
        drained(settings)
        letters = [wiring.dead_letters(settings, table, 5, every=True) for table in TABLES]
        wiring.resync(settings, "hashed", restart=True)
        wiring.quality(settings, deep=True, restart=True)
    shown = [" ".join(str(letter) for letter in own) for own in letters]
    assert all(f'"id":{unfit}' in text for text in shown)
    raw = (CANARY.encode(), CANARY.upper().encode(), CANARY.encode().hex().encode())
    for place, content in everything(settings):
        assert not [text for text in raw if text in content], place
    assert CANARY not in caplog.text
    assert KEY not in caplog.text


def everything(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Every message on the broker, and the rows of every table of ClickHouse with its logs."""
    consumer = Consumer({**Broker(settings.kafka).options, "group.id": "canary"})
    for name in (f"cdc.{table}" for table in TABLES):
        _, end = consumer.get_watermark_offsets(TopicPartition(name, 0), timeout=10)
        assert end > 0
        consumer.assign([TopicPartition(name, 0, 0)])
        read = 0
        while read < end:
            message = consumer.poll(10)
            assert message is not None
            assert message.error() is None
            read += 1
            yield f"{name} {read}", bytes(message.key() or b"") + bytes(message.value() or b"")
    consumer.close()
    _, tables = wiring.query(
        settings,
        "SELECT database, name FROM system.tables WHERE database IN ('cdc', 'olap')"
        " OR (database = 'system' AND name LIKE '%\\_log')",
    )
    for database, name in tables:
        _, found = wiring.query(settings, f"SELECT toString(tuple(*)) FROM {database}.`{name}`")
        yield f"{database}.{name}", "\n".join(text for (text,) in found).encode()


def test_rows_are_read_by_pages_and_keys_as_without_a_mask(
    settings: Settings, postgres: Any, stream: None
) -> None:
    table = CATALOG.table("hashed")
    with slots.session(settings.postgres) as cursor:
        source = own_rows(cursor, table).as_string(cursor.connection)
        cursor.execute("SET enable_seqscan = off")

        def plan(condition: str) -> str:
            cursor.execute(f"EXPLAIN SELECT * FROM {source} WHERE {condition}")
            return "\n".join(line for (line,) in cursor.fetchall())

        assert "Tid Range Scan" in plan("ctid >= '(0,0)'::tid AND ctid < '(9,0)'::tid")
        assert "Index Scan using hashed_pkey" in plan("id BETWEEN 1 AND 3")


def test_the_key_is_in_no_statement_and_no_session_shows_it(
    settings: Settings, postgres: Any, stream: None
) -> None:
    with slots.session(settings.postgres) as cursor:
        source = own_rows(cursor, CATALOG.table("hashed"))
        cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 1").format(source))
        postgres.execute("SELECT query FROM pg_stat_activity")
        queries = "\n".join(str(text) for (text,) in postgres.fetchall())
    assert "sha256" in queries
    assert KEY not in queries
    assert "current_setting" in queries


def test_a_column_that_was_renamed_in_postgres_is_not_sent(
    settings: Settings, postgres: Any, stream: None
) -> None:
    """It might be one that is masked."""
    postgres.execute("ALTER TABLE hashed RENAME COLUMN short TO brief")
    try:
        key, others = next(IDS), {k: v for k, v in CANARIES.items() if k != "short"}
        names = sql.SQL(", ").join(map(sql.Identifier, ["id", "brief", *others]))
        values = sql.SQL(", ").join(map(sql.Literal, [key, CANARY, *others.values()]))
        postgres.execute(sql.SQL("INSERT INTO hashed ({}) VALUES ({})").format(names, values))

        def arrived() -> bool:
            wiring.drain(settings, "hashed")
            return key in stored(settings, "hashed")

        until(arrived, "the row has arrived", retry=Retryable)
        assert stored(settings, "hashed")[key][NAMES.index("short")] is None
    finally:
        postgres.execute("ALTER TABLE hashed RENAME COLUMN brief TO short")
    for place, content in everything(settings):
        assert CANARY.encode() not in content, place
    assert wiring.resync(settings, "hashed").unstored == {}
    drained(settings)
    assert_masked(settings, postgres)


def diagnoses(settings: Settings) -> list[str]:
    return [
        f"{one.found}; {one.remedy}"
        for one in doctor.checks(settings, CATALOG)
        if one.check.startswith(("masks of", "key of"))
    ]


def read_directly(settings: Settings) -> None:
    with slots.session(settings.postgres) as cursor:
        source = own_rows(cursor, CATALOG.table("hashed"))
        cursor.execute(sql.SQL("SELECT * FROM {}").format(source))


def test_without_the_key_nothing_is_read(settings: Settings, stream: None) -> None:
    bare = replace(settings, postgres=replace(settings.postgres, mask_key=SecretStr("")))
    with pytest.raises(NeedsPerson, match="SLUICE_MASK_KEY is not set"):
        wiring.initialise(bare)
    with pytest.raises(NeedsPerson, match="SLUICE_MASK_KEY is not set"):
        run(bare, CATALOG)
    with pytest.raises(NeedsPerson, match="SLUICE_MASK_KEY is not set"):
        wiring.resync(bare, "hashed", restart=True)
    with pytest.raises(NeedsPerson, match="SLUICE_MASK_KEY is not set"):
        read_directly(bare)


OTHER_KEY = "SLUICE_MASK_KEY is another key here"


def with_other_key(settings: Settings) -> Settings:
    key = SecretStr("another key than before")
    return replace(settings, postgres=replace(settings.postgres, mask_key=key))


def test_with_another_key_nothing_is_hashed_and_everybody_says_so(
    settings: Settings, postgres: Any, stream: None
) -> None:
    key, other = insert(postgres, CANARIES), with_other_key(settings)
    drained(settings)
    calls: list[Callable[[], object]] = [
        lambda: wiring.initialise(other),
        lambda: run(other, CATALOG),
        lambda: wiring.resync(other, "hashed", restart=True),
        lambda: wiring.resync(other, "hashed", keys=[str(key)]),
        lambda: wiring.quality(other, deep=True),
        lambda: list(wiring.repair(other)),
        lambda: list(wiring.recover(other)),
    ]
    for call in calls:
        with pytest.raises(NeedsPerson, match=OTHER_KEY) as raised:
            call()
        assert "sluice init --new-mask-key" in str(raised.value)
        assert KEY not in str(raised.value)
    (line,) = diagnoses(other)
    assert OTHER_KEY in line
    report = wiring.quality(other)
    assert [(c.table, c.status) for c in report.checks if c.check == "mask_key"] == [
        ("hashed", Status.FAIL)
    ]
    assert len(report.failures) == 1
    assert OTHER_KEY in report.failures[0]
    assert wiring.quality(settings).passed
    assert diagnoses(settings) == []
    assert_masked(settings, postgres)


def test_a_drain_with_another_key_stores_no_row_that_it_has_to_read(
    settings: Settings, postgres: Any, stream: None
) -> None:
    key = insert(postgres, CANARIES)
    drained(settings)
    wiring.query(settings, "TRUNCATE TABLE cdc.dim_hashed")
    postgres.execute("UPDATE hashed SET note = 'anew' WHERE id = %s", [key])

    def refused() -> bool:
        try:
            wiring.drain(with_other_key(settings), "hashed")
        except NeedsPerson as error:
            return OTHER_KEY in error.what
        return False

    until(refused, "the drain has to read the row", retry=Retryable)
    assert stored(settings, "hashed") == {}
    wiring.resync(settings, "hashed", restart=True)
    drained(settings)
    assert_masked(settings, postgres)


def test_a_relay_ends_when_the_key_is_changed_on_purpose(
    settings: Settings, postgres: Any, stream: None
) -> None:
    again, errors = another_relay(settings, "masked_later"), list[NeedsPerson]()

    def runs() -> None:
        try:
            run(again, CATALOG)
        except NeedsPerson as error:
            errors.append(error)

    with patch.object(relay, "KEY_SECONDS", 0.1):
        thread = threading.Thread(target=runs)
        thread.start()
        until_slot(again, postgres)
        wiring.initialise(with_other_key(settings), new_mask_key=True)
        thread.join(60)
    wiring.initialise(settings, new_mask_key=True)
    drop_slot(again)
    assert [OTHER_KEY in error.what for error in errors] == [True]
    drained(settings)


def test_a_new_key_is_named_until_all_rows_were_read_again(
    settings: Settings, postgres: Any, stream: None
) -> None:
    insert(postgres, CANARIES)
    drained(settings)
    assert diagnoses(settings) == []
    other, differs = with_other_key(settings), "rows of hashed are masked in another way"
    assert any(differs in line for line in wiring.initialise(other, new_mask_key=True))
    (line,) = diagnoses(other)
    assert differs in line
    assert "run: sluice resync hashed" in line
    with pytest.raises(NeedsPerson, match=OTHER_KEY):
        wiring.resync(settings, "hashed", restart=True)
    report = wiring.quality(other, ["hashed"], deep=True, restart=True)
    (found,) = [check for check in report.checks if check.check == "rows"]
    assert found.status is Status.FAIL
    wiring.resync(other, "hashed", restart=True)
    assert diagnoses(other) == []
    assert wiring.quality(other, ["hashed"], deep=True, restart=True).passed
    wiring.initialise(settings, new_mask_key=True)
    wiring.resync(settings, "hashed", restart=True)
    assert diagnoses(settings) == []
    assert_masked(settings, postgres)


def test_redpanda_connect_cannot_take_over(settings: Settings, stream: None) -> None:
    with pytest.raises(Exception, match="class Hashed: column small is masked, and Redpanda"):
        wiring.change_source(settings, "connect")
