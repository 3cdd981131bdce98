"""Ports are looked at before anything starts; ports and settings are noted for other shells."""

from __future__ import annotations

import json
import logging
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sluice.cli import app
from sluice.embedded.programs import busy_ports, programs, set_ports
from sluice.errors import NotReady, WrongUsage
from sluice.settings import (
    FILE,
    PORTS,
    Started,
    differences,
    kept,
    read_settings,
    read_started,
    read_values,
    started_file,
    started_text,
)
from sluice.settings.started import ASKED
from tests.support.services import stack_environment

ORIGIN = "the stack's last start"
NOTED = {name: 20_000 + 10 * number for number, name in enumerate(PORTS)}
THEIRS = {
    "SLUICE_POSTGRES_HOST": {"SLUICE_POSTGRES_PORT"},
    "SLUICE_POSTGRES_PASSWORD": {"SLUICE_POSTGRES_PORT"},
    "SLUICE_KAFKA_BOOTSTRAP": {"SLUICE_KAFKA_PORT"},
    "SLUICE_CLICKHOUSE_HOST": {"SLUICE_CLICKHOUSE_PORT", "SLUICE_CLICKHOUSE_HTTP_PORT"},
    "SLUICE_CLICKHOUSE_USER": {"SLUICE_CLICKHOUSE_PORT", "SLUICE_CLICKHOUSE_HTTP_PORT"},
    "SLUICE_CLICKHOUSE_PASSWORD": {"SLUICE_CLICKHOUSE_PORT", "SLUICE_CLICKHOUSE_HTTP_PORT"},
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose stack was started with the ports NOTED."""
    path = started_file(tmp_path / "home")
    path.parent.mkdir(parents=True)
    path.write_text(started_text(Started(ports=NOTED)))
    return tmp_path / "home"


def ports(environment: dict[str, str]) -> dict[str, int]:
    """The ports of all programs, by setting."""
    return set_ports(programs(read_settings(environment)).values())


def test_all_ports_that_are_taken_are_named_with_their_settings(tmp_path: Path) -> None:
    environment = stack_environment(tmp_path)
    busy_ports(programs(read_settings(environment)))
    with ExitStack() as servers:
        for name in PORTS:
            servers.enter_context(socket.create_server(("127.0.0.1", int(environment[name]))))
        with pytest.raises(NotReady) as caught:
            busy_ports(programs(read_settings(environment)))
    for name in PORTS:
        assert f" {environment[name]} for " in caught.value.what
    assert str(caught.value.remedy).count("SLUICE_") == len(PORTS)
    assert all(name in str(caught.value.remedy) for name in PORTS)


def test_all_ports_that_are_set_twice_are_named_with_their_settings(tmp_path: Path) -> None:
    environment = stack_environment(tmp_path)
    health = str(int(environment["SLUICE_AIRFLOW_PORT"]) + 1)
    environment |= {"SLUICE_API_PORT": health}
    environment |= {"SLUICE_POSTGRES_PORT": environment["SLUICE_CLICKHOUSE_HTTP_PORT"]}
    with pytest.raises(WrongUsage) as caught:
        busy_ports(programs(read_settings(environment)))
    assert f" {health} for api and airflow-scheduler" in caught.value.what
    assert "SLUICE_API_PORT, SLUICE_AIRFLOW_PORT" in str(caught.value.remedy)
    port = environment["SLUICE_POSTGRES_PORT"]
    assert f" {port} for postgres and clickhouse" in caught.value.what
    assert "SLUICE_POSTGRES_PORT, SLUICE_CLICKHOUSE_HTTP_PORT" in str(caught.value.remedy)


def test_two_ports_of_one_program_are_told_apart(tmp_path: Path) -> None:
    environment = stack_environment(tmp_path)
    port = environment["SLUICE_CLICKHOUSE_HTTP_PORT"] = environment["SLUICE_CLICKHOUSE_PORT"]
    with pytest.raises(WrongUsage, match=f"set twice: {port} for clickhouse\n") as caught:
        busy_ports(programs(read_settings(environment)))
    assert caught.value.remedy == "set others: SLUICE_CLICKHOUSE_PORT, SLUICE_CLICKHOUSE_HTTP_PORT"


def test_the_ports_of_the_programs_are_those_of_every_setting_of_a_port(tmp_path: Path) -> None:
    environment = stack_environment(tmp_path)
    given = {name: int(environment[name]) for name in PORTS if name in environment}
    assert ports(environment) == given
    assert given.keys() == set(PORTS)


@pytest.mark.parametrize("name", PORTS)
def test_a_noted_port_is_read_unless_it_is_set(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"SLUICE_HOME": str(home)}
    assert ports(environment) == NOTED
    assert read_values(environment)[name] == (str(NOTED[name]), ORIGIN)
    assert read_values({**environment, name: "7"})[name] == ("7", "environment")
    service, _, key = name.removeprefix("SLUICE_").lower().partition("_")
    (tmp_path / FILE).write_text(f"[{service}]\n{key} = 8\n")
    assert read_values(environment)[name] == ("8", FILE)


@pytest.mark.parametrize("setting", THEIRS)
def test_the_noted_port_of_a_service_is_not_somebody_elses(setting: str, home: Path) -> None:
    values = read_values({"SLUICE_HOME": str(home), setting: "theirs"})
    assert {name for name in PORTS if values[name][1] != ORIGIN} == THEIRS[setting]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        b'{"ports": {"SLUICE_API_PORT": "1"}}',
        b'{"ports": {"SLUICE_API_PORT": 0}}',
        b'{"ports": {"SLUICE_API_PORT": 65536}}',
        b'{"ports": {"SLUICE_API_PORT": 1.5}}',
        b'{"ports": {"SLUICE_API_PORT": 1}, "settings": {"SLUICE_SLOT": "x"}}',
    ],
    ids=lambda content: repr(content[-30:]),
)
def test_a_note_that_cannot_be_read_is_named_and_breaks_nothing(
    content: bytes, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started_file(home).write_bytes(content)
    with caplog.at_level(logging.WARNING, "sluice"):
        settings = read_settings({"SLUICE_HOME": str(home)})
        read_settings({"SLUICE_HOME": str(home)})
    assert (settings.api_port, settings.airflow_port) == (3002, 8080)
    (line,) = caplog.messages
    assert line.startswith(f"{started_file(home)} is ignored: ")
    assert line.endswith("until the stack's next start")


def test_a_noted_port_without_a_setting_is_ignored(home: Path) -> None:
    ports = {"SLUICE_API_PORT": 1, "SLUICE_HOME": 2}
    started_file(home).write_text(json.dumps({"ports": ports}))
    values = read_values({"SLUICE_HOME": str(home)})
    assert values["SLUICE_API_PORT"] == ("1", ORIGIN)
    assert values["SLUICE_HOME"] == (str(home), "environment")


def test_config_says_that_a_port_is_from_the_stacks_start(home: Path) -> None:
    environment = dict.fromkeys((*PORTS, *THEIRS), "")
    environment |= {"SLUICE_HOME": str(home), "COLUMNS": "200"}
    done = CliRunner().invoke(app, ["config"], env=environment)
    (line,) = [line for line in done.stdout.splitlines() if " airflow.port " in line]
    wanted = ["airflow.port", str(NOTED["SLUICE_AIRFLOW_PORT"]), ORIGIN]
    assert [cell.strip() for cell in line.split("│")][1:4] == wanted


SECRET = "canary-of-a-secret-setting"


def asked(**variables: str) -> dict[str, tuple[str, str]]:
    return dict(read_settings({f"SLUICE_{name}": value for name, value in variables.items()}).asked)


@pytest.mark.parametrize("name", ASKED)
def test_a_setting_that_only_the_stack_was_given_is_named_with_both_values(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = {
        "SLUICE_POSTGRES_HOST": "127.0.0.1",  # one that somebody set is not the stack's own
        "SLUICE_CLICKHOUSE_ENGINES": "replicated",
        "SLUICE_RELAY_METRICS": "127.0.0.1:1",
    }.get(name, SECRET)
    value = "7" if name in PORTS else value
    value = json.dumps({"password": SECRET}) if name.endswith("OPTIONS") else value
    value = value.replace("-", "_") if name == "SLUICE_SLOT" else value
    environment = {name: value}
    if name == "SLUICE_CLICKHOUSE_ENGINES":
        environment["SLUICE_CLICKHOUSE_CLUSTER"] = "c"
    started = dict(read_settings(environment).asked)
    (line,) = [one for one in differences(started, asked()) if one.startswith(f"{name} is ")]
    secret = "PASSWORD" in name or "OPTIONS" in name or "KEY" in name
    assert line.startswith(f"{name} is {'(hidden)' if secret else value} (environment) there, ")
    default = read_values({})[name][0] if name != "SLUICE_POSTGRES_HOST" else ""
    assert line.endswith(f", {f'{default} (default)' if default else 'not set'} here")
    assert differences(started, started) == []
    assert not secret or SECRET not in started_text(Started(settings=started))


def test_a_value_that_is_set_to_the_default_or_noted_by_an_older_version_does_not_differ() -> None:
    assert differences(asked(SLOT="sluice"), asked()) == []
    assert differences({}, asked(SLOT="x")) == []


@pytest.mark.parametrize(
    ("name", "there", "here", "stays"),
    [
        ("SLUICE_SLOT", FILE, FILE, False),
        ("SLUICE_SLOT", "environment", FILE, True),
        ("SLUICE_SLOT", "default", "environment", True),
        ("SLUICE_POSTGRES_HOST", FILE, FILE, True),
    ],
)
def test_only_what_files_say_of_models_and_slot_may_change_while_a_stack_runs(
    name: str, there: str, here: str, stays: bool
) -> None:
    assert bool(kept({name: ("x", there)}, {name: ("y", here)})) is stays


def test_what_a_stack_was_started_with_is_read_as_it_was_noted(home: Path) -> None:
    started = Started(ports=NOTED, settings=asked(SLOT="x", POSTGRES_PASSWORD=SECRET))
    started_file(home).write_text(started_text(started))
    assert read_started(home) == started
