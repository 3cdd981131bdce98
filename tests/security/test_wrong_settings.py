"""A wrong setting with a secret in it, or beside it, is told in a line without the secret."""

from __future__ import annotations

import json
import subprocess
from subprocess import PIPE
from typing import Any

import pytest

from sluice.settings import Settings
from tests.support.canaries import token
from tests.support.processes import SLUICE, command_environment
from tests.support.services import clickhouse_answers, free_ports
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.clickhouse_may_crash]

CANARY = token()
SASL = {"sasl.username": "me", "sasl.password": CANARY, "security.protocol": "SASL_PLAINTEXT"}
(CLOSED,) = map(str, free_ports(1))

WRONG: dict[str, tuple[str, Any]] = {
    "a password of PostgreSQL": ("POSTGRES_PASSWORD", CANARY),
    "a PostgreSQL that is down": ("POSTGRES_PORT", CLOSED),
    "an option that libpq does not know": ("POSTGRES_OPTIONS", {"no_such_option": CANARY}),
    "an option's value that libpq does not know": ("POSTGRES_OPTIONS", {"sslmode": "odd"}),
    "options of PostgreSQL that are no JSON": ("POSTGRES_OPTIONS", f'{{"sslpassword": "{CANARY}'),
    "a broker that is down": ("KAFKA_PORT", CLOSED),
    "a password by SASL": ("KAFKA_OPTIONS", {**SASL, "sasl.mechanisms": "PLAIN"}),
    "a password by SCRAM": ("KAFKA_OPTIONS", {**SASL, "sasl.mechanisms": "SCRAM-SHA-256"}),
    "TLS to a port without it": ("KAFKA_OPTIONS", {**SASL, "security.protocol": "SASL_SSL"}),
    "a key that is none": ("KAFKA_OPTIONS", {"security.protocol": "SSL", "ssl.key.pem": CANARY}),
    "an option that librdkafka does not know": ("KAFKA_OPTIONS", {**SASL, "no.such": CANARY}),
    "a value that librdkafka does not know": ("KAFKA_OPTIONS", {**SASL, "sasl.mechanisms": CANARY}),
    "a list for a value": ("KAFKA_OPTIONS", {**SASL, "sasl.password": [CANARY]}),
    "null for a value": ("KAFKA_OPTIONS", {**SASL, "sasl.username": None}),
    "options of the broker that are no object": ("KAFKA_OPTIONS", [CANARY]),
    "a password of ClickHouse": ("CLICKHOUSE_PASSWORD", CANARY),
    "a ClickHouse that is down": ("CLICKHOUSE_PORT", CLOSED),
    "an option that the driver does not know": ("CLICKHOUSE_OPTIONS", {"no_such": CANARY}),
    "a setting that is no number": ("CLICKHOUSE_OPTIONS", {"settings": {"max_threads": "odd"}}),
    "a webhook that is no address": ("ALERT_WEBHOOK", CANARY),
    "a mail server that is no address": ("ALERT_SMTP", f"smtp://me:{CANARY}@host:port"),
}


@pytest.fixture(params=list(WRONG.values()), ids=list(WRONG))
def environment(request: pytest.FixtureRequest, services: Settings) -> dict[str, str]:
    """Variables of the services, and a wrong one; the others' secrets are there as well."""
    name, value = request.param
    beside = {"SLUICE_KAFKA_OPTIONS": json.dumps({"sasl.username": "me", "sasl.password": CANARY})}
    return {
        **command_environment(services),
        **beside,
        f"SLUICE_{name}": value if isinstance(value, str) else json.dumps(value),
    }


def test_it_is_told_in_a_line_without_a_secret(
    environment: dict[str, str], services: Settings
) -> None:
    commands = (["doctor"], ["drain", "orders"])
    running = [
        subprocess.Popen([SLUICE, *command], env=environment, stdout=PIPE, stderr=PIPE, text=True)
        for command in commands
    ]
    for process in running:
        printed, told = process.communicate(timeout=300)
        assert CANARY.rstrip("=") not in printed + told
        assert "Traceback" not in printed + told, told
        assert len(told.splitlines()) <= 2, told
    assert max(process.returncode for process in running) in {1, 2, 3, 4}
    until(lambda: clickhouse_answers(services), "ClickHouse answers", 180)
