"""A table that is read in five ranges, and what is noted of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import checked, relaying

ITEMS = load_catalog("models").table("order_items")
ROWS = 84
# Always as many rows, whatever orders and products there are by now.
STOCK = """
INSERT INTO order_items (id, order_id, product_id, quantity, price)
SELECT n, o.id, p.id, 1 + n % 5, n FROM generate_series(1, 420) n
JOIN (SELECT id, row_number() OVER () AS nth, count(*) OVER () AS total FROM orders) o
  ON o.nth = 1 + n % o.total
JOIN (SELECT id, row_number() OVER () AS nth, count(*) OVER () AS total FROM products) p
  ON p.nth = 1 + n % p.total
"""


@pytest.fixture(scope="module")
def engine(services: Settings) -> Iterator[Engine]:
    made = make_engine(services.postgres)
    load(services, customers=50, orders=300, seed=1)
    with relaying(services):
        checked(services)
        yield made
    made.dispose()


def restock(engine: Engine) -> None:
    """Other items, as many as are read in five ranges."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE order_items"))
        connection.execute(text(STOCK))


@pytest.fixture(autouse=True)
def forgotten(services: Settings, engine: Engine) -> None:
    """Nothing is left of earlier runs, which may have deleted many rows."""
    restock(engine)
    wiring.query(services, "TRUNCATE TABLE cdc.resync_ranges")


def states(settings: Settings) -> dict[str, int]:
    """State -> ranges of the newest run."""
    query = (
        "SELECT state, count() FROM (SELECT toString(max(state)) AS state FROM cdc.resync_ranges"
        " WHERE run = (SELECT argMax(run, noted_at) FROM cdc.resync_ranges) GROUP BY number)"
        " GROUP BY state"
    )
    return dict(wiring.query(settings, query)[1])
