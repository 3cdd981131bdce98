"""The command line on real services: read-only queries, wrong arguments, a service that is gone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from sluice import wiring
from sluice.cli import app
from sluice.cli.status import read_status
from sluice.embedded.clickhouse_users import READER, SECRETS
from sluice.errors import SluiceError
from sluice.settings import Settings, read_secrets
from tests.support.json_schemas import require_valid, schemas
from tests.support.pipeline import relaying
from tests.support.processes import command_environment, silent_broker

pytestmark = pytest.mark.services

WRITES = (
    "INSERT INTO cdc.cli_kept SELECT 1",
    "INSERT INTO cdc.cli_kept VALUES (1)",
    "DELETE FROM cdc.cli_kept WHERE 1",
    "ALTER TABLE cdc.cli_kept ADD COLUMN more UInt8",
    "TRUNCATE TABLE cdc.cli_kept",
    "DROP TABLE cdc.cli_kept",
    "CREATE TABLE cdc.cli_new (id UInt8) ENGINE = Memory",
    "OPTIMIZE TABLE cdc.cli_kept FINAL",
    "SET readonly = 0",
    "SELECT 1 SETTINGS readonly = 0",
)
WRONG_SQL = {
    "": "Empty query",
    "SELECT FROM WHERE": "Syntax error",
    "SELEC 1": "Syntax error",
    "SELECT 1; SELECT 2": "ulti-statements",
    "SELECT * FROM olap.nothing": "nothing",
    "SELECT * FROM nothing.orders": "nothing",
    "SELECT nothing FROM olap.dim_order": "nothing",
    "SELECT no_such(1)": "no_such",
    "SELECT 'a' + 1": "Illegal type",
    "SELECT toInt8('a')": "Cannot parse",
    "SELECT {id:UInt8}": "id",
    "SELECT throwIf(1, 'stop')": "stop",
    "SELECT 1 SETTINGS nothing = 1": "nothing",
    "SELECT sleep(3) SETTINGS max_execution_time = 0.1": "imeout exceeded",
    "SELECT CAST(1, 'Variant(UInt8, String)')": "cannot read",
}


def sluice(settings: Settings, *arguments: str, **changed: str) -> Result:
    """A command's result, with its errors as `main` reports them; some settings changed."""
    environment = command_environment(settings, **changed)
    return CliRunner().invoke(app, list(arguments), env=environment)


def require_error(done: Result, code: int, *words: str) -> None:
    """That a command ended with an error of this exit code, which says these words."""
    if isinstance(done.exception, SystemExit):  # of the option parser
        found, told = done.exit_code, done.output
    else:
        assert isinstance(done.exception, SluiceError), repr(done.exception)
        found, told = done.exception.exit_code, str(done.exception)
    assert found == code, told
    for word in words:
        assert word in told


@pytest.fixture
def kept(services: Settings) -> Any:
    """A table whose row no read-only query may change; its rows now."""
    wiring.query(services, "CREATE OR REPLACE TABLE cdc.cli_kept (id UInt8) ORDER BY id")
    wiring.query(services, "INSERT INTO cdc.cli_kept SELECT 7")
    yield lambda: wiring.query(services, "SELECT * FROM cdc.cli_kept")
    wiring.query(services, "DROP TABLE IF EXISTS cdc.cli_kept SYNC")


@pytest.mark.parametrize("statement", WRITES)
def test_a_query_changes_nothing_without_write(
    services: Settings, kept: Any, statement: str
) -> None:
    require_error(sluice(services, "sql", statement), 2, "sluice sql --write")
    assert kept() == (["id"], [(7,)])


def test_a_query_changes_what_it_names_with_write(services: Settings, kept: Any) -> None:
    for number in (8, 9):
        values = f"SELECT {number}" if number == 8 else f"VALUES ({number})"
        done = sluice(services, "sql", "--write", f"INSERT INTO cdc.cli_kept {values}")
        assert (done.exit_code, done.stdout) == (0, "done\n"), done.exception
    done = sluice(services, "sql", "--write", "DELETE FROM cdc.cli_kept WHERE id = 7")
    assert done.exit_code == 0
    assert sorted(kept()[1]) == [(8,), (9,)]


