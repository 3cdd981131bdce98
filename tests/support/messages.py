"""Messages that any producer can send."""

from __future__ import annotations

import json
from typing import Any

from confluent_kafka import Producer

from sluice.clients.broker import Broker
from sluice.settings import Settings


def product_event(key: int, operation: str = "insert", **metadata: Any) -> bytes:
    """Return an event of the table `products` that the models accept."""
    place = {"lsn": "0/1", "commit_lsn": "0/10", "ordinal": key, "commit_ts_ms": 1}
    head = {"source": "relay", "table": "products", "operation": operation, **place, **metadata}
    created = "2026-01-01T00:00:00Z"
    row = {"id": key, "name": "chair", "category": "c", "price": "1.00", "created_at": created}
    return json.dumps({"metadata": head, "payload": row, "before": None}).encode()


def send(settings: Settings, topic: str, *messages: dict[str, Any], **options: Any) -> None:
    """Send messages, each given as `Producer.produce` takes it, in their order."""
    producer = Broker(settings.kafka).client(Producer, {"linger.ms": 1000, **options})
    failures: list[Any] = []
    for message in messages:
        producer.produce(
            topic, on_delivery=lambda error, _: failures.append(error) if error else None, **message
        )
    assert producer.flush(30) == 0
    assert failures == []
