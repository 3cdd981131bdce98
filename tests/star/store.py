"""The store as Postgres would have it: its state, its change events, and its own join."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from models import generated
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.decoder import Decoder
from sluice.drain.drain import Drain
from sluice.drain.in_memory import MemoryLog
from sluice.errors import StaleRebuild
from sluice.events.positions import format_lsn
from sluice.settings import ClickHouseSettings, DrainSettings
from sluice.star import create as warehouse
from sluice.star.rebuild import Rebuild

CATALOG = load_catalog("models")
FACT = CATALOG.facts[0]
TABLES = [table.name for table in CATALOG.tables]
DECODERS = {
    table.name: Decoder(table, getattr(generated, f"{table.model}Event"))
    for table in CATALOG.tables
}
DAY = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
FIRST, LAST = DAY.date(), DAY.date() + timedelta(days=9)
NOTHING = (None,) * 5
Row = dict[str, Any]


class Store:
    """Rows by table and key; each change is an event on the log."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, Row]] = {table: {} for table in TABLES}
        self.log = MemoryLog([f"cdc.{table}" for table in TABLES])
        # Every state that a key ever had, as the fact shows it.
        self.past: dict[tuple[str, int], set[tuple[Any, ...]]] = defaultdict(set)
        self._position = 100

    def write(self, table: str, key: int, **values: Any) -> None:
        """Insert the row, or update it."""
        operation = "update" if key in self.rows[table] else "insert"
        self.rows[table][key] = {"id": key, **values}
        self._emit(table, operation, self.rows[table][key])
        self.past[table, key].add(shown(table, self.rows[table][key]))

    def delete(self, table: str, key: int) -> None:
        """Delete the row, if it is there."""
        if self.rows[table].pop(key, None):
            self._emit(table, "delete", {"id": key})

    def move(self, table: str, key: int, to: int) -> None:
        """Give the row another key, if that is free."""
        row = self.rows[table].get(key)
        if row is None or to in self.rows[table]:
            return
        del self.rows[table][key]
        self.rows[table][to] = {**row, "id": to}
        self._emit(table, "update", self.rows[table][to], {"id": key})
        self.past[table, to].add(shown(table, self.rows[table][to]))

    def truncate(self, table: str) -> None:
        """Delete all rows of one table, whatever refers to them."""
        self.rows[table].clear()
        self._emit(table, "truncate", None)

    def _emit(self, table: str, operation: str, row: Row | None, before: Row | None = None) -> None:
        self._position += 1
        place = {"lsn": "0/1", "commit_lsn": format_lsn(self._position), "ordinal": 1}
        metadata = {"source": "relay", "table": table, "operation": operation, "commit_ts_ms": 1}
        event = {"metadata": {**metadata, **place}, "payload": row, "before": before}
        self.log.produce(f"cdc.{table}", json.dumps(event).encode())

    def join(self) -> list[tuple[Any, ...]]:
        """The fact as the source gives it: a left join, ordered by key."""
        rows = []
        for key, item in sorted(self.rows["order_items"].items()):
            order = self.rows["orders"].get(item["order_id"])
            customer = self.rows["customers"].get(order["customer_id"]) if order else None
            product = self.rows["products"].get(item["product_id"])
            rows.append(
                (
                    key,
                    *shown("order_items", item),
                    *shown("orders", order),
                    *shown("customers", customer),
                    *shown("products", product),
                )
            )
        return rows

    def revenue(self) -> list[tuple[Any, ...]]:
        """Facts, units and revenue by day, country and category."""
        facts, units = Counter[Any](), Counter[Any]()
        revenue: dict[Any, Decimal] = defaultdict(Decimal)
        for _, _, _, quantity, price, _, ordered, _, _, _, country, *_, category in self.join():
            group = (ordered.date() if ordered else None, country, category)
            facts[group] += 1
            units[group] += quantity
            revenue[group] += quantity * price
        return sorted(
            ((*group, facts[group], units[group], revenue[group]) for group in facts), key=repr
        )


def shown(table: str, row: Row | None) -> tuple[Any, ...]:
    """What the test's query shows of a source row."""
    if row is None:
        return NOTHING[: {"orders": 4, "customers": 2, "products": 2}[table]]
    if table == "order_items":
        return row["order_id"], row["product_id"], row["quantity"], Decimal(row["price"])
    if table == "orders":
        ordered = datetime.fromisoformat(row["order_date"])
        return row["customer_id"], ordered, row["status"], Decimal(row["total"])
    return (row["name"], row["country" if table == "customers" else "category"])


QUERY = """
SELECT order_item_id, order_id, product_id, quantity, price, customer_id, order_date, order_status,
    order_total, customer_name, customer_country, product_name, product_category
FROM olap.fact_order_item ORDER BY order_item_id
"""
REVENUE = "SELECT day, country, category, facts, units, revenue FROM olap.revenue_by_day"