@pytest.mark.parametrize("readonly", [1, 2])
def test_a_session_that_may_only_read_queries_all_the_same(
    services: Settings, readonly: int
) -> None:
    """ClickHouse refuses it every change of the setting, also to forbid writes."""
    password = read_secrets(services.home)[SECRETS[READER]]
    changed = {"SLUICE_CLICKHOUSE_USER": READER, "SLUICE_CLICKHOUSE_PASSWORD": password}
    if readonly == 1:
        changed = {"SLUICE_CLICKHOUSE_OPTIONS": '{"settings": {"readonly": 1}}'}
    done = sluice(services, "sql", "SELECT 1 AS one", "--format", "csv", **changed)
    assert (done.exit_code, done.stdout) == (0, '"one"\n1\n'), done.exception
    refused = sluice(services, "sql", "--write", "DROP VIEW olap.dim_order", **changed)
    require_error(refused, *((2, "readonly mode") if readonly == 1 else (4, "DROP VIEW ON")))


@pytest.mark.parametrize("query", WRONG_SQL)
def test_an_error_of_the_query_is_wrong_usage_with_clickhouse_s_reason(
    services: Settings, query: str
) -> None:
    done = sluice(services, "sql", query)
    require_error(done, 2, WRONG_SQL[query])
    assert len(str(done.exception).splitlines()) <= 2


def test_a_query_may_have_settings_and_each_format_has_every_value(services: Settings) -> None:
    query = (
        "SELECT number AS n, if(n = 1, NULL, concat('t|', char(10), '\"', toString(n))) AS t,"
        " [n] AS a, map('k', n) AS m, toDateTime64('2026-01-02 03:04:05', 3, 'UTC') AS at"
        " FROM numbers(2) ORDER BY n SETTINGS max_threads = 1"
    )
    outputs = {
        form: sluice(services, "sql", query, "--format", form).stdout
        for form in ("table", "csv", "json", "markdown")
    }
    rows = json.loads(outputs["json"])["rows"]
    assert [(row["n"], row["t"], row["a"], row["m"]) for row in rows] == [
        (0, 't|\n"0', [0], {"k": 0}),
        (1, None, [1], {"k": 1}),
    ]
    lines = list(csv.reader(io.StringIO(outputs["csv"], newline="")))
    assert lines[0] == ["n", "t", "a", "m", "at"]
    assert [line[1] for line in lines[1:]] == ['t|\n"0', r"\N"]
    assert len(outputs["markdown"].splitlines()) == 4
    assert "NULL" in outputs["table"]


# Service -> the setting of its port, and what is read from the others.
DOWN = {
    "postgres": ("SLUICE_POSTGRES_PORT", {"clickhouse_rows", "pending_events", "dead_letters"}),
    "broker": ("", {"postgres_rows", "clickhouse_rows", "dead_letters"}),
    "clickhouse": ("SLUICE_CLICKHOUSE_PORT", {"postgres_rows"}),
}


