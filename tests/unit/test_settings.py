from __future__ import annotations

import ast
import re

import pytest
from clickhouse_driver.errors import ServerException

from sluice.clients.clickhouse import server_error
from sluice.errors import WrongUsage
from sluice.settings import PACKAGE, PROJECT, VARIABLES, read_settings


def test_the_example_file_lists_every_variable_with_its_default() -> None:
    lines = re.findall(r"^# (SLUICE_\w+)=(.*)$", (PROJECT / ".env.example").read_text(), re.M)
    assert dict(lines) == {name: default for name, (default, _) in VARIABLES.items()}


@pytest.mark.parametrize(("load", "readers"), [("1", 3), ("0.5", 1)])
def test_a_limited_load_on_postgresql_is_that_of_one_reader(load: str, readers: int) -> None:
    chosen = {"SLUICE_COPY_READERS": "3", "SLUICE_COPY_LOAD": load}
    assert read_settings(chosen).copy_readers == readers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICE_API_PORT", "x"),
        ("SLUICE_API_PORT", "70000"),
        ("SLUICE_DRAIN_CHUNK", "0"),
        ("SLUICE_REJECT_RATIO", "2"),
        ("SLUICE_DEAD_LETTER_DAYS", "0"),
        ("SLUICE_DEAD_LETTER_DAYS", "36501"),
        ("SLUICE_RELAY_ACK", "never"),
        ("SLUICE_RELAY_METRICS", "4195"),
        ("SLUICE_COPY_READERS", "0"),
        ("SLUICE_COPY_VERIFY", "yes"),
        ("SLUICE_QUALITY_LOAD", "0"),
        ("SLUICE_QUALITY_LOAD", "1.5"),
        ("SLUICE_QUALITY_REPLICA", "standby"),
        ("SLUICE_KAFKA_OPTIONS", "sasl.password=canary"),
        ("SLUICE_POSTGRES_OPTIONS", '["canary"]'),
        ("SLUICE_CLICKHOUSE_CLUSTER", "two'); DROP"),
        ("SLUICE_SLOT", "a'; DROP"),
        ("SLUICE_SLOT", "Upper"),
        ("SLUICE_SLOT", "s" * 51),
        ("SLUICE_CLICKHOUSE_ENGINES", "twice"),
        ("SLUICE_CLICKHOUSE_ENGINES", "replicated"),
    ],
)
def test_a_value_that_its_variable_does_not_take_is_named(name: str, value: str) -> None:
    with pytest.raises(WrongUsage, match=name) as caught:
        read_settings({name: value})
    assert "canary" not in str(caught.value)


def test_passwords_do_not_show() -> None:
    options = {
        "SLUICE_POSTGRES_OPTIONS": '{"sslpassword": "canary"}',
        "SLUICE_KAFKA_OPTIONS": '{"sasl.password": "canary"}',
        "SLUICE_CLICKHOUSE_OPTIONS": '{"keyfile": "canary"}',
    }
    passwords = {"SLUICE_POSTGRES_PASSWORD": "canary", "SLUICE_CLICKHOUSE_PASSWORD": "canary"}
    settings = read_settings({**options, **passwords})
    assert "canary" not in repr(settings)
    assert settings.postgres.password.get_secret_value() == "canary"


def test_a_replica_is_reached_as_the_primary_is_but_for_its_address() -> None:
    primary = {"SLUICE_POSTGRES_HOST": "first", "SLUICE_POSTGRES_OPTIONS": '{"sslmode": "require"}'}
    settings = read_settings({**primary, "SLUICE_QUALITY_REPLICA": "second:5433"})
    assert (settings.compared.host, settings.compared.port) == ("second", 5433)
    assert settings.compared.options == settings.postgres.options
    assert settings.postgres.host == "first"
    assert read_settings(primary).compared.host == "first"


def test_texts_name_settings_in_full() -> None:
    """A person searches for the whole name."""
    texts = [
        node.value
        for path in PACKAGE.parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    named = [text for text in texts if "SLUICE_" in text]
    assert len(named) > 50
    assert [text for text in named if re.search(r"(^|[ ,(])_[A-Z]{3,}\b", text)] == []


def test_a_refused_login_at_clickhouse_names_its_settings() -> None:
    error = server_error("ClickHouse x:9000", ServerException("no password", 516))
    assert "SLUICE_CLICKHOUSE_USER and SLUICE_CLICKHOUSE_PASSWORD" in str(error)
