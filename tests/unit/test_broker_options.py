"""What somebody who may edit a connection can make of librdkafka: every option that it has."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from sluice.capture.publisher import Publisher
from sluice.clients.broker import Broker
from sluice.clients.broker_options import ALLOWED
from sluice.clients.topics import Topics
from sluice.drain.kafka_log import KafkaLog
from sluice.errors import WrongUsage
from sluice.settings import KafkaSettings
from tests.support.librdkafka import librdkafka

# In a name: what loads a library, runs a command, touches files, calls back or logs.
DANGEROUS = re.compile(
    r"plugin|engine|provider|interceptor|cmd|kerberos|(^|[._])path|[._]file$|_cb$|_data$|opaque"
    r"|callback|^debug|^log|^statistics|signal|_cmp$|jwt|metadata.authentication|\.config$"
)


def options() -> frozenset[str]:
    """The names of all options of the library that is installed."""
    library, system = librdkafka(), ctypes.CDLL(None)
    system.tmpfile.restype = ctypes.c_void_p
    file = ctypes.c_void_p(system.tmpfile())
    library.rd_kafka_conf_properties_show(file)
    system.rewind(file)
    line = ctypes.create_string_buffer(1 << 16)
    lines = []
    while system.fgets(line, len(line), file):
        lines.append(line.value.decode())
    system.fclose(file)
    return frozenset(m[1] for text in lines if (m := re.match(r"([a-z_][\w.]*) +\|", text)))


OPTIONS = options()
NAMES = ("default.topic.config", "logger", "on_delivery", "on_commit", "oauth_cb", "no.such")
OTHERS = sorted((OPTIONS | set(NAMES)) - ALLOWED)


WAYS: tuple[Callable[[KafkaSettings], object], ...] = (
    KafkaLog,
    lambda chosen: Publisher(chosen, lambda: None),
    lambda chosen: Topics(chosen).epoch(),
)


def settings(**chosen: str) -> KafkaSettings:
    return KafkaSettings(bootstrap="127.0.0.1:1", options=chosen)


def test_every_option_that_can_be_set_is_librdkafkas_and_harmless_by_its_name() -> None:
    assert len(OPTIONS) > 150
    assert set() == ALLOWED - OPTIONS
    assert {name for name in ALLOWED if DANGEROUS.search(name)} == set()
    assert {"plugin.library.paths", "ssl.engine.location", "sasl.kerberos.kinit.cmd"} < set(OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_is_refused_by_name_and_its_value_is_not_told(name: str) -> None:
    broker = Broker(settings(**{name: "canary"}))
    for kind in (Producer, Consumer, AdminClient):
        with pytest.raises(WrongUsage) as refused:
            broker.client(kind, {"group.id": "g"})
        assert name in refused.value.what
        assert "canary" not in str(refused.value)


def test_a_library_is_not_loaded_and_a_command_not_run(tmp_path: Path) -> None:
    """As an attacker would, by each way that a client of the pipeline's is made."""
    ran = tmp_path / "ran"
    kerberos = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "GSSAPI",
        "sasl.kerberos.kinit.cmd": f"touch {ran}",
    }
    for chosen in ({"plugin.library.paths": str(tmp_path / "evil.so")}, kerberos):
        for made in WAYS:
            with pytest.raises(WrongUsage, match="cannot be set"):
                made(settings(**chosen))
    assert not ran.exists()
