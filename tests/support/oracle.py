"""What Postgres says the fact is."""

from __future__ import annotations

import random
from typing import Any

from sqlalchemy import Engine, text

from sluice import wiring
from sluice.settings import Settings
from store_api.demo import Traffic

JOIN = """
SELECT i.id, i.order_id, i.product_id, o.customer_id, i.quantity, i.price, o.order_date, o.status,
    o.total, c.email, c.name, c.country, c.city, c.created_at, p.name, p.category, p.price,
    p.created_at
FROM order_items i JOIN orders o ON o.id = i.order_id JOIN customers c ON c.id = o.customer_id
JOIN products p ON p.id = i.product_id ORDER BY i.id
"""


def joined(engine: Engine) -> list[tuple[Any, ...]]:
    """The fact's rows as Postgres' own join gives them."""
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(JOIN))]


def facts(settings: Settings) -> list[tuple[Any, ...]]:
    """The fact's rows as people query them."""
    return wiring.query(settings, "SELECT * FROM olap.fact_order_item ORDER BY order_item_id")[1]


def change(engine: Engine, chance: random.Random, changes: int) -> None:
    """So many random inserts, updates and deletes, key changes among them."""
    traffic = Traffic(chance)
    for step in range(changes):
        with engine.begin() as connection:
            traffic.change(connection)
            if step % 100 == 50:
                connection.execute(
                    text("UPDATE order_items SET id = id + 1000000 WHERE id % 97 = :least"),
                    {"least": chance.randrange(97)},
                )
            if step % 500 == 250:
                connection.execute(text("UPDATE order_items SET id = -id WHERE id % 53 = 0"))