@pytest.mark.parametrize("service", DOWN)
def test_the_status_has_all_but_what_only_the_missing_service_knows(
    services: Settings, service: str
) -> None:
    setting, known = DOWN[service]
    elsewhere = silent_broker(services, 1) if service == "broker" else {setting: "1"}
    done = sluice(services, "status", "--json", **elsewhere)
    state = json.loads(done.stdout)
    assert set(state["errors"]) == {service, "airflow"}  # Airflow does not run here
    for table in state["tables"].values():
        read = {name for name, value in table.items() if value is not None}
        assert read - {"freshness_s", "compared_at"} == known
    assert bool(state["slot"]) is (service != "postgres")
    require_error(done, 3, "not healthy")
    done = sluice(services, "status", **elsewhere)
    assert "order_items" in done.stdout
    assert "None" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("source", "foo"), ("foo", "relay", "connect")),
        (("resync", "--key", "abc"), ("no table is named",)),
        (("resync", "customers", "--key", "abc"), ("'abc' is not a key", "id")),
        (("resync", "customers", "--key", "abc", "--dry-run"), ("'abc' is not a key", "id")),
        (("resync", "customers", "--from-key", "abc"), ("'abc' is not a key", "id")),
        (("resync", "customers", "--from-key", "1", "--to-key", "x"), ("'x' is not a key",)),
        (("resync", "customers", "--from-key", "9", "--to-key", "1"), ("9", "1")),
        (("resync", "customers", "--key", "99999999999"), ("'99999999999' is not a key",)),
        (("resync", "customers", "--key", "1,2"), ("'1,2' is not a key",)),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_with_the_reason(
    services: Settings, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    require_error(sluice(services, *arguments), 2, *words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"SLUICE_POSTGRES_HOST": "127.0.0.1"}, ("no password", "set SLUICE_POSTGRES_PASSWORD")),
        (
            {"SLUICE_POSTGRES_PASSWORD": "wrong"},
            ("authentication failed", "SLUICE_POSTGRES_USER, SLUICE_POSTGRES_PASSWORD or"),
        ),
    ],
    ids=["none", "wrong"],
)
def test_a_password_that_is_missing_or_wrong_is_named_by_its_setting(
    services: Settings, given: dict[str, str], words: tuple[str, ...]
) -> None:
    require_error(sluice(services, "quality", **given), 3, *words)


def test_the_status_lists_stores_of_others_that_answer(services: Settings) -> None:
    theirs = replace(
        services,
        postgres=replace(services.postgres, embedded=False),
        clickhouse=replace(services.clickhouse, embedded=False),
    )
    listed = read_status(theirs)["services"]
    for name, of in (("postgres-source", theirs.postgres), ("clickhouse", theirs.clickhouse)):
        assert listed[name]["external"]
        assert (listed[name]["state"], listed[name]["address"]) == ("answers", of.address)


def test_a_home_without_a_stack_has_its_status(services: Settings, tmp_path: Path) -> None:
    state = json.loads(sluice(services, "status", "--json", SLUICE_HOME=str(tmp_path)).stdout)
    assert {one["state"] for one in state["services"].values()} == {"stopped"}


@pytest.fixture(scope="module")
def rejected(services: Settings) -> Iterator[None]:
    """A relay, its slot, and a dead letter."""
    with relaying(services, snapshot=True):
        producer = Producer(
            {"bootstrap.servers": services.kafka.bootstrap, **services.kafka.options}
        )
        producer.produce("cdc.orders", key=b'{"id": 1}', value=b"not an event \xff", partition=0)
        assert producer.flush(20) == 0
        wiring.drain_all(services, ("orders",), pass_rejects=True)
        yield
    wiring.query(services, "TRUNCATE TABLE cdc.dead_letters")  # which other modules would find


@pytest.mark.usefixtures("rejected")
@pytest.mark.parametrize("call", schemas())
def test_the_json_of_every_command_is_what_its_schema_says(services: Settings, call: str) -> None:
    words = call.replace("TABLE", "orders").split()
    if words[0] == "sql":
        words += ["SELECT 1 AS a, 'b' AS b, [1.5] AS c"]
    if words[:2] == ["topics", "show"]:
        words += ["orders"]
    document = require_valid(call, sluice(services, *words).stdout)
    filled = {"quality": "checks", "doctor": "checks", "dead-letters": "dead_letters"}
    assert document[filled[words[0]]] if words[0] in filled else document
    if "TABLE" in call:
        assert (document["table"], document["dead_letters"]) == ("orders", 1)
        assert document["errors"] == {}
    elif words[0] == "status":
        assert document["slot"]["wal_status"] == "reserved"
        assert document["tables"]["orders"]["dead_letters"] == 1
