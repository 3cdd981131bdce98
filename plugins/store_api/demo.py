"""Generates store traffic from a seed: an initial load, and a steady stream of changes."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Connection, cast, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql

from models.customer import Customer
from models.order import Order
from models.order_item import OrderItem
from models.product import Product
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.outage import Outages

_CITIES = {
    "Germany": ("Berlin", "Hamburg", "Munich"),
    "France": ("Paris", "Lyon", "Nantes"),
    "Japan": ("Tokyo", "Osaka", "Kyoto"),
    "USA": ("New York", "Chicago", "Seattle"),
    "Brazil": ("São Paulo", "Recife", "Curitiba"),
}
_CATEGORIES = {
    "Electronics": ("Headphones", "Keyboard", "Monitor", "Webcam"),
    "Books": ("Novel", "Atlas", "Cookbook", "Biography"),
    "Garden": ("Rake", "Planter", "Hose", "Lantern"),
    "Kitchen": ("Kettle", "Pan", "Knife", "Grinder"),
}
_NAMES = ("Ada", "Björn", "Chloé", "Diego", "Emi", "Farid", "Grace", "Hana", "Ivan", "Júlia")
_STATUSES = ("pending", "paid", "shipped", "delivered")

# The columns of an order, and those of its items.
_Order = tuple[dict[str, Any], list[dict[str, Any]]]


def load(
    settings: Settings, *, customers: int = 200, orders: int = 1500, seed: int = 42
) -> dict[str, int]:
    """Fill an empty store and change some rows; return the counts, empty if rows exist already."""
    chance = random.Random(seed)  # noqa: S311
    engine = make_engine(settings.postgres)
    with engine.begin() as connection:
        if connection.scalar(select(func.count()).select_from(Customer)):
            return {}
        _insert_customers(connection, chance, customers)
        _insert_products(connection, chance)
        ids = [connection.scalars(select(model.id)).all() for model in (Customer, Product)]
        made = [
            _order(chance, *(partial(chance.choice, some) for some in ids)) for _ in range(orders)
        ]
        _insert_orders(connection, made)
    done = Counter(customers=customers, orders=orders)
    traffic = Traffic(chance)
    for _ in range(400):
        with engine.begin() as connection:
            done[traffic.change(connection)] += 1
    engine.dispose()
    return dict(done)


def run(
    settings: Settings,
    *,
    rate: float,
    seconds: float,
    seed: int,
    report: Callable[[str], None] = lambda _: None,
) -> Counter[str]:
    """Change the store `rate` times per second for `seconds`; return counts by operation.

    While PostgreSQL does not answer it waits, and then continues at the same rate. Changes that
    another session's prevented are counted as `conflicts`.

    Raises:
        Unreachable: PostgreSQL does not answer at the beginning or at the end.
        NotReady, NeedsPerson: PostgreSQL refuses a change.
    """
    chance = random.Random(seed)  # noqa: S311
    where = f"PostgreSQL {settings.postgres.address}"
    engine, outages = make_engine(settings.postgres), Outages(where, report)
    traffic, done = Traffic(chance), Counter[str]()
    with outages.noted(), engine.begin() as connection:
        if not connection.scalar(select(func.count()).select_from(Product)):
            _insert_customers(connection, chance, 20)
            _insert_products(connection, chance)
    outages.require_ended()
    started = reported = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        if sum(done.values()) + outages.conflicts >= rate * (elapsed - outages.seconds()):
            time.sleep(min(0.01, 1 / rate))
            continue
        with outages.noted():
            with engine.begin() as connection:
                change = traffic.change(connection)
            done[change] += 1
        if time.monotonic() - reported > 5:
            reported = time.monotonic()
            report(f"{elapsed:.0f} s: {sum(done.values())} changes")
    engine.dispose()
    outages.require_ended()
    if outages.conflicts:
        done["conflicts"] = outages.conflicts
    return done


class Traffic:
    """Makes random changes, chosen by weight."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._operations: dict[str, tuple[int, Callable[[Connection], None]]] = {
            "new orders": (40, lambda c: _insert_order(c, chance)),
            "status changes": (25, self._change_status),
            "moved customers": (8, self._move_customer),
            "price changes": (8, self._change_price),
            "renamed products": (2, self._rename_product),
            "deleted orders": (12, self._delete_order),
            "new customers": (5, lambda c: _insert_customers(c, chance, 1)),
        }

    def change(self, connection: Connection) -> str:
        """Make one change; return its name."""
        names = list(self._operations)
        weights = [weight for weight, _ in self._operations.values()]
        (name,) = self._chance.choices(names, weights)
        self._operations[name][1](connection)
        return name

    def _change_status(self, connection: Connection) -> None:
        order = _any_id(connection, self._chance, Order)
        status = self._chance.choice(_STATUSES)
        connection.execute(update(Order).where(Order.id == order).values(status=status))

    def _move_customer(self, connection: Connection) -> None:
        customer = _any_id(connection, self._chance, Customer)
        country, city = _place(self._chance)
        change = update(Customer).where(Customer.id == customer)
        connection.execute(change.values(country=country, city=city))

    def _change_price(self, connection: Connection) -> None:
        product = _any_id(connection, self._chance, Product)
        price = _price(self._chance)
        connection.execute(update(Product).where(Product.id == product).values(price=price))

    def _rename_product(self, connection: Connection) -> None:
        product = _any_id(connection, self._chance, Product)
        name = f"{self._chance.choice(_NAMES)}'s choice {self._chance.randrange(1000)}"
        connection.execute(update(Product).where(Product.id == product).values(name=name))

    def _delete_order(self, connection: Connection) -> None:
        order = _any_id(connection, self._chance, Order)
        connection.execute(delete(OrderItem).where(OrderItem.order_id == order))
        connection.execute(delete(Order).where(Order.id == order))