FEW = 9  # rows of a range, of the two dozen that are seeded


class Pipeline:
    """Drains and rebuilds of one store on one ClickHouse; begins with empty tables."""

    def __init__(self, settings: ClickHouseSettings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.clickhouse = ClickHouse(settings)
        for (name,) in self.clickhouse.execute(
            "SELECT name FROM system.tables WHERE database = 'cdc' AND engine LIKE '%MergeTree'"
        ):
            gone = "__shadow" in name or "__kept" in name
            self.clickhouse.execute(f"{'DROP' if gone else 'TRUNCATE'} TABLE cdc.{name} SYNC")

    def close(self) -> None:
        """End the session."""
        self.clickhouse.close()

    def drain(self, table: str, events: int = 1000) -> None:
        """Drain about this many events of a table."""
        limits = DrainSettings(
            events=events,
            seconds=10,
            chunk=events,
            chunk_bytes=1 << 25,
            reject_ratio=0.5,
            reject_run=1000,
        )
        with closing(ClickHouse(self.settings)) as clickhouse:
            store = ClickHouseStore(clickhouse)
            report = Drain(changes=self.store.log, store=store, limits=limits).run(DECODERS[table])
        assert report.rejected == 0

    def rebuild(self, clickhouse: ClickHouse | None = None, **options: Any) -> Rebuild:
        """The fact's rebuild, in ranges so small that it has several."""
        plain = warehouse.make_rebuild(clickhouse or self.clickhouse, FACT)
        options = {"range_rows": FEW, "progress": lambda _: None, **options}
        parts = {name: getattr(plain, name) for name in ("clickhouse", "fact", "star", "queries")}
        return Rebuild(**parts, **options)

    def settle(self) -> None:
        """Drain everything and rebuild until nothing has changed."""
        for table in TABLES:
            self.drain(table)
        for _ in range(5):
            try:
                if self.rebuild().run().mode == "none":
                    return
            except StaleRebuild:
                continue
        raise AssertionError("the rebuild never finds that nothing has changed")

    def facts(self) -> list[tuple[Any, ...]]:
        """What readers see."""
        return self.clickhouse.execute(QUERY)

    def revenue(self) -> list[tuple[Any, ...]]:
        """What readers see of the rollup."""
        return sorted(self.clickhouse.execute(REVENUE), key=repr)

    def require_equal(self) -> None:
        """The fact is the source's join, and the rollup its sums."""
        assert self.facts() == self.store.join()
        assert self.revenue() == self.store.revenue()

    def require_possible(self) -> None:
        """Readers see each fact once, made of rows that its keys once had."""
        facts, past = self.facts(), self.store.past
        keys = [fact[0] for fact in facts]
        assert len(keys) == len(set(keys))
        for key, *values in facts:
            item, order = tuple(values[:4]), tuple(values[4:8])
            customer, product = tuple(values[8:10]), tuple(values[10:])
            assert item in past["order_items", key]
            for table, at, row in (
                ("orders", item[0], order),
                ("customers", order[0], customer),
                ("products", item[1], product),
            ):
                assert row in past[table, at] | {shown(table, None)}


def day(offset: int) -> date:
    """A day of the store."""
    return FIRST + timedelta(days=offset)


def seeded(orders: int = 12) -> Store:
    """A store with a few of everything."""
    store = Store()
    for key in range(1, 4):
        store.write("customers", key, **customer(key, key))
        store.write("products", key, **product(key, key))
    for key in range(1, orders + 1):
        store.write("orders", key, **order(key % 3 + 1, key % 10))
        store.write("order_items", key, **item(key, key % 3 + 1, key))
        store.write("order_items", key + 100, **item(key, (key + 1) % 3 + 1, key))
    return store


def customer(version: int, country: int) -> Row:
    """A customer's values."""
    return {
        "name": f"c{version}",
        "email": f"{version}@x",
        "country": f"land{country % 2}",
        "city": "x",
        "created_at": "2026-01-01T00:00:00Z",
    }


def product(version: int, category: int) -> Row:
    """A product's values."""
    return {
        "name": f"p{version}",
        "category": f"kind{category % 2}",
        "price": "1",
        "created_at": "2026-01-01T00:00:00Z",
    }


def order(of: int, offset: int, version: int = 1) -> Row:
    """An order's values."""
    ordered = DAY + timedelta(days=offset)
    return {
        "customer_id": of,
        "order_date": ordered.isoformat(),
        "status": f"s{version}",
        "total": "9.90",
    }


def item(of: int, what: int, quantity: int) -> Row:
    """An item's values."""
    return {"order_id": of, "product_id": what, "quantity": quantity, "price": "1.25"}
