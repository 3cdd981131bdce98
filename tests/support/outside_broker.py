"""Another broker in the embedded one's place: `SLUICE_TEST_BROKER=host:port`, with librdkafka's
options as JSON in `SLUICE_TEST_BROKER_OPTIONS`.

Topics of the stacks on it have the same names. So one worker runs the tests, each module has a
stack of its own, and a stack that starts deletes the topics of the one before.
"""

from __future__ import annotations

import json
import os
from typing import Literal

import pytest
from confluent_kafka.admin import AdminClient

from sluice.settings import KafkaSettings
from tests.support.waiting import until

ONE_WORKER = "stacks on one broker have the same topics: run with one worker, without -n"


def outside() -> KafkaSettings | None:
    """The other broker; None without one."""
    address = os.environ.get("SLUICE_TEST_BROKER")
    if not address:
        return None
    if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
        pytest.exit(f"SLUICE_TEST_BROKER: {ONE_WORKER}", 4)
    options = json.loads(os.environ.get("SLUICE_TEST_BROKER_OPTIONS") or "{}")
    return KafkaSettings(bootstrap=address, options=options)


def outside_variables() -> dict[str, str]:
    """The variables of a stack on the other broker; none without one."""
    kafka = outside()
    if kafka is None:
        return {}
    return {
        "SLUICE_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "SLUICE_KAFKA_OPTIONS": json.dumps(dict(kafka.options)),
    }


def require_embedded(what: str) -> None:
    """Skip a test that does this to the broker, or with what it alone does."""
    if outside():
        pytest.skip(f"SLUICE_TEST_BROKER is set: {what}")


def services_scope(fixture_name: str, config: pytest.Config) -> Literal["module", "session"]:
    """The scope of services: those of a module are gone when the next one has its own."""
    return "module" if outside() else "session"


def forget(kafka: KafkaSettings) -> None:
    """Delete the topics of former stacks, with the groups' offsets in them."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, **kafka.options})

    def present() -> list[str]:
        listed = admin.list_topics(timeout=10).topics
        return [name for name in listed if name.startswith("cdc.")]

    if names := present():
        for future in admin.delete_topics(names).values():
            future.result()
        until(lambda: not present(), "the topics of former stacks are gone")
