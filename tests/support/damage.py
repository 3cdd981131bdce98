"""Damage that tests do: wrong rows in ClickHouse, a topic that is made again."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient

from sluice import wiring
from sluice.clients.topics import Topics
from sluice.settings import Settings
from tests.support.pipeline import checked


def corrupt(settings: Settings) -> None:
    """A row lost, a row too many, a value changed, a delete lost, in the dimension and the fact.

    Both sides are equal before: the fact keeps a row that is lost before the truncation that ends
    it is drained, until a full rebuild.
    """
    checked(settings)
    sql = [
        "DELETE FROM cdc.src_order_item WHERE id IN"
        " (SELECT id FROM cdc.src_order_item FINAL ORDER BY id LIMIT 3)",
        "INSERT INTO cdc.src_order_item (id, order_id, product_id, quantity, price, _version)"
        " SELECT 900000, order_id, product_id, 1, 1, _version + 1"  # newer than a truncation
        " FROM cdc.src_order_item FINAL LIMIT 1",
        "INSERT INTO cdc.src_order_item SELECT * REPLACE (quantity + 1 AS quantity,"
        " _version + 1 AS _version) FROM cdc.src_order_item FINAL ORDER BY id DESC LIMIT 2",
    ]
    for statement in sql:
        wiring.query(settings, statement)


def make_again(settings: Settings, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap, **settings.kafka.options})
    for future in admin.delete_topics([topic]).values():
        future.result()
    Topics(settings.kafka).ensure([topic])
