"""Messages that any producer can send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from confluent_kafka import Producer

from sluice.clients.broker import Broker
from sluice.settings import KafkaSettings, Settings


def product_event(key: int, operation: str = "insert", **metadata: Any) -> bytes:
    """Return an event of the table `products` that the models accept."""
    place = {"lsn": "0/1", "commit_lsn": "0/10", "ordinal": key, "commit_ts_ms": 1}
    head = {"source": "relay", "table": "products", "operation": operation, **place, **metadata}
    created = "2026-01-01T00:00:00Z"
    row = {"id": key, "name": "chair", "category": "c", "price": "1.00", "created_at": created}
    return json.dumps({"metadata": head, "payload": row, "before": None}).encode()


def send(
    settings: Settings, topic: str, *messages: dict[str, Any], ending: str = "", **options: Any
) -> None:
    """Send messages, each given as `Producer.produce` takes it, in their order.

    Args:
        ending: commit or abort, of a transaction of all. Default: none, without a transaction.
    """
    named = {"transactional.id": uuid4().hex} if ending else {}
    producer = Broker(settings.kafka).client(Producer, {"linger.ms": 1000, **named, **options})
    if ending:
        producer.init_transactions(30)
        producer.begin_transaction()
    failures: list[Any] = []
    for message in messages:
        producer.produce(
            topic, on_delivery=lambda error, _: failures.append(error) if error else None, **message
        )
    assert producer.flush(30) == 0
    assert failures == []
    if ending:
        getattr(producer, f"{ending}_transaction")(30)


@contextmanager
def transaction(settings: KafkaSettings, topic: str, *values: bytes) -> Iterator[Producer]:
    """Send messages in a transaction, which is open during the context unless that ends it."""
    producer = Broker(settings).client(Producer, {"transactional.id": uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value=value)
    assert producer.flush(30) == 0
    yield producer
    producer.purge()