def _any_id(connection: Connection, chance: random.Random, model: Any) -> int | None:
    """Return the first id above a random one; None for an empty table."""
    newest = select(func.max(model.id)).scalar_subquery()
    below = cast(func.floor(chance.random() * newest), BigInteger)
    first: int | None = connection.scalar(select(func.min(model.id)).where(model.id > below))
    return first


def _insert_customers(connection: Connection, chance: random.Random, count: int) -> None:
    rows = []
    for _ in range(count):
        name, (country, city) = chance.choice(_NAMES), _place(chance)
        email = f"{name.lower()}.{chance.getrandbits(48):012x}@example.com"
        rows.append({"email": email, "name": name, "country": country, "city": city})
    # A seed that is used again yields the same addresses.
    connection.execute(postgresql.insert(Customer).on_conflict_do_nothing(), rows)


def _insert_products(connection: Connection, chance: random.Random) -> None:
    rows = [
        {"name": name, "category": category, "price": _price(chance)}
        for category, names in _CATEGORIES.items()
        for name in names
    ]
    connection.execute(insert(Product), rows)


def _insert_order(connection: Connection, chance: random.Random) -> None:
    """Insert an order of a customer and of products that exist."""
    pick = partial(_any_id, connection, chance)
    _insert_orders(connection, [_order(chance, partial(pick, Customer), partial(pick, Product))])


def _order(
    chance: random.Random, customer: Callable[[], int | None], product: Callable[[], int | None]
) -> _Order:
    """Return an order of one to four items, its total being their sum."""
    items: list[dict[str, Any]] = [
        {"product_id": product(), "quantity": chance.randint(1, 5), "price": _price(chance)}
        for _ in range(chance.randint(1, 4))
    ]
    total = sum((item["quantity"] * item["price"] for item in items), Decimal(0))
    return {"customer_id": customer(), "status": chance.choice(_STATUSES), "total": total}, items


def _insert_orders(connection: Connection, orders: Sequence[_Order]) -> None:
    insertion = insert(Order).returning(Order.id, sort_by_parameter_order=True)
    ids = connection.scalars(insertion, [values for values, _ in orders])
    rows = [
        {**item, "order_id": order}
        for order, (_, items) in zip(ids, orders, strict=True)
        for item in items
    ]
    connection.execute(insert(OrderItem), rows)


def _place(chance: random.Random) -> tuple[str, str]:
    country = chance.choice(list(_CITIES))
    return country, chance.choice(_CITIES[country])


def _price(chance: random.Random) -> Decimal:
    return Decimal(chance.randint(200, 40_000)) / 100
