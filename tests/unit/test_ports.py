"""Ports are looked at before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sluice.embedded.programs import busy_ports, programs
from sluice.errors import NotReady, WrongUsage
from sluice.settings import read_settings
from tests.support.services import stack_environment


def test_a_port_that_is_taken_or_wanted_twice_is_named_with_its_setting(
    tmp_path: Path,
) -> None:
    environment = stack_environment(tmp_path)
    busy_ports(programs(read_settings(environment)))
    health = str(int(environment["SLUICE_AIRFLOW_PORT"]) + 1)
    twice = read_settings({**environment, "SLUICE_API_PORT": health})
    with pytest.raises(WrongUsage, match=f"port {health} .*api.*airflow-scheduler"):
        busy_ports(programs(twice))
    address = ("127.0.0.1", int(environment["SLUICE_KAFKA_PORT"]))
    taken = pytest.raises(NotReady, match="for broker")
    with socket.create_server(address), taken as caught:
        busy_ports(programs(read_settings(environment)))
    assert "SLUICE_KAFKA_PORT" in str(caught.value.remedy)
